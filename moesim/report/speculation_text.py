"""When drafts pay, as text and as data."""

from __future__ import annotations

from typing import Any

from moesim.explore.speculation import Round, Speculation, speculation
from moesim.outcome import Prediction


def speculation_lines(prediction: Prediction) -> list[str]:
    """The break-even and the best number of drafts at a prediction's load; nothing where none are drafted."""
    found, config = speculation(prediction), prediction.scenario.engine.drafts
    if found is None or config is None:
        return []
    here = found.here
    sequences = f"{found.sequences} sequence{'s' if found.sequences > 1 else ''}"
    lines = [
        "",
        f"speculation ({config.method}{f' {config.model}' if config.model else ''}): {here.drafts} drafts, "
        f"{here.tokens:.3g} of at most {1 + here.drafts} tokens a round",
        f"  a round of {sequences} at context {found.context:,} takes {_ms(here.seconds)}, {_ms(here.drafting_s)} of "
        f"it to draft; a step without drafts {_ms(found.plain_s)}",
        f"  {_verdict(found)}",
        f"  {'drafts':>8}{'round':>12}{'tokens':>9}{'a token':>12}   pays above",
    ]
    lines += [f"  {r.drafts:>8}{_ms(r.seconds):>12}{r.tokens:>9.3g}{_ms(r.seconds_a_token):>12}   {_needs(r)}"
              for r in found.tried]  # fmt: skip
    best = (
        f"{found.best} draft{'s' if found.best > 1 else ''}"
        if found.best
        else "none: a step without drafts gives a token sooner"
    )
    return [*lines, f"  best at this load and acceptance: {best}"]


def _verdict(found: Speculation) -> str:
    gain = found.plain_s / found.here.seconds_a_token
    return f"it pays above {_needs(found.here)}; here a token comes {gain:.3g} times as fast as without"


def _needs(one: Round) -> str:
    if one.rate_needed is None:
        return f"{one.pays_above:.3g} tokens a round, more than all its drafts give"
    return f"{one.pays_above:.3g} tokens a round (acceptance rate {one.rate_needed:.2f})"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"


def speculation_data(prediction: Prediction) -> dict[str, Any] | None:
    """The same for programs, in SI units."""
    found = speculation(prediction)
    if found is None:
        return None
    rounds = [
        {
            "num_speculative_tokens": r.drafts, "round_s": r.seconds, "drafting_s": r.drafting_s, "tokens": r.tokens,
            "pays_above_tokens": r.pays_above, "pays_above_acceptance_rate": r.rate_needed,
        }
        for r in found.tried
    ]  # fmt: skip
    return {
        "sequences": found.sequences, "context": found.context, "step_without_s": found.plain_s,
        "tokens_a_round": found.here.tokens, "pays_above_tokens": found.here.pays_above,
        "best_num_speculative_tokens": found.best, "rounds": rounds,
    }  # fmt: skip
