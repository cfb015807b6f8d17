"""A scenario's parts put together: the model on its ranks, the GPU with its fits, the engine's limits, the memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from moesim.cost.fit_file import load_fits
from moesim.cost.fits import Fits
from moesim.cost.machine import Machine
from moesim.engines.engine import Engine, Limits, load_engine
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.hardware import Hardware
from moesim.inputs.model_of import model_of, with_counts
from moesim.inputs.offload import Offload
from moesim.inputs.routing import Uniform
from moesim.inputs.scenario import Scenario
from moesim.memory import Room, cache_block, fullest_stage, memory_room
from moesim.models.dispatch import Dispatch
from moesim.models.model import Model
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.steps.step import StepModel, Steps

if TYPE_CHECKING:
    from moesim.offload.plan import OffloadPlan
    from moesim.offload.steps import OffloadedSteps
    from moesim.steps.images import ImageEncoder


@dataclass(frozen=True)
class Parts:
    """A scenario's objects, ready to price."""

    hardware: Hardware
    rank: Rank
    limits: Limits
    steps: Steps
    offload: OffloadPlan | None = None
    """What stays on the GPU, where the scenario says of that."""

    @property
    def off_gpu(self) -> OffloadPlan | None:
        """The same where it changes anything: weights off the GPU, or another system's kernels."""
        return None if self.offload is None or self.offload.plain else self.offload

    @property
    def fullest(self) -> tuple[Rank, Room]:
        """The pipeline stage with least room for the cache."""
        if self.off_gpu is None:
            return fullest_stage(self.rank, self.hardware, self.limits)
        # Loaded where used: most scenarios offload nothing.
        from moesim.offload.room import room_beside

        return self.rank, room_beside(self.off_gpu, self.limits, 1, 1)


def assemble(scenario: Scenario, central: bool = False) -> Parts:
    """Look up the model, the GPU and the calibration a scenario names; ``central`` prices leave intervals out."""
    hardware = load_hardware(scenario.hardware)
    engine = engine_of(scenario)
    rank = _rank(scenario, engine, hardware)
    machine = machine_of(hardware, engine, scenario.calibration, central)
    limits = limits_of(scenario, hardware)
    limits = replace(limits, block_size=cache_block(rank, limits.block_size))
    if scenario.offload is not None:
        return _offloaded(scenario, scenario.offload, hardware, rank, machine, limits)
    plain = StepModel(rank, machine, limits.captured_tokens, limits.async_scheduling, _images(scenario, rank, machine))
    return Parts(hardware, rank, limits, with_drafts(plain, limits))


def _images(scenario: Scenario, rank: Rank, machine: Machine) -> ImageEncoder | None:
    images, tower = scenario.workload.images, rank.model.tower
    if images is None or tower is None:
        return None
    from moesim.steps.images import image_encoder

    return image_encoder(rank, machine, tower.picture(images.width, images.height, images.per_request))


def with_drafts(steps: Steps, limits: Limits) -> Steps:
    """The same steps and what drafts for them, where the engine speculates."""
    drafting = steps.rank.drafting
    if drafting is None:
        return steps
    # Loaded where used: most scenarios have none.
    from moesim.steps.speculative import SpeculativeSteps

    draft = None
    if drafting.draft is not None:
        eager = drafting.method == "medusa" or not drafting.draft.compiled
        draft = StepModel(drafting.draft, steps.machine, 0 if eager else limits.captured_tokens, False)
    return SpeculativeSteps(steps, draft, drafting)


def offloaded_of(steps: Steps) -> OffloadedSteps | None:
    """Steps of an offloaded model, with or without what drafts for it; None of any other."""
    from moesim.offload.steps import OffloadedSteps

    steps = getattr(steps, "target", steps)
    return steps if isinstance(steps, OffloadedSteps) else None


