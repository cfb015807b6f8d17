"""What can be deployed: engines (a model in a format, on a plan of GPUs of a kind), and how many of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from moesim.explore.plans import BACKENDS
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.model_of import model_of
from moesim.inputs.plan_checks import plan_findings
from moesim.inputs.scenario import Scenario
from moesim.models.plan import Plan


class Engine(NamedTuple):
    """One engine, as far as it differs from the question's scenario."""

    model: str
    quantization: str | None
    """None is the checkpoint's own formats."""
    gpu: str
    tp: int
    pp: int
    dp: int
    expert_parallel: bool
    backend: str | None
    drafts: int
    """Tokens drafted a round; 0 is no speculation."""
    own: tuple[tuple[str, Any], ...] = ()
    """Other settings of the engine that the question varies: (name, value) each."""

    @property
    def world(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a scenario, dotted by ``__``."""
        return {
            "model": self.model, "engine__quantization": self.quantization,
            "engine__tensor_parallel_size": self.tp, "engine__pipeline_parallel_size": self.pp,
            "engine__data_parallel_size": self.dp, "engine__enable_expert_parallel": self.expert_parallel,
            "engine__all2all_backend": self.backend, **{f"engine__{name}": value for name, value in self.own},
        }  # fmt: skip

    @property
    def extras(self) -> str:
        """Drafts and other settings in words, each behind a comma; nothing where there are none."""
        drafts = f", {self.drafts} drafts" if self.drafts else ""
        return drafts + "".join(f", {name} {value}" for name, value in self.own)

    @property
    def plan(self) -> str:
        """In the words people use."""
        ep = self.tp * self.dp if self.expert_parallel else 1
        return Plan(self.tp, self.pp, self.dp, ep, backend=self.backend or Plan.backend).describe()


class Deployment(NamedTuple):
    """Equal engines that share the load, or prefill engines beside decode engines."""

    engine: Engine
    replicas: int = 1
    """Engines; of those apart, the ones that decode."""
    prefill: int = 0
    """Engines that compute prompts alone; 0 is both on every engine."""

    @property
    def gpus(self) -> int:
        return self.engine.world * (self.replicas + self.prefill)

    @property
    def hardware(self) -> str:
        """As a scenario names the GPUs that one simulation needs."""
        world = self.gpus if self.prefill else self.engine.world
        node = load_hardware(self.engine.gpu).gpus
        return self.engine.gpu if world <= node else f"{world}x{self.engine.gpu}"

    def describe(self) -> str:
        """The plan in words: ``2 x TP4 EP4``, ``1P3D of TP2``."""
        if self.prefill:
            return f"{self.prefill}P{self.replicas}D of {self.engine.plan}"
        return f"{self.replicas} x {self.engine.plan}" if self.replicas > 1 else self.engine.plan


class Space(NamedTuple):
    """Everything that a question lets vary."""

    models: tuple[str, ...]
    formats: tuple[str | None, ...]
    gpus: tuple[str, ...]
    fewest: int
    most: int
    """GPUs in all."""
    drafts: tuple[int, ...]
    apart: bool
    """Prefill and decode on engines of their own, too."""
    settings: tuple[tuple[tuple[str, Any], ...], ...] = ((),)
    """Every combination of other settings of an engine: (name, value) each."""


def engines(space: Space, scenario: Scenario) -> Iterator[Engine]:
    """Every engine that the model's shapes and vLLM's rules allow, whether it fits or not."""
    for model, quantization in itertools.product(space.models, space.formats):
        base = scenario.model_copy(update={"model": model})
        own = model_of(base)
        if quantization is not None and own.under(quantization) == own:
            # The checkpoint is stored so already.
            continue
        for gpu in space.gpus:
            for plan in _plans(space, gpu, own.moe is not None):
                settings = base.engine.model_copy(update={**plan, "quantization": quantization, "enable_eplb": False})
                if _legal(settings, own):
                    tp, pp, dp, expert_parallel, backend = plan.values()
                    # Drafts are predicted on one pipeline stage alone.
                    for drafts, others in itertools.product(space.drafts if pp == 1 else (0,), space.settings):
                        yield Engine(model, quantization, gpu, tp, pp, dp, expert_parallel, backend, drafts, others)


def _plans(space: Space, gpu: str, moe: bool) -> Iterator[dict[str, Any]]:
    """TP inside a node, PP and DP over all GPUs, with and without expert parallelism, each way to exchange tokens."""
    hardware = load_hardware(gpu)
    node = hardware.gpus_per_node
    backends = [name for name in BACKENDS if hardware.has_deepep or not name.startswith("deepep")]
    for world in range(1, space.most + 1):
        # An engine fills a node, or whole ones.
        if world > node and world % node:
            continue
        for tp, pp in itertools.product(_divisors(world), repeat=2):
            if world % (tp * pp) or tp > node:
                continue
            dp = world // (tp * pp)
            for expert_parallel in (False, True) if moe and tp * dp > 1 else (False,):
                for backend in backends if expert_parallel and dp > 1 else (None,):
                    yield {
                        "tensor_parallel_size": tp, "pipeline_parallel_size": pp, "data_parallel_size": dp,
                        "enable_expert_parallel": expert_parallel, "all2all_backend": backend,
                    }  # fmt: skip


def _legal(settings: Any, model: Any) -> bool:
    plan, stored = Plan.of(settings), model.under(settings.quantization)
    refused = any(any(block.refusals(plan, model.name)) for group in stored.layers for block in group.blocks)
    return not refused and next(iter(plan_findings(settings, stored)), None) is None


def deployments(space: Space, engine: Engine) -> Iterator[Deployment]:
    """How many of an engine: replicas, and prefill beside decode engines."""
    many = space.most // engine.world
    for replicas in range(1, many + 1):
        if engine.world * replicas >= space.fewest:
            yield Deployment(engine, replicas)
    if not space.apart or engine.dp > 1 or engine.drafts or engine.pp > 1:
        # vLLM counts engines apart by replicas, and speculation on one side alone is not predicted.
        return
    for prefill, decode in itertools.product(range(1, many), repeat=2):
        if space.fewest <= engine.world * (prefill + decode) <= space.most:
            yield Deployment(engine, decode, prefill)


def _divisors(number: int) -> Sequence[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
