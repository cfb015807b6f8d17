"""The longest context a model is made for, as vLLM derives it from config.json."""

from __future__ import annotations

from typing import Any

from moesim.errors import Problem
from moesim.models.config_fields import Fields

_LIMITS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
_KEPT = {"su", "longrope", "llama3", "mrope", "default", "proportional", ""}
"""Kinds of rope scaling whose factor is in the limit already."""


def longest_context(f: Fields) -> int | None:
    """Positions of the model: the smallest limit it names, times the factor of a rope scaling that stretches it.

    Gemma 3 names the stretched limit itself. Source: vLLM config/model.py, _get_and_verify_max_len.
    """
    limits = [value for name in _LIMITS if (value := f.optional(name)) is not None]
    if not limits:
        return None
    # What a tokenizer's own limit says goes before all others, as in vLLM.
    longest = f.optional("model_max_length") or min(limits)
    if str(f.data.get("model_type")).startswith("gemma3"):
        return longest
    factor: float = 1
    for rope in _scalings(f):
        kind = str(rope.get("rope_type") or rope.get("type") or "")
        if kind in _KEPT or rope.get("factor") is None:
            continue
        factor = rope["factor"]
        if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 0 < factor < 1e6:
            f.problems.append(Problem(f"the rope scaling's 'factor' is {factor!r}; a number is expected", f.source))
            return longest
        original = rope.get("original_max_position_embeddings")
        if kind in {"yarn", "deepseek_yarn"} and original is not None:
            if not isinstance(original, int) or original <= 0:
                said = f"the rope scaling's 'original_max_position_embeddings' is {original!r}; positions are expected"
                f.problems.append(Problem(said, f.source))
                return longest
            longest = original
    return int(longest * factor)


def _scalings(f: Fields) -> list[dict[str, Any]]:
    """The rope scaling under either name; several where they are given by layer type."""
    for name in ("rope_scaling", "rope_parameters"):
        said = f.section(name)
        if said and all(isinstance(value, dict) for value in said.values()):
            return list(said.values())
        if said:
            return [said]
    return []
