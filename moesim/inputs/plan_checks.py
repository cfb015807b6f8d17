"""Plans no engine could run, and plans vLLM refuses (config/parallel.py and config/vllm.py of vLLM 0.24)."""

from __future__ import annotations

from collections.abc import Iterator

from moesim.engines.settings import EngineSettings
from moesim.models.model import Model
from moesim.models.plan import Plan

Finding = tuple[tuple[str | int, ...], str]
_GATHERS = "allgather_reducescatter"


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
    yield from _dispatch(engine, plan, model)


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


def _dispatch(engine: EngineSettings, plan: Plan, model: Model) -> Iterator[Finding]:
    """Settings of how tokens meet experts that say nothing here, or contradict each other."""
    kind, ffn = engine.moe_dispatch, model.moe
    yield from _slots(engine)
    if engine.moe_loop_rows == "own" and kind != "looped":
        yield _at("moe_loop_rows"), f"moe_loop_rows is of a loop; moe_dispatch is {kind}"
    if engine.moe_pipeline_degree != 1 and not (plan.exchanges and not plan.deepep and plan.backend != _GATHERS):
        yield (
            _at("moe_pipeline_degree"),
            "moe_pipeline_degree cuts an all-to-all and its experts into parts; all2all_backend nccl_all_to_all, "
            "two_level, two_dh or coordinated is needed",
        )
    if kind == "fused":
        return
    if ffn is None:
        yield _at("moe_dispatch"), f"{model.name} has no routed experts to dispatch tokens to; leave it out"
        return
    if engine.moe_backend != "auto":
        yield _at("moe_backend"), f"moe_backend names a fused kernel; moe_dispatch is {kind}"
    if plan.deepep or plan.overlap:
        yield _at("all2all_backend"), f"DeepEP and dual-batch overlap bring tokens to fused experts, not {kind} ones"
    if kind == "looped" and engine.moe_loop_rows == "all" and plan.ep == 1 and ffn.num_experts % plan.expert_tp:
        message = f"whole experts are dealt to ranks, and {plan.expert_tp} does not divide {ffn.num_experts}"
        yield _at("moe_loop_rows"), message


def _slots(engine: EngineSettings) -> Iterator[Finding]:
    kind, factor, share = engine.moe_dispatch, engine.moe_capacity_factor, engine.moe_capacity_share
    bounded = kind in {"static_capacity", "dropping"}
    if bounded and factor is None and share is None:
        message = f"{kind} needs moe_capacity_factor (1.25, say) or moe_capacity_share (of all tokens)"
        yield _at("moe_dispatch"), message
    if factor is not None and share is not None:
        yield _at("moe_capacity_share"), "moe_capacity_factor and moe_capacity_share say the same thing; keep one"
    for name, value in (("moe_capacity_factor", factor), ("moe_capacity_share", share)):
        if value is not None and not bounded:
            yield _at(name), f"{name} has a part only where moe_dispatch is static_capacity or dropping, not {kind}"
    if engine.moe_dispatch_kernel == "one_hot" and kind != "static_capacity":
        yield _at("moe_dispatch_kernel"), f"one_hot fills slots of static_capacity; moe_dispatch is {kind}"
