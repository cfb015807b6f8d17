"""Speculation that no engine of the version runs, or that a model cannot have (vLLM config/speculative.py)."""

from __future__ import annotations

from collections.abc import Iterator

from moesim.engines.engine import Engine, Limits
from moesim.engines.speculation import SpeculativeConfig
from moesim.errors import SpecError
from moesim.inputs.plan_checks import Finding
from moesim.inputs.scenario import Scenario
from moesim.models.model import Model
from moesim.models.plan import Plan


def speculation_findings(scenario: Scenario, model: Model, engine: Engine, limits: Limits) -> Iterator[Finding]:
    """Every reason, as (location, sentence)."""
    config, settings = scenario.engine.drafts, scenario.engine
    if config is None:
        return
    file, where = engine.file.speculation, ("engine", "speculative_config")
    if config.method not in file.methods:
        yield (*where, "method"), f"{engine.title} has no {config.method}; {', '.join(file.methods)} are accepted"
        return
    if settings.pipeline_parallel_size > 1:
        yield where, "drafts are predicted on one pipeline stage alone; pipeline_parallel_size 1 is accepted"
    if model.has_encoder:
        yield where, f"{model.name} is an encoder-decoder model, which is not drafted for"
    if settings.async_scheduling and not limits.async_scheduling:
        message = f"{engine.title} schedules nothing ahead under {config.method}; leave it out or say false"
        yield ("engine", "async_scheduling"), message
    tp, slices = settings.tensor_parallel_size, config.draft_tensor_parallel_size
    if slices is not None and slices not in {1, tp}:
        yield (
            (*where, "draft_tensor_parallel_size"),
            f"draft_tensor_parallel_size {slices} is neither 1 nor the target's {tp}; vLLM refuses that",
        )
    elif slices is not None and slices != tp and config.method == "draft_model":
        yield (
            (*where, "draft_tensor_parallel_size"),
            f"a draft model runs on the target's {tp} ranks; leave it out, as vLLM demands",
        )
    reserved = config.reserved_slots * limits.max_num_seqs if file.reserves_slots else 0
    yield from _of_budget(scenario, config, limits, reserved)
    yield from _of_draft(scenario, config, model)


def _of_budget(scenario: Scenario, config: SpeculativeConfig, limits: Limits, reserved: int) -> Iterator[Finding]:
    """Steps that have no room for what is drafted."""
    where, load = ("engine", "max_num_batched_tokens"), scenario.workload
    budget = limits.max_num_batched_tokens - reserved
    if budget <= 0:
        message = (
            f"{limits.max_num_batched_tokens} leaves no token beside the {config.reserved_slots} a draft adds for each "
            f"of {limits.max_num_seqs} sequences; raise it, or lower max_num_seqs"
        )
        yield where, message
        return
    together = int(Plan.of(scenario.engine).share(load.size)) * (1 + config.num_speculative_tokens)
    if load.arrivals == "batch" and together > budget:
        message = (
            f"a static batch of {load.size} checks {together} tokens in a step, own and drafted, where {budget} fit; "
            "raise it, or give max_concurrency"
        )
        yield where, message


def _of_draft(scenario: Scenario, config: SpeculativeConfig, model: Model) -> Iterator[Finding]:
    """What drafts: whether there is such a thing, whether it speaks the target's tokens, whether ranks can share it."""
    from moesim.models.drafts import drafted

    where = ("engine", "speculative_config")
    try:
        draft = drafted(model, config)[0]
    except SpecError as error:
        place = (*where, "model" if config.model else "method")
        yield from ((place, f"speculative_config: {problem}") for problem in error.problems)
        return
    if draft is None:
        return
    if config.method == "draft_model" and draft.vocab_size != model.vocab_size:
        yield (
            (*where, "model"),
            f"{draft.name} has {draft.vocab_size:,} tokens and {model.name} {model.vocab_size:,}; a draft model must "
            "have the target's",
        )
    if draft.has_encoder:
        yield (*where, "model"), f"{draft.name} is an encoder-decoder model, which drafts nothing"
    plan = Plan.of(scenario.engine)
    if config.draft_tensor_parallel_size in (None, plan.tp):
        for layers in draft.layers:
            for block in layers.blocks:
                yield from ((where, sentence) for _, sentence in block.refusals(plan, draft.name))
