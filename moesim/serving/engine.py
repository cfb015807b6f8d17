"""An engine for a workload: schedulers, cache, clients and prices put together, and the run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from moesim.engines.engine import Limits
from moesim.engines.kv_cache import Blocks, CachedBlocks, CountedBlocks
from moesim.engines.scheduling import Scheduler, SchedulerLimits, scheduler_of
from moesim.engines.settings import EngineSettings
from moesim.inputs.workload import Workload
from moesim.memory import Room, sequence_kv_bytes
from moesim.models.rank import Rank
from moesim.serving.report import LoadReport
from moesim.serving.requests import requests
from moesim.serving.simulation import Clients, FrontEnd, Simulation
from moesim.steps.step import StepModel, Steps
from moesim.steps.table import StepPrices, StepTable


def simulated(
    steps: Steps,
    settings: EngineSettings,
    limits: Limits,
    fullest: tuple[Rank, Room],
    load: Workload,
    report: LoadReport,
    progress: Callable[[int], None] | None = None,
    front: FrontEnd | None = None,
    part: tuple[int, int] = (0, 1),
    prices: StepPrices | None = None,
    sleep: tuple[float, float] | None = None,
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
    part : (int, int)
        Which of how many engines that share the workload's requests this one is.
    prices : StepPrices, optional
        Instead of the steps' own: a policy's.
    sleep : (float, float), optional
        Idle time after which GPUs are given up, and what coming back takes. [s]
    """
    plan = steps.rank.plan
    replicas = plan.dp if steps.rank.model.moe is not None else 1
    schedulers = [empty_scheduler(settings, limits, fullest) for _ in range(replicas)]
    clients = clients_of(load, steps, settings, front, part)
    return Simulation(schedulers, prices or step_table(steps), clients, report, sleep).run(progress)


def empty_scheduler(settings: EngineSettings, limits: Limits, fullest: tuple[Rank, Room]) -> Scheduler:
    """An engine's scheduler with an empty cache."""
    rank = fullest[0]
    return scheduler_of(rank.engine, scheduler_limits(settings, limits, rank), _blocks(settings, limits, *fullest))


def clients_of(
    load: Workload, steps: Steps, settings: EngineSettings, front: FrontEnd | None = None,
    part: tuple[int, int] = (0, 1),
) -> Clients:  # fmt: skip
    """Those who send the workload's requests, or every so many of them."""
    sent = requests(load, longest_request(settings, steps.rank), part)
    return Clients(sent, load.max_concurrency, front or front_end(steps, settings, load))


def step_table(steps: Steps) -> StepPrices:
    """Prices of the model's steps, kept from run to run where everything is on the GPUs."""
    if isinstance(steps, StepModel):
        return _kept_table(steps)
    # Loaded where used: most scenarios offload nothing.
    from moesim.offload.steps import OffloadedSteps
    from moesim.offload.table import OffloadedTable

    return OffloadedTable(steps) if isinstance(steps, OffloadedSteps) else _kept_table(steps)


@lru_cache(maxsize=64)
def _kept_table(steps: Steps) -> StepPrices:
    if isinstance(steps, StepModel):
        return StepTable(steps)
    # Loaded where used: most engines do not speculate.
    from moesim.steps.speculative import SpeculativeSteps, SpeculativeTable

    assert isinstance(steps, SpeculativeSteps)
    return SpeculativeTable(steps)


def front_end(steps: Steps, settings: EngineSettings, load: Workload) -> FrontEnd:
    """What a request passes before the scheduler: as fitted (Dynamo), as the engine's file assumes, or nothing."""
    times, images, image_s = steps.rank.engine.file.front_end, load.images, 0.0
    if images is not None:
        assumed = times.image_pixel.value * images.width * images.height
        image_s = assumed if images.preprocessing is None else images.preprocessing
    if settings.front_end == "none":
        return FrontEnd(0.0, 0.0, image_s)
    if settings.front_end == "dynamo":
        constants = steps.machine.front_end
        return FrontEnd(constants["t_request"], constants["t_prompt_token"], image_s)
    return FrontEnd(times.request.value, times.prompt_token.value, image_s)


def scheduler_limits(settings: EngineSettings, limits: Limits, rank: Rank) -> SchedulerLimits:
    reserved = 0
    if rank.drafting and rank.engine.file.speculation.reserves_slots:
        reserved = rank.drafting.slots * limits.max_num_seqs
    return SchedulerLimits(
        limits.max_num_batched_tokens - reserved,
        limits.max_num_seqs,
        settings.enable_chunked_prefill,
        settings.long_prefill_token_threshold,
        limits.async_scheduling,
        pipeline_stages=rank.plan.pp,
        kept=rank.kept,
        lookahead=rank.drafting.lookahead if rank.drafting else 0,
    )


def longest_request(settings: EngineSettings, rank: Rank) -> int:
    """Prompt and output tokens a request may have."""
    return settings.max_model_len or rank.model.max_position_embeddings or 1 << 40


def _blocks(settings: EngineSettings, limits: Limits, rank: Rank, room: Room) -> Blocks:
    """The cache; where sequences keep states beside it, blocks are counted and no prefix is found again."""
    size = limits.block_size
    if settings.enable_prefix_caching and not rank.model.state_bytes_per_sequence(rank.tp, rank.kv_bytes):
        return CachedBlocks(room.kv_blocks, size)
    return CountedBlocks(room.kv_available, size, lambda n: float(sequence_kv_bytes(rank, n * size, size)))
