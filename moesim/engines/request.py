"""One request as an engine sees it: what it asks for, and how far the engine is with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Segment = tuple[int, int]
"""(number of a text, tokens of it): prompts that begin with equal segments share that prefix."""


@dataclass(slots=True, eq=False)
class Request:
    """A request and its progress."""

    number: int
    prompt_len: int
    output_len: int
    sent_s: float = 0.0
    """When its client sent it. [s]"""
    images: int = 0
    """At the beginning of its prompt, one behind the other."""
    image_tokens: int = 0
    """Of each."""
    segments: tuple[Segment, ...] = ()
    """Of the prompt; empty is a text of its own."""
    computed: int = 0
    """Tokens whose keys and values are, or are about to be, in the cache."""
    emitted: int = 0
    """Output tokens the scheduler knows of."""
    placeholders: int = 0
    """Output tokens under way (asynchronous scheduling)."""
    eligible_step: int = 0
    """The first step that may compute its next token: a pipeline must have handed the last one back."""
    blocks: list[Any] = field(default_factory=list)
    """KV blocks held: their numbers, or how many where identity does not matter."""
    keyed: int = 0
    """Full blocks of these known to the prefix cache."""
    room: int = 0
    """Tokens that the blocks held have room for."""
    next_full: float = float("inf")
    """Final tokens at which one more of its blocks may be found again."""
    running: bool = False
    loaded: int = 0
    """Tokens whose keys and values came from another engine; gone once the request loses its blocks."""
    rounds: int = 0
    """Rounds of drafts that have been checked for it."""
    preemptions: int = 0
    first_token_s: float = -1.0
    last_token_s: float = -1.0

    def images_in(self, past: int, tokens: int) -> int:
        """Images that begin among the next ``tokens`` tokens behind ``past``."""
        if not self.images:
            return 0
        first, last = (min(-(-n // self.image_tokens), self.images) for n in (past, past + tokens))
        return last - first

    @property
    def known(self) -> int:
        """Prompt and output tokens the scheduler knows of."""
        return self.prompt_len + self.emitted

    @property
    def finished(self) -> bool:
        return self.emitted >= self.output_len
