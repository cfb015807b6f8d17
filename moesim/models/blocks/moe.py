"""Routed experts, top-k of them per token, and shared experts every token passes (GShard, arXiv 2006.16668)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.models.blocks.block import Block, Refusal
from moesim.models.blocks.dense import feed_forward, width_refused
from moesim.models.blocks.unfused import into_slots, looped, out_of_slots, slot_bytes, slots_of
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Elementwise, ExpertAllToAll, FusedExperts, Gemm, LoopedExperts, Operation
from moesim.ops.formats import bytes_per_weight, group_of, kind

if TYPE_CHECKING:
    from moesim.models.plan import Plan
    from moesim.models.rank import Rank

_ROUTER_COLUMNS = 64
"""A tile has 64 columns: a router of fewer experts costs as much as one of 64."""


@dataclass(frozen=True)
class Moe(Block):
    num_experts: int
    num_experts_per_tok: int
    width: int
    gated: bool = True
    shared_width: int = 0
    """Total width of the shared experts; 0 when there are none."""
    extra_parameters: int = 0
    """Router biases, expert biases, the shared expert's gate."""
    shared_gate: bool = False
    """A sigmoid gate scales the shared experts' output (Qwen1.5)."""
    n_group: int = 1
    topk_group: int = 1
    """Node-limited routing: a token's experts come from ``topk_group`` of ``n_group`` equal groups (DeepSeek-V3)."""
    scores: str = "softmax"
    """How logits become scores: ``softmax``, ``sigmoid``, or ``biased``, sigmoid with a bias through group top-k."""
    router: str = "bfloat16"
    """Format of the router's weights; where it is float32 the input is widened first."""
    experts: str = "bfloat16"
    """Format of the routed experts."""
    weights: str = "bfloat16"
    """Format of the shared ones."""
    latent: int = 0
    """Width that routed experts see, between two projections whole on every rank; 0 is the hidden size (Nemotron-3)."""
    latent_norm: bool = False
    """A norm follows the experts' sum in that width (Kimi-K3)."""
    unrouted: int = 0
    """Experts of the router that do nothing (LongCat-Flash); what picks them still takes a row."""
    place: int = 0
    """Which of the layers with routed experts it is, where routing tells them apart."""
    mixer_kernels: int = 0
    """Small kernels that choose experts where no fused one does (Phi-3.5-MoE's sparse mixer)."""

    norm = "post_norm"
    exchanges = frozenset(
        {"gather_tokens", "scatter_tokens", "dispatch", "dispatch_slices", "combine", "combine_slices"}
    )

    beside_experts = frozenset({"shared_up_proj", "shared_act", "shared_down_proj", "shared_gate"})

    @property
    def label(self) -> str:
        return "MoE"

    def formatted(self, linear: Callable[[str], str], experts: Callable[[str], str]) -> Moe:
        return replace(self, weights=linear(self.weights), experts=experts(self.experts))

    @property
    def routed(self) -> Moe:
        return self

    @property
    def matrices(self) -> int:
        return 2 + self.gated if self.shared_width else 0

    @property
    def matrices_per_expert(self) -> int:
        return 2 + self.gated

    @property
    def tensors(self) -> int:
        return 3 * self.num_experts

    def seen(self, hidden: int) -> int:
        """Width of what routed experts see."""
        return self.latent or hidden

    def expert_parameters(self, hidden: int) -> int:
        return self.matrices_per_expert * self.seen(hidden) * self.width

    def _whole_parameters(self, hidden: int) -> int:
        """Router and latent projections."""
        return hidden * (self.num_experts + self.unrouted) + 2 * hidden * self.latent + self.latent * self.latent_norm

    def shared_parameters(self, hidden: int) -> int:
        return self.matrices_per_expert * hidden * self.shared_width

    def parameters(self, hidden: int) -> int:
        experts = self.num_experts * self.expert_parameters(hidden)
        return experts + self.shared_parameters(hidden) + self._whole_parameters(hidden) + self.extra_parameters

    def linear_parameters(self, hidden: int) -> int:
        return self.shared_parameters(hidden)

    def parameters_per_token(self, hidden: int) -> int:
        return self.num_experts_per_tok * self.expert_parameters(hidden) + self.shared_parameters(hidden)

    def active_parameters(self, hidden: int) -> int:
        return self.parameters_per_token(hidden) + self._whole_parameters(hidden)

    def weight_bytes(self, rank: Rank) -> float:
        plan, hidden = rank.plan, rank.model.hidden_size
        slots, experts = rank.slots(self), self.expert_bytes(rank)
        # Where tokens are exchanged, a rank runs the shared experts on its own tokens, with whole weights.
        shared = self.shared_parameters(hidden) / (1 if plan.exchanges else rank.tp) * bytes_per_weight(self.weights)
        extra = self.extra_parameters * slots / self.num_experts / plan.expert_tp
        router = hidden * (self.num_experts + self.unrouted)
        latent = (self._whole_parameters(hidden) - router) * BF16
        return experts + shared + router * bytes_per_weight(self.router) + latent + extra * BF16

    def expert_bytes(self, rank: Rank) -> float:
        """The rank's routed experts as their kernels store them. [B]"""
        shape = self.width // rank.plan.expert_tp, self.seen(rank.model.hidden_size)
        width, wide = rank.expert_kernels(self)[0].stored(*shape)
        return rank.slots(self) * self.matrices_per_expert * wide * width * bytes_per_weight(self.experts)

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        plan, hidden = rank.plan, rank.model.hidden_size
        width = self.width / plan.expert_tp
        # Replicas' tokens come together where experts are; dispatched rows are the busiest rank's own.
        rows = tokens * plan.dp * self.num_experts_per_tok
        if rank.dispatch.kind not in {"fused", "looped"}:
            return slot_bytes(self, rank, tokens)
        if plan.exchanges and plan.backend == "deepep_low_latency":
            # Batched experts have a slot for every token of every rank.
            rows = rank.slots(self) * tokens * plan.ep
        elif plan.exchanges and plan.backend != "allgather_reducescatter":
            rows = float(rank.loads(self).rows(tokens * plan.dp))
        experts = BF16 * rows * (max((1 + self.gated) * width, self.seen(hidden)) + width)
        widened = BF16 * self._widened_weights(rank)
        return experts + widened + BF16 * tokens * hidden

    def _widened_weights(self, rank: Rank) -> float:
        """Weights that the rank writes out in bfloat16 before every call; 0 where kernels read what is stored."""
        if not rank.expert_kernels(self)[0].widens_weights:
            return 0.0
        return rank.slots(self) * self.expert_parameters(rank.model.hidden_size) / rank.plan.expert_tp

    def operations(self, at: Frame) -> Iterator[Named]:
        """Router, routed experts and shared experts; how tokens and experts meet is the plan's.

        Without data parallelism every rank of the TP group holds all tokens and one all-reduce adds up the parts. With
        it, tokens are gathered (or dispatched) to the experts' ranks and results scattered (or combined) back; under
        expert parallelism the TP ranks of a replica then split its tokens among themselves (vLLM's sequence-parallel
        MoE).
        """
        plan, tokens = at.rank.plan, at.tokens
        mine = _share(tokens, plan.tp) if plan.exchanges and plan.tp > 1 else tokens
        yield from self._chosen(at, mine)
        yield from into_slots(self, at, mine)
        yield from self._computed(at, mine)
        yield from out_of_slots(self, at, mine)
        joined = self.latent_norm and not plan.exchanges and plan.tp > 1
        if self.latent and not joined:
            yield "latent_out_proj", Gemm(mine, at.hidden, self.latent)
        if self.shared_width:
            yield from self._shared(at, mine)
        if joined:
            # Routed sums in their latent and shared ones meet in one message, before the norm between them.
            wide = BF16 * tokens * (at.hidden + self.latent)
            yield "all_reduce", at.collective(("tp",), "all_reduce", wide)
            yield "latent_norm", Elementwise(mine, 2 * BF16 * mine * self.latent)
            yield "latent_out_proj", Gemm(mine, at.hidden, self.latent)
        elif not plan.exchanges:
            yield from at.reduce
        elif plan.tp > 1 and plan.backend != "coordinated":
            yield "gather_sequence", at.collective(("tp",), "all_gather", BF16 * tokens * at.hidden)

    def _chosen(self, at: Frame, mine: Any) -> Iterator[Named]:
        """Each token's experts, and what those see of it."""
        gate = at.rank.routing_of(self)
        if gate.kind == "hash":
            yield "hash_experts", Elementwise(mine, 8.0 * mine * (1 + self.num_experts_per_tok))
        else:
            yield from self._scored(at, mine)
        if gate.kind == "base":
            passes = gate.assignment_passes
            yield "assignment", Elementwise(mine, 4.0 * passes * mine * self.num_experts, max(passes, 1))
        if self.latent:
            yield "latent_proj", Gemm(mine, self.latent, at.hidden)

    def _scored(self, at: Frame, mine: Any) -> Iterator[Named]:
        """Scores of all experts, and the best of them."""
        if self.router == "float32":
            yield "router_cast", Elementwise(mine, mine * (BF16 + 4.0) * at.hidden)
        yield "router", Gemm(mine, max(self.num_experts + self.unrouted, _ROUTER_COLUMNS), at.hidden, self.router)
        least_s = at.rank.engine.file.expert_choice.least_s(self.scores)
        picked = mine * (BF16 * self.num_experts + 8.0 * self.num_experts_per_tok)
        yield "top_k", Elementwise(mine, picked, max(self.mixer_kernels, 1), least_s=least_s)

    def _computed(self, at: Frame, mine: Any) -> Iterator[Named]:
        """The routed experts, with what brings tokens to them from other ranks."""
        plan = at.rank.plan
        everyone, experts = at.tokens * plan.dp, self._experts(at)
        widened = self._widened_weights(at.rank)
        if widened:
            moved = widened * (bytes_per_weight(self.experts) + BF16)
            yield "dequantize_experts", Elementwise(at.rank.slots(self), moved, 2)
        if plan.dp == 1:
            yield "experts", experts
        elif plan.exchanges:
            yield from self._exchanged(at, mine, everyone, experts)
        else:
            seen = self.seen(at.hidden)
            yield "gather_tokens", at.collective(("dp",), "all_gather", self._token_bytes(at) * everyone)
            yield "experts", experts
            yield "scatter_tokens", at.collective(("dp",), "reduce_scatter", BF16 * seen * everyone)

    def _shared(self, at: Frame, mine: Any) -> Iterator[Named]:
        """The shared expert, and its sum with the routed ones."""
        slices = 1 if at.rank.plan.exchanges else at.rank.plan.tp
        yield from feed_forward(at, mine, self.shared_width // slices, self.gated, "shared", self.weights)
        if self.shared_gate:
            yield "shared_gate", Elementwise(mine, BF16 * mine * at.hidden, 2)
        yield "shared_add", Elementwise(mine, 3 * BF16 * mine * at.hidden)

    def _experts(self, at: Frame) -> FusedExperts | LoopedExperts:
        """The routed experts over all replicas' rows: padded alike where a graph runs them, as they are elsewhere."""
        rank, plan, load = at.rank, at.rank.plan, at.load
        slots = rank.dispatch.kind == "static_capacity"
        kernel, *others = rank.expert_kernels(self)
        # Tokens a replica may be a mean over replicas.
        real = np.rint(load.tokens * plan.dp) if isinstance(load.tokens, (float, np.ndarray)) else load.tokens * plan.dp
        rows = _where(load.graph, at.tokens * plan.dp, real)
        if rank.dispatch.kind == "looped":
            return looped(self, at, rows)
        return FusedExperts(
            rows, self.seen(at.hidden), self.width // plan.expert_tp, rank.slots(self), self.num_experts_per_tok,
            rank.loads(self), self.gated, "bfloat16" if kernel.widens_weights else self.experts,
            all_experts=self.num_experts if plan.ep > 1 else None,
            local_only=slots or (plan.exchanges and plan.backend != "allgather_reducescatter"),
            backend=kernel.backend,
            others=tuple(other.backend for other in others),
            real_tokens=None if slots or bool(np.all(real >= rows)) else real,
            other_loads=rank.other_loads(self),
            padding=rank.engine.file.graphs.padding_of(self.n_group > 1),
            as_fused=rank.dispatch.kind in {"fused", "dropping"},
        )  # fmt: skip

    @property
    def _sent_element(self) -> float:
        """Bytes of an activation on its way to an expert: block-scaled fp8 is quantised first."""
        return 1.0 if kind(self.experts) == "fp8_block" else BF16

    def _token_bytes(self, at: Frame) -> float:
        """A token as it is sent to experts, its expert numbers and their weights."""
        element = self._sent_element
        scales = 4.0 / 128 if element < BF16 else 0.0
        return (element + scales) * self.seen(at.hidden) + 8.0 * self.num_experts_per_tok

    def _exchanged(self, at: Frame, mine: Any, everyone: Any, experts: Operation) -> Iterator[Named]:
        """Tokens of each rank to their experts' ranks and back; the busiest rank receives most."""
        rank, plan, hidden, group = at.rank, at.rank.plan, self.seen(at.hidden), ("tp", "dp")
        loads, k = rank.loads(self), self.num_experts_per_tok
        rows = slots_of(self, at, mine) if rank.dispatch.kind == "static_capacity" else mine * k
        if plan.backend == "allgather_reducescatter":
            yield "gather_tokens", at.collective(group, "all_gather", self._token_bytes(at) * everyone)
            yield "experts", experts
            yield "scatter_tokens", at.collective(group, "reduce_scatter", BF16 * hidden * everyone)
            return
        busiest = loads.imbalance(everyone) if plan.ep > 1 else 1.0
        members = plan.members(*group)
        sent = {"dispatch": self._sent_element, "combine": BF16}
        for phase in ("dispatch", "combine"):
            if phase == "combine":
                yield "experts", experts
            if plan.deepep:
                yield phase, ExpertAllToAll(
                    plan.backend, phase, mine, hidden, k, self.num_experts, len(members),
                    bytes_per_element=sent[phase], sms=rank.engine.file.exchange.deepep_sms.value,
                    n_group=self.n_group, topk_group=self.topk_group, busiest=busiest, slices=plan.expert_tp,
                    members=members,
                )  # fmt: skip
                continue
            message = rows * hidden * sent[phase]
            if plan.backend == "coordinated" and plan.tp > 1:
                # DeepSpeed-MoE (arXiv 2201.05596, section 5.2): ranks of equal slice exchange, then a gather over
                # slices.
                yield phase, at.collective(("dp",), "alltoall", message, busiest=busiest)
                yield f"{phase}_slices", at.collective(("tp",), "all_gather", message * plan.tp)
                continue
            algorithm = plan.backend if plan.backend in {"two_level", "two_dh"} else "auto"
            # Every rank that holds a slice of an expert needs the token.
            message = message * plan.expert_tp
            yield phase, at.collective(group, "alltoall", message, algorithm=algorithm, busiest=busiest)

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        if not plan.exchanges:
            yield from width_refused(self.shared_width, plan.tp, name)
        yield from self._slices_refused(plan, name)
        picked, where = self.num_experts_per_tok, ("engine", "hf_overrides")
        if picked > self.num_experts:
            yield where, f"num_experts_per_tok is {picked}, above the {self.num_experts} experts there are"
        if picked < 1:
            yield where, "num_experts_per_tok is 0; at least 1 is needed"

    def _slices_refused(self, plan: Plan, name: str) -> Iterator[Refusal]:
        """Whether experts can be cut as finely as the plan cuts them."""
        slices = plan.expert_tp
        where, why = ("engine", "expert_tensor_parallel_size"), ""
        if not plan.expert_parallel:
            where = ("engine", "tensor_parallel_size")
            why = " (without expert parallelism vLLM slices experts TP x DP times)" if plan.dp > 1 else ""
        elif plan.tp * plan.dp % slices:
            return
        if self.width % slices:
            yield where, f"{slices} does not divide the expert width {self.width} of {name}{why}"
        elif kind(self.experts).startswith(("fp8_block", "mxfp8", "nvfp4")) and self.width // slices % group_of(
            self.experts
        ):
            cut = f"{slices} slices of {name}'s expert width {self.width} are {self.width // slices} wide"
            if slices == 1:
                cut = f"{name}'s expert width is {self.width}"
            yield (
                where,
                f"{cut}, no multiple of the {group_of(self.experts)} of {kind(self.experts)}; vLLM refuses that{why}",
            )

    def small_kernels(self, hidden: int) -> Iterator[tuple[str, dict[str, Any]]]:
        picked = {"num_experts": self.num_experts, "topk": self.num_experts_per_tok}
        yield "top_k", picked
        yield "align", {**picked, "block_m": 16}
        yield "align", {**picked, "block_m": 64}
        yield "permute", {**picked, "width": hidden}
        yield "sum", {"width": hidden, "topk": self.num_experts_per_tok}
        yield "activation", {"width": self.width}


def _share(tokens: Any, ranks: int) -> Any:
    """Tokens of each of several ranks, rounded up."""
    return -(-tokens // ranks)


def _where(mask: Any, inside: Any, outside: Any) -> Any:
    """Numbers stay numbers where the mask is one."""
    if isinstance(mask, (bool, np.bool_)):
        return inside if mask else outside
    return np.where(mask, inside, outside)
