"""A model as one GPU of a parallel plan holds it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from moesim.engines.engine import Engine
from moesim.engines.file import ExpertKernel, Place
from moesim.experts.placement import group_loads
from moesim.models.blocks.moe import Moe
from moesim.models.dispatch import FUSED, Dispatch
from moesim.models.model import Model
from moesim.models.plan import Plan
from moesim.ops.load import Group

if TYPE_CHECKING:
    from moesim.models.drafts import Drafting


@dataclass(frozen=True)
class Rank:
    """The part of a model on one rank of ``plan``. Numbers are per rank after sharding."""

    model: Model
    """The whole model, or one pipeline stage's layers."""
    plan: Plan
    kv_bytes: float
    routing: Any
    engine: Engine
    moe_backend: str = "auto"
    first: bool = True
    """Holds the embedding."""
    last: bool = True
    """Holds the head."""
    stage: int = 0
    """Its place in the pipeline."""
    compute_capability: str = "9.0"
    """Of its GPU: the engine chooses kernels by it."""
    compiled: bool = True
    """The engine compiles the model: false where it runs eagerly."""
    graphs_prompts: bool = True
    """CUDA graphs run steps with prompts among them too."""
    shared_beside: bool = True
    """The shared expert has a stream of its own, where the engine's version gives it one."""
    switched: bool = True
    """A switch joins the GPUs of its tensor-parallel group."""
    sampling: str = "greedy"
    """How the next token is drawn."""
    placement_routing: Any = None
    """The load that experts were placed by, where it is not what they see."""
    dispatch: Dispatch = FUSED
    """How tokens are brought to experts."""
    drafting: Drafting | None = None
    """How the engine speculates; None where it does not."""

    @property
    def draft(self) -> Rank | None:
        """What drafts tokens for it, where a model does."""
        return self.drafting.draft if self.drafting else None

    @property
    def kept(self) -> tuple[float, ...]:
        """Chance that at least the first, the first two, ... drafts of a round are kept; empty without any."""
        return self.drafting.kept if self.drafting else ()

    def decoding(self, sequences: Any, past: Any) -> Group:
        """Sequences past their prompts, as a step computes them."""
        if not self.drafting:
            return Group.decode(sequences, past)
        return Group.verify(sequences, 1 + self.drafting.tokens, past)

    def expert_kernels(self, ffn: Moe) -> list[ExpertKernel]:
        """The kernel of routed experts, and those that may run instead where that is not known."""
        return self.engine.file.kernels.candidates(ffn.experts, self.moe_backend, self._place)

    def other_kernels(self, ffn: Moe) -> list[ExpertKernel]:
        """What else the engine's version has for them."""
        return self.engine.file.kernels.others(ffn.experts, self._place)

    @property
    def _place(self) -> Place:
        return Place(self.compute_capability, self.plan.ep > 1, self.plan.expert_tp)

    @property
    def tp(self) -> int:
        return self.plan.tp

    def stages(self) -> tuple[Rank, ...]:
        """The ranks of a pipeline, one a stage."""
        many = self.plan.pp
        if many == 1:
            return (self,)
        return tuple(
            replace(self, model=self.model.stage(i, many), first=i == 0, last=i == many - 1, stage=i)
            for i in range(many)
        )

    def slots(self, ffn: Moe) -> int:
        """Experts a rank has room for, replicas among them."""
        return -(-(ffn.num_experts + self.plan.redundant) // self.plan.ep)

    def loads(self, ffn: Moe) -> Any:
        """What the busiest rank does of the routed work: see ``routing.Loads``."""
        return self._loads_under(self.routing_of(ffn), ffn)

    def routing_of(self, ffn: Moe) -> Any:
        """How tokens choose a layer's experts."""
        return _of_layer(self.routing, ffn)

    def other_loads(self, ffn: Moe) -> Any:
        """The same under another routing that cannot be excluded; None where the routing is known."""
        other = getattr(self.routing, "other", None)
        return None if other is None else self._loads_under(other, ffn)

    def _loads_under(self, routing: Any, ffn: Moe) -> Any:
        plan = self.plan
        planned = None if self.placement_routing is None else _of_layer(self.placement_routing, ffn)
        asked = group_loads(
            routing, ffn.num_experts, ffn.num_experts_per_tok, plan.ep, plan.placement, plan.redundant, planned
        )
        return self.dispatch.loads(asked, self.slots(ffn), self.groups)

    @property
    def groups(self) -> int:
        """Groups of tokens that each share out experts' slots among themselves."""
        return self.plan.dp * (self.plan.tp if self.plan.exchanges else 1)


def _of_layer(routing: Any, ffn: Moe) -> Any:
    return routing.layers[ffn.place] if routing.kind == "by_layer" else routing
