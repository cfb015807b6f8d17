"""Claims that arithmetic answers, without fit or simulation: (value, what was worked out) of a question's values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moesim.engines.speculation import geometric, tokens_a_round
from moesim.experts.capacity import Capacity, dropped_share, waste
from moesim.experts.routing import loads
from moesim.inputs.claims_file import FOLDER
from moesim.inputs.routing import Uniform
from moesim.models.catalogue import load_model
from moesim.models.model import Model

Answer = tuple[float, str]
_MOST_DRAFTS = 1000


def _model(name: str) -> Model:
    own = FOLDER / "models" / name
    return load_model(str(own) if Path(own).is_dir() else name)


def speculation_speed_up(v: dict[str, Any]) -> Answer:
    """``(1 - a^(g+1)) / ((1 - a) (g c + 1))`` (Leviathan et al., arXiv 2211.17192, theorem 3.8)."""
    if not 0 < v["drafts"] <= _MOST_DRAFTS:
        raise ValueError(f"{v['drafts']} drafts; from 1 to {_MOST_DRAFTS} are accepted")
    tokens = tokens_a_round(geometric(v["rate"], v["drafts"]))
    value = tokens / (v["drafts"] * v["cost"] + 1)
    return value, f"{tokens:.3g} tokens a round of {v['drafts'] * v['cost'] + 1:.3g} target steps"


def slots_over_tokens(v: dict[str, Any]) -> Answer:
    value = waste(loads(Uniform(), v["experts"], v["top_k"]), v["tokens"], Capacity(v.get("factor"), v.get("share")))
    return value, f"E C / (k N) at N = {v['tokens']:,}"


def dropped_percent(v: dict[str, Any]) -> Answer:
    value = dropped_share(loads(Uniform(), v["experts"], v["top_k"]), v["tokens"], Capacity(v["factor"], None))
    return 100 * value, f"E[(X - C)+] over its mean at N = {v['tokens']:,}"


def flop_percent(v: dict[str, Any]) -> Answer:
    """FLOP a token of one model over another's."""
    one, other = (_model(v[name]).flop_per_token for name in ("model", "over"))
    return 100 * one / other, f"{one / 1e9:,.0f} over {other / 1e9:,.0f} GFLOP a token"


def active_ratio(v: dict[str, Any]) -> Answer:
    """Parameters that a token passes, of one model over another's."""
    one, other = (_model(v[name]).active_parameters for name in ("model", "over"))
    return one / other, f"{one / 1e9:.3g} over {other / 1e9:.3g} billion active parameters"


FORMULAS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    function.__name__: function
    for function in (
        speculation_speed_up, slots_over_tokens, dropped_percent, flop_percent, active_ratio,
    )
}  # fmt: skip
