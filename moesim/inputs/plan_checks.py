"""Plans no engine could run, and plans vLLM refuses (config/parallel.py and config/vllm.py of vLLM 0.24)."""

from __future__ import annotations

from collections.abc import Iterator

from moesim.engines.settings import EngineSettings
from moesim.models.model import Model
from moesim.models.plan import Plan

Finding = tuple[tuple[str | int, ...], str]


def plan_findings(engine: EngineSettings, model: Model) -> Iterator[Finding]:
    """Every reason a plan cannot be, as (location, sentence)."""
    plan = Plan.of(engine)
    experts = [g.routed.num_experts for g in model.layers if g.routed is not None]
    yield from _pipeline(engine, plan, model)
    if engine.enable_expert_parallel and experts:
        yield from _shares(engine, plan, min(experts))
    elif engine.enable_expert_parallel:
        yield _at("enable_expert_parallel"), f"enable_expert_parallel is true, but {model.name} has no experts"
    yield from _switches(engine, plan)


def _at(name: str) -> tuple[str, str]:
    return "engine", name


def _pipeline(engine: EngineSettings, plan: Plan, model: Model) -> Iterator[Finding]:
    if plan.pp > model.num_hidden_layers:
        yield _at("pipeline_parallel_size"), f"{plan.pp} exceeds the {model.num_hidden_layers} layers of {model.name}"
    if plan.pp == 1 and engine.pipeline_micro_batches:
        yield (
            _at("pipeline_micro_batches"),
            "pipeline_micro_batches has a part only with pipeline_parallel_size above 1",
        )
    if plan.pp > 1 and model.has_encoder:
        yield (
            _at("pipeline_parallel_size"),
            f"pipeline_parallel_size is {plan.pp}, but {model.name} has an encoder; 1 is accepted",
        )
    if sorted(plan.rank_order) != ["dp", "pp", "tp"]:
        yield _at("rank_order"), "rank_order must name tp, pp and dp once each"


def _shares(engine: EngineSettings, plan: Plan, experts: int) -> Iterator[Finding]:
    """Whether the experts can be shared out among TP x DP ranks as asked."""
    flat, sliced, replicas = plan.tp * plan.dp, engine.expert_tensor_parallel_size, engine.num_redundant_experts
    if flat % sliced:
        yield (
            _at("expert_tensor_parallel_size"),
            f"expert_tensor_parallel_size {sliced} does not divide the {flat} ranks of TP x DP",
        )
    if plan.ep > experts + replicas:
        yield _at("enable_expert_parallel"), f"{plan.ep} ranks (TP x DP) are more than the {experts} experts"
    elif (experts + replicas) % plan.ep and (engine.enable_eplb or plan.backend.startswith("deepep")):
        yield (
            _at("num_redundant_experts"),
            f"{experts} experts and {replicas} replicas do not divide evenly among {plan.ep} ranks, "
            "which EPLB and DeepEP need",
        )


def _switches(engine: EngineSettings, plan: Plan) -> Iterator[Finding]:
    """Settings that need another one."""
    if engine.expert_tensor_parallel_size > 1 and not engine.enable_expert_parallel:
        yield _at("expert_tensor_parallel_size"), "expert_tensor_parallel_size needs enable_expert_parallel"
    if engine.enable_eplb and not (engine.enable_expert_parallel and plan.tp * plan.dp > 1):
        yield _at("enable_eplb"), "enable_eplb needs enable_expert_parallel and more than one rank of TP x DP"
    if engine.num_redundant_experts and not engine.enable_eplb:
        yield (
            _at("num_redundant_experts"),
            f"num_redundant_experts is {engine.num_redundant_experts}; set enable_eplb, or 0 as vLLM demands",
        )
    if engine.all2all_backend and not plan.exchanges:
        yield (
            _at("all2all_backend"),
            "all2all_backend has a part only with data_parallel_size above 1 and enable_expert_parallel; leave it out",
        )
    if engine.enable_dbo and not plan.deepep:
        yield _at("enable_dbo"), "enable_dbo needs tokens exchanged through a DeepEP backend; vLLM refuses any other"
