"""An engine for a workload: schedulers, cache, clients and prices put together, and the run."""

from __future__ import annotations

from collections.abc import Callable

from moesim.memory import Limits, Room, sequence_kv_bytes
from moesim.rank import Rank
from moesim.serving.blocks import Blocks, CachedBlocks, CountedBlocks
from moesim.serving.pricing import StepPrices
from moesim.serving.report import LoadReport
from moesim.serving.requests import requests
from moesim.serving.scheduler import Scheduler, SchedulerLimits
from moesim.serving.simulation import Clients, FrontEnd, Simulation
from moesim.spec.engine_file import load_engine
from moesim.spec.scenario import Engine
from moesim.spec.workload import Workload
from moesim.step import StepModel


def simulated(
    steps: StepModel,
    engine: Engine,
    limits: Limits,
    fullest: tuple[Rank, Room],
    load: Workload,
    report: LoadReport,
    progress: Callable[[int], None] | None = None,
    front: FrontEnd | None = None,
) -> LoadReport:
    """Run a workload through the scheduler, every step priced.

    Parameters
    ----------
    fullest : (Rank, Room)
        The pipeline stage with least room for the cache.
    report : LoadReport
        Takes down what happens.
    progress : callable, optional
        Told now and then how many requests are answered.
    front : FrontEnd, optional
        What a request passes first; as fitted or assumed where not given.
    """
    plan = steps.rank.plan
    replicas = plan.dp if steps.rank.model.moe is not None else 1
    schedulers = [scheduler_of(engine, limits, fullest) for _ in range(replicas)]
    clients = clients_of(load, steps, engine, front)
    return Simulation(schedulers, step_prices(steps, limits), clients, report).run(progress)


def scheduler_of(engine: Engine, limits: Limits, fullest: tuple[Rank, Room]) -> Scheduler:
    """An engine's scheduler with an empty cache."""
    return Scheduler(scheduler_limits(engine, limits), _blocks(engine, limits, *fullest))


def clients_of(load: Workload, steps: StepModel, engine: Engine, front: FrontEnd | None = None) -> Clients:
    """Those who send the workload's requests."""
    return Clients(
        requests(load, longest_request(engine, steps.rank)), load.max_concurrency, front or front_end(steps, engine)
    )


def step_prices(steps: StepModel, limits: Limits) -> StepPrices:
    """Prices of every step the limits allow."""
    return StepPrices(steps, limits.max_num_batched_tokens, limits.max_num_seqs)


def front_end(steps: StepModel, engine: Engine) -> FrontEnd:
    """What a request passes before the scheduler: as fitted (Dynamo), as the engine's file assumes, or nothing."""
    if engine.front_end == "none":
        return FrontEnd(0.0, 0.0)
    if engine.front_end == "dynamo":
        constants = steps.machine.front_end
        return FrontEnd(constants["t_request"], constants["t_prompt_token"])
    times = load_engine().front_end
    return FrontEnd(times.request.value, times.prompt_token.value)


def scheduler_limits(engine: Engine, limits: Limits) -> SchedulerLimits:
    return SchedulerLimits(
        limits.max_num_batched_tokens,
        limits.max_num_seqs,
        engine.enable_chunked_prefill,
        engine.long_prefill_token_threshold,
        engine.async_scheduling,
        pipeline_stages=engine.pipeline_parallel_size,
    )


def longest_request(engine: Engine, rank: Rank) -> int:
    """Prompt and output tokens a request may have."""
    return engine.max_model_len or rank.model.max_position_embeddings or 1 << 40


def _blocks(engine: Engine, limits: Limits, rank: Rank, room: Room) -> Blocks:
    size = limits.block_size
    if engine.enable_prefix_caching:
        return CachedBlocks(room.kv_blocks, size)
    return CountedBlocks(room.kv_available, size, lambda n: float(sequence_kv_bytes(rank, n * size, size)))
