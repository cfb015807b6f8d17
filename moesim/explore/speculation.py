"""When speculation pays: what a round takes at a load, how many tokens it must give, and how many drafts are best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.assembly import assemble
from moesim.engines.speculation import rate_of_length, tokens_a_round
from moesim.errors import SpecError
from moesim.inputs.model_of import seen
from moesim.inputs.scenario import Scenario
from moesim.outcome import Prediction, Served, Steady

_MOST = 8
"""Drafts that are tried, where a scenario does not ask for more."""


@dataclass(frozen=True)
class Round:
    """A decode step with some number of drafts, as the last one left them, for all sequences."""

    drafts: int
    seconds: float
    drafting_s: float
    """Of these, spent on drafting."""
    tokens: float
    """That come out, a sequence."""
    pays_above: float
    """Tokens that must come out to be faster than without drafts."""
    rate_needed: float | None
    """Acceptance rate that gives as many; None where not even all drafts kept are enough."""

    @property
    def seconds_a_token(self) -> float:
        return self.seconds / self.tokens


@dataclass(frozen=True)
class Speculation:
    """Rounds at one load."""

    sequences: int
    """On a data-parallel replica."""
    context: int
    plain_s: float
    """A step without drafts. [s]"""
    here: Round
    """As the scenario has it."""
    tried: tuple[Round, ...]
    """With 1, 2, ... drafts."""

    @property
    def best(self) -> int:
        """Drafts that give a token fastest; 0 where none do."""
        fastest = min(self.tried, key=lambda r: r.seconds_a_token)
        return fastest.drafts if fastest.seconds_a_token < self.plain_s else 0


def speculation(prediction: Prediction) -> Speculation | None:
    """When drafts pay at the load of a prediction; None where its engine drafts nothing."""
    scenario = prediction.scenario
    config = scenario.engine.drafts
    if config is None:
        return None
    sequences, context = _load(prediction)
    plain_s, _ = _step(scenario.with_(engine__speculative_config=None), sequences, context)
    given = config.num_speculative_tokens
    most = len(config.acceptance_rates) if config.acceptance_rates is not None else max(given, _MOST)

    def with_drafts(count: int) -> Round:
        data = config.model_dump() | {"num_speculative_tokens": count}
        if config.acceptance_length is not None:
            rate = rate_of_length(config.acceptance_length, given)
            data |= {"acceptance_length": None, "acceptance_rate": rate}
        changed = scenario.with_(engine__speculative_config=data)
        drafts = changed.engine.drafts
        assert drafts is not None
        seconds, drafting = _step(changed, sequences, context)
        needed = seconds / plain_s
        rate = rate_of_length(needed, count) if needed <= 1 + count else None
        return Round(count, seconds, drafting, tokens_a_round(drafts.kept), needed, rate)

    tried = []
    for count in range(1, most + 1):
        try:
            tried.append(with_drafts(count))
        except SpecError:
            # More drafts than the plan or the budget has room for.
            break
    here = next((r for r in tried if r.drafts == given), None) or with_drafts(given)
    return Speculation(sequences, context, plain_s, here, tuple(tried))


def _load(prediction: Prediction) -> tuple[int, int]:
    """(sequences that decode at once on a replica, their mean context)."""
    load, engine = seen(prediction.scenario).workload, prediction.scenario.engine
    context = int(load.mean_input_len + load.mean_output_len / 2)
    if isinstance(prediction, Steady):
        return max(round(prediction.state.running), 1), context
    if isinstance(prediction, Served):
        items = prediction.report.decode_steps.items
        if items:
            middle = sorted(items, key=lambda item: item.decodes)[len(items) // 2]
            return max(middle.decodes, 1), int(middle.context)
    return -(-load.size // engine.data_parallel_size), context


def _step(scenario: Scenario, sequences: int, context: int) -> tuple[float, float]:
    """(a decode step, what of it drafts). [s]"""
    steps = assemble(scenario).steps
    cost = steps.cost("decode", steps.load((steps.rank.decoding(sequences, context),)), sequences)
    drafting: Any = sum(child.total for child in cost.children if child.name == "drafts")
    return float(cost.seconds), float(drafting)
