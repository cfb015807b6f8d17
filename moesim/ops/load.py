"""What a step computes: groups of sequences, each in one phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

Phase = Literal["prefill", "decode", "verify"]


class Group(NamedTuple):
    """``sequences`` sequences that each compute ``query`` new tokens after ``past`` cached ones.

    ``prefill`` reads a prompt, ``decode`` computes one token to get the next, ``verify`` checks several drafted tokens
    at once. Fields other than the phase may be arrays over steps.
    """

    sequences: Any
    query: Any
    past: Any
    phase: Phase = "prefill"

    @classmethod
    def decode(cls, sequences: Any, past: Any) -> Group:
        return cls(sequences, 1, past, "decode")

    @classmethod
    def verify(cls, sequences: Any, query: Any, past: Any) -> Group:
        return cls(sequences, query, past, "verify")

    @property
    def generates(self) -> bool:
        """Whether its sequences are past their prompts."""
        return self.phase != "prefill"

    @property
    def tokens(self) -> Any:
        return self.sequences * self.query


class OverGroups:
    """What an operation over groups of sequences has, whatever it keeps of them."""

    __slots__ = ()
    groups: tuple[Group, ...]

    arithmetic = "bfloat16"
    of_context = True

    @property
    def tokens(self) -> Any:
        return sum(g.tokens for g in self.groups)


def by_phase(groups: tuple[Group, ...]) -> list[tuple[Phase, tuple[Group, ...]]]:
    """Groups of equal phase together: other kernels run each."""
    found: dict[Phase, list[Group]] = {}
    for group in groups:
        found.setdefault(group.phase, []).append(group)
    return [(phase, tuple(of)) for phase, of in found.items()]


@dataclass(frozen=True)
class Load:
    """What a step computes, and how many rows it is padded to for a CUDA graph."""

    groups: tuple[Group, ...]
    padded_tokens: Any
    """Rows every dense operation sees."""
    graph: Any
    """Whether a CUDA graph runs it."""
    source_len: Any = 0
    """Encoder tokens a decoder layer attends across (encoder-decoder models)."""
    images: Any = 0
    """Images that pass the tower first."""
    first: Any = False
    """Whether it is the first of a run: what is cached by use is not there yet."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the steps it describes; () is one."""
        return np.broadcast_shapes(*(np.shape(x) for group in self.groups for x in group))

    @property
    def sequences(self) -> Any:
        return sum(g.sequences for g in self.groups)

    @property
    def tokens(self) -> Any:
        """Rows that are tokens."""
        return sum(g.tokens for g in self.groups)

    @property
    def checked(self) -> Any:
        """Drafted tokens that it checks."""
        return sum(g.sequences * (g.query - 1) for g in self.groups if g.phase == "verify")

    @property
    def only_generates(self) -> bool:
        """Whether no prompt is in it."""
        return all(g.generates for g in self.groups)