def _offloaded(
    scenario: Scenario, offload: Offload, hardware: Hardware, rank: Rank, machine: Machine, limits: Limits
) -> Parts:
    """The same where a policy decides what stays on the GPU. Loaded where used: most scenarios have none."""
    from moesim.hardware.host import load_host
    from moesim.inputs.system_file import load_system
    from moesim.offload.memory import Work
    from moesim.offload.misses import Requests
    from moesim.offload.plan import Site, amount_of, filled, placed, rank_with_formats
    from moesim.offload.steps import OffloadedSteps

    load = scenario.workload
    system, host = load_system(offload.system), load_host(scenario.host or hardware.host)
    policy = filled(offload, system)
    rank = rank_with_formats(rank, policy)
    at_once, context = load.size, sum(load.longest())
    if load.arrivals != "batch":
        # Sequences share what is left; only where nothing says how much stays do they come before experts.
        at_once = min(load.size, limits.max_num_seqs) if amount_of(policy) is None else 1
        context = max(context, -(-(scenario.engine.max_model_len or 0) // at_once))
    work = Work(at_once, load.longest()[0], context)
    if system.runtime.kernels == "eager":
        # Whole prompts in one step, no graphs.
        whole = work.batch * work.prompt
        limits = replace(limits, max_num_batched_tokens=whole, max_num_seqs=work.batch, captured_tokens=0)
    # Layers on several GPUs work one after the other: a pipeline that holds one batch.
    split = rank if rank.plan.pp > 1 else None
    rank = replace(rank, plan=replace(rank.plan, pp=1))
    own_tokens = system.runtime.batched_tokens
    if own_tokens and scenario.engine.max_num_batched_tokens is None:
        limits = replace(limits, max_num_batched_tokens=int(own_tokens.value))
    plan = placed(Site(system, rank, hardware, host, limits, work, split), policy)
    requests, ffn = None, rank.model.moe
    if ffn is not None:
        routing = rank.routing
        repeats, drift = getattr(routing, "persistence", 0.0), getattr(routing, "drift", 0.0)
        requests = Requests(rank.loads(ffn), policy, repeats, drift, getattr(routing, "corpus_skew", None))
    resident = StepModel(rank, machine, limits.captured_tokens, limits.async_scheduling)
    steps = OffloadedSteps(resident, plan, requests)
    return Parts(hardware, rank, limits, with_drafts(steps, limits), plan)


def engine_of(scenario: Scenario) -> Engine:
    """The version of the engine that a scenario names. Raises SpecError."""
    return load_engine(scenario.engine.name, scenario.engine.version)


def _rank(scenario: Scenario, engine: Engine, hardware: Hardware) -> Rank:
    settings, routing = scenario.engine, with_counts(scenario.routing)
    model = model_of(scenario)
    if routing.kind == "locality":
        from moesim.inputs.locality_file import resolved

        routing = resolved(routing, model.name)
    kernels, capability = engine.file.kernels, hardware.compute_capability

    def runs(found: Model) -> Model:
        return found.formatted(*(lambda w: kernels.runs(w, capability),) * 3)

    model = runs(model.under(settings.quantization))
    kv_cache = settings.kv_cache_dtype
    kv_bytes = 1.0 if kv_cache == "fp8" or (kv_cache == "auto" and model.caches_fp8) else 2.0
    rank = Rank(
        model, Plan.of(settings), kv_bytes, routing, engine, settings.moe_backend,
        compute_capability=hardware.compute_capability,
        compiled=not settings.enforce_eager,
        graphs_prompts=settings.cudagraph_mode != "full_decode_only",
        shared_beside=not settings.disable_shared_experts_stream,
        switched=hardware.links.kind == "NVSwitch" and settings.tensor_parallel_size <= hardware.gpus_per_node,
        sampling=scenario.workload.sampling,
        placement_routing=with_counts(scenario.placement_routing),
        dispatch=Dispatch.of(settings),
    )  # fmt: skip
    if settings.drafts is None:
        return rank
    from moesim.models.drafts import drafting_of

    return replace(rank, drafting=drafting_of(rank, settings.drafts, runs, Uniform(known=False)))


def machine_of(hardware: Hardware, engine: Engine, calibration: str, central: bool = False) -> Machine:
    """The GPU and its fits, looked up once a file; ``central`` leaves intervals out. Raises SpecError."""
    return _machine(hardware, engine, None if calibration == "auto" else load_fits(calibration), central)


@lru_cache(maxsize=32)
def _machine(hardware: Hardware, engine: Engine, given: Fits | None, central: bool) -> Machine:
    if not central:
        return Machine(hardware, engine, given)
    from moesim.cost.central import CentralMachine

    return CentralMachine(hardware, engine, given)


def forget_machines() -> None:
    """Drop what was looked up: a fit was written."""
    _machine.cache_clear()


def limits_of(scenario: Scenario, hardware: Hardware) -> Limits:
    """Engine settings with the version's defaults for the GPU."""
    return engine_of(scenario).limits(scenario.engine, hardware.gpu.memory.value, hardware.compute_capability)


def room_of(scenario: Scenario, parts: Parts) -> Room:
    """The memory of a GPU: a static batch must fit whole, under load one request at least."""
    load = scenario.workload
    encoder = parts.rank.model.has_encoder
    longest_in, longest_out = load.longest()
    context = longest_out if encoder else longest_in + longest_out
    source = longest_in if encoder else 0
    plan = parts.rank.plan
    batch = plan.share(load.size) if load.arrivals == "batch" else 1
    if parts.off_gpu is not None:
        from moesim.offload.room import room_beside

        return room_beside(parts.off_gpu, parts.limits, batch, context)
    room = memory_room(parts.rank, parts.hardware, parts.limits, batch, context, source)
    return replace(room, largest_batch=plan.dp * room.largest_batch)
