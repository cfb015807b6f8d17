"""Operations -> costs on one GPU: which kernel family prices an operation, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.cost import fits as fits_module
from moesim.cost.cost import Cost, summed
from moesim.cost.fits import Fits, FittedFamily, load_fits
from moesim.cost.forms import attention, collective, deepep, elementwise, front_end, fused_moe, gemm, mla
from moesim.cost.forms.form import Form, Timing
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import tile_for, tuned_tiles
from moesim.cost.widening import (
    WIDER_ON_ANOTHER_GPU,
    WIDER_PER_OCTAVE,
    WIDER_WHEN_BORROWED,
    WIDEST,
    around,
    draws,
    octaves_outside,
    of_experts,
)
from moesim.errors import SpecError
from moesim.ops import Attention, Collective, ExpertAllToAll, FusedExperts, Gemm, Host, MlaModule, Operation
from moesim.ops.formats import OTHER_ENGINES
from moesim.spec.engine_file import load_engine
from moesim.spec.hardware import Hardware

if TYPE_CHECKING:
    from moesim.topology import Route

FORMS: dict[str, Form] = {
    "fused_moe": fused_moe.FORM,
    "gemm/bfloat16": gemm.BF16,
    "gemm/fp8": gemm.FP8,
    "gemm/fp8_block": gemm.FP8_BLOCK,
    "attention_prefill": attention.PREFILL,
    "attention_decode": attention.DECODE,
    "mla_prefill": mla.PREFILL,
    "mla_decode": mla.DECODE,
    "nccl": collective.NCCL,
    "custom_all_reduce": collective.CUSTOM,
    "symmetric_memory_all_reduce": collective.SYMMETRIC,
    "deepep_low_latency": deepep.LOW_LATENCY,
    "deepep_low_latency_nodes": deepep.LOW_LATENCY,
    "deepep_high_throughput": deepep.HIGH_THROUGHPUT,
    "deepep_high_throughput_nodes": deepep.HIGH_THROUGHPUT,
    "deepep_notify": deepep.NOTIFY,
    "elementwise": elementwise.FORM,
    "small": elementwise.FORM,
    "host": elementwise.HOST,
    "front_end": front_end.FORM,
    "served_token": front_end.SERVED_TOKEN,
}
"""Form of a family, by its name or by the part of it before the slash."""

EXPERT_KERNELS = {
    "bfloat16": ("fused_moe/bfloat16", "triton"),
    "fp8": ("fused_moe/fp8_block", "triton"),
    "fp8_block": ("fused_moe/fp8_block", "triton"),
    "int8": ("fused_moe/fp8_block", "triton"),
    "int8_weight_only": ("fused_moe/int4", "marlin"),
    "int4": ("fused_moe/int4", "marlin"),
    "mxfp4": ("fused_moe/mxfp4", "triton_kernels"),
    **dict.fromkeys(OTHER_ENGINES, ("fused_moe/int4", "marlin")),
}
"""Weight format -> (family, kernel). Per-tensor fp8 and int8 borrow the block-scaled fp8 kernel, formats of other
engines the int4 one."""
OTHER_EXPERT_KERNELS = {("mxfp4", "marlin"): ("fused_moe/int4", "marlin")}
"""(weight format, backend asked for) -> (family, kernel), where it is not the format's own choice.

mxfp4 under Marlin is priced by the same kernel's int4 rows: its own table holds one model of 896 experts with an
activation of its own."""

SMALL_KERNELS = {
    **dict.fromkeys(("input_norm", "post_norm", "cross_norm", "final_norm"), "small/norm"),
    **dict.fromkeys(("mlp_act", "shared_act"), "small/activation"),
    "rope": "small/rope",
    "top_k": "small/top_k",
    "embedding": "small/embedding",
    "sampling": "small/sampling",
}
"""Operation -> the family of its own kernel, where a calibration has measured it; else a related one stands in."""

_BORROWED = {
    ("experts", "fp8"), ("experts", "int8"), ("experts", "int8_weight_only"),
    ("gemm", "int8"), ("gemm", "int4"), ("gemm", "int8_weight_only"),
    *((kind, weights) for kind in ("experts", "gemm") for weights in OTHER_ENGINES),
}  # fmt: skip


class Machine:
    """A GPU with its fits; prices operations."""

    def __init__(self, hardware: Hardware, calibration: str = "auto"):
        self.hardware = hardware
        self.gpu = GpuNumbers.of(hardware)
        own = fits_module.for_gpu(hardware.name) if calibration == "auto" else calibration
        self.fits: Fits = load_fits(own or fits_module.DEFAULT)
        self.tuned = tuned_tiles(hardware.name)
        self.all_reduce = load_engine().all_reduce
        self._cold = _cold(self.gpu)
        _check(self.fits)

    @cached_property
    def fallback(self) -> Fits:
        """Stands in for families this GPU has no fit of."""
        fits = load_fits(fits_module.DEFAULT)
        _check(fits)
        return fits

    def price(self, name: str, op: Operation) -> Cost:
        """Time of one operation, with its interval and where it comes from."""
        if isinstance(op, Host):
            return self._host(name, op)
        if isinstance(op, Collective):
            return self._collective(name, op)
        if isinstance(op, ExpertAllToAll):
            return self._expert_all_to_all(name, op)
        if isinstance(op, FusedExperts):
            family, kernel = OTHER_EXPERT_KERNELS.get((op.weights, op.backend)) or EXPERT_KERNELS[op.weights]
            borrowed = ("experts", op.weights) in _BORROWED
            if (op.weights, op.backend) in OTHER_EXPERT_KERNELS:
                op, borrowed = padded(op), True
            tile = tile_for(kernel, op.weights, op, self.tuned)
            return self._priced(name, op, family, self.gpu, tile, borrowed)
        if isinstance(op, Gemm):
            return self._gemm(name, op)
        if isinstance(op, (Attention, MlaModule)):
            return self._attention(name, op)
        own = SMALL_KERNELS.get(name, "")
        if own in self.fits.families:
            return self._priced(name, op, own, self.gpu)
        return self._priced(name, op, "elementwise", self.gpu, borrowed=True)

    def attention_seconds(self, op: Attention | MlaModule) -> Any:
        """The central time alone of what ``price`` prices in full. [s]"""
        family, gpu = self._attention_family(op)
        form = _form(family)
        assert form is not None
        return form.seconds(self._family(family)[0].parameters, op, gpu).seconds

    def host_seconds(self, op: Host) -> Any:
        """The same of the host's part of a step. [s]"""
        return elementwise.host_seconds(self._family("host")[0].parameters, op, self.gpu).seconds

    @property
    def front_end(self) -> Mapping[str, float]:
        """Constants of a request's way to the scheduler. [s]"""
        return self._family("front_end")[0].parameters

    @property
    def served_errors(self) -> tuple[float, float]:
        """90 % half-widths of ln(measured/predicted) of served dense runs: time to first token, time per token."""
        first, token = (self._family(name)[0].residuals.half_width[0] for name in ("front_end", "served_token"))
        return float(first), float(token)

    def _attention_family(self, op: Attention | MlaModule) -> tuple[str, GpuNumbers]:
        """Which family prices it, on a GPU with its L2 or without."""
        decode = _is_decode(op)
        if isinstance(op, MlaModule):
            return ("mla_decode" if decode else "mla_prefill"), self.gpu
        return ("attention_decode", self._cold) if decode else ("attention_prefill", self.gpu)

    def _attention(self, name: str, op: Attention | MlaModule) -> Cost:
        if isinstance(op, MlaModule):
            related = (op.hidden, op.q_lora_rank, op.kv_lora_rank) != (7168, 1536, 512)
            related = related or op.top_k is not None or (op.bytes_per_weight != 2.0 and not op.fp8_gemm)
        else:
            related = op.related or not op.causal
        return self._priced(name, op, *self._attention_family(op), borrowed=related)

    def _family(self, name: str) -> tuple[FittedFamily, Fits]:
        fits = self.fits
        if name.startswith("deepep"):
            fits = load_fits(fits_module.deepep_fits(name, self.hardware.name))
        elif name not in fits.families or (name.startswith("nccl/") and self._other_links(fits)):
            unswitched = name.startswith("nccl/") and self.hardware.links.kind == "none"
            fits = load_fits(fits_module.UNSWITCHED) if unswitched else self.fallback
        return fits.family(name), fits

    def _other_links(self, fits: Fits) -> bool:
        """A PCIe-only GPU under a stand-in calibration: its collectives come from a PCIe-only GPU's fit."""
        return fits.gpu != self.hardware.name and self.hardware.links.kind == "none"

    def _priced(
        self, name: str, op: Any, family_name: str, gpu: GpuNumbers, extra: Any = None, borrowed: bool = False
    ) -> Cost:
        """``extra`` is what a form takes beyond parameters, work and GPU: a tile, a route."""
        family, fits = self._family(family_name)
        form = _form(family_name)
        assert form is not None
        timing: Timing = form.seconds(family.parameters, op, gpu, *(() if extra is None else (extra,)))
        return self._cost(name, op, timing, family, fits, form, borrowed)

    def _cost(
        self, name: str, op: Any, timing: Timing, family: FittedFamily, fits: Fits, form: Form, borrowed: Any
    ) -> Cost:
        seconds = timing.seconds
        width = family.residuals.interval(seconds)
        notes: list[str] = []
        if isinstance(op, FusedExperts):
            width = of_experts(width, op)
            if op.parallel:
                notes.append("a part of the experts on each rank was never fitted")
        octaves, outside = octaves_outside(family, op, form)
        if outside:
            width = width * (1 + WIDER_PER_OCTAVE * octaves) + 0.1 * octaves
            notes.append(f"{outside} outside the fitted range")
        if fits.gpu != self.hardware.name:
            seen = family.transfer_half_width(self.hardware.compute_capability)
            width = np.maximum(WIDER_ON_ANOTHER_GPU * width, seen)
            notes.append(f"fitted on {fits.gpu}")
        if borrowed if isinstance(borrowed, bool) else borrowed.any():
            width = np.where(borrowed, WIDER_WHEN_BORROWED, 1.0) * width
            notes.append(f"priced by a related kernel ({family.name})")
        return Cost(
            name,
            seconds,
            {family.name: around(seconds, np.minimum(width, WIDEST))},
            bound=_bound(timing),
            formula=form.text,
            source=f"{fits.name}:{family.name}",
            tag="extrapolated" if notes else "fitted",
            op=op,
            notes=tuple(notes),
            variance=draws(op, timing),
        )

    def _gemm(self, name: str, op: Gemm) -> Cost:
        borrowed = ("gemm", op.weights) in _BORROWED
        if op.weights in {"fp8", "int8"}:
            return self._priced(name, op, "gemm/fp8", self._cold, borrowed=borrowed)
        if op.weights != "fp8_block":
            return self._priced(name, op, "gemm/bfloat16", self._cold, borrowed=borrowed)
        family, fits = self._family("gemm/fp8_block")
        launch = self._family("gemm/fp8")[0].parameters["t_launch"]
        # The table is host-bound; a CUDA graph is not. Its GPU floor is the per-tensor kernel's.
        p = {**family.parameters, "t_host": launch, "t_align": 0.0, "t_launch": launch}
        timing = gemm.fp8_block_seconds(p, op, self._cold)
        return self._cost(
            name,
            op,
            timing,
            family,
            fits,
            gemm.FP8_BLOCK,
            borrowed=timing.seconds < family.parameters["t_host"],
        )

    def _route(self, members: tuple[int, ...]) -> Route | None:
        """What lies between GPUs of a cluster; None is a node as the GPU's own file describes it."""
        if not self.hardware.cluster or not members:
            return None
        from moesim.topology import route

        return route(self.hardware, members)

    def _collective(self, name: str, op: Collective) -> Cost:
        way = self._route(op.members)
        switched = way.switched if way else self.hardware.links.kind == "NVSwitch"
        kernels: dict[str, Any] = {"nccl": True}
        if op.kind == "all_reduce" and switched:
            capability = self.hardware.compute_capability
            kernels = self.all_reduce.kernels(capability, int(op.ranks), op.message_bytes, op.custom)
        costs = []
        for kernel, mask in kernels.items():
            if kernel == "nccl":
                kind = "alltoall" if op.kind == "send_recv" else op.kind
                cost = self._priced(name, op, f"nccl/{kind}", self.gpu, way, borrowed=not switched)
            else:
                cost = self._priced(name, op, f"{kernel}_all_reduce", self.gpu)
            costs.append((mask, _between_nodes(cost, way)))
        return costs[0][1] if len(costs) == 1 else _chosen(costs)

    def _expert_all_to_all(self, name: str, op: ExpertAllToAll) -> Cost:
        way = self._route(op.members)
        if way is None or way.nodes == 1:
            return self._priced(name, op, f"{op.backend}/{op.phase}", self.gpu)
        name_of_family = f"{op.backend}_nodes/{op.phase}"
        # The NIC's share was fitted with the NIC: what the fabric leaves of it is the rest.
        left = way.remote_bytes_per_s / self._family(name_of_family)[0].parameters["r_nic"]
        gpu = replace(self.gpu, nic_bytes_per_s=min(self.gpu.nic_bytes_per_s, left), nic_latency_s=way.latency_s)
        op = replace(op, nodes=way.nodes)
        sent = _between_nodes(self._priced(name, op, name_of_family, gpu), way)
        if op.backend == "deepep_low_latency":
            return sent
        # Counts first: no bytes worth counting.
        counts = replace(self._priced(f"{name}_notify", op, "deepep_notify", gpu), op=None)
        return summed(name, [counts, sent])

    def _host(self, name: str, op: Host) -> Cost:
        family, fits = self._family("host")
        timing = elementwise.host_seconds(family.parameters, op, self.gpu)
        waits = ~np.asarray(op.graph) & (op.kernels * family.parameters["t_kernel_eager"] > op.gpu_s)
        cost = self._cost(name, op, timing, family, fits, elementwise.HOST, borrowed=waits)
        return replace(cost, bound="host", tag="assumed" if np.any(waits) else cost.tag)


def padded(op: FusedExperts) -> FusedExperts:
    """Experts as vLLM pads them for Marlin: width to 128, hidden size to 256 (quantization/mxfp4.py)."""
    return replace(op, width=-(-op.width // 128) * 128, hidden=-(-op.hidden // 256) * 256)


def _between_nodes(cost: Cost, way: Route | None) -> Cost:
    """Says which link is the busiest where a cluster's wiring decides."""
    if way is None or way.switched or not way.bottleneck:
        return cost
    return replace(cost, notes=(*cost.notes, f"busiest link {way.bottleneck}"))


def _form(family: str) -> Form | None:
    return FORMS.get(family) or FORMS.get(family.partition("/")[0])


def _check(fits: Fits) -> None:
    """A fit must name every parameter of its forms. Raises SpecError."""
    if fits.families and all(name.startswith("host_") for name in fits.families):
        raise SpecError(f"the calibration '{fits.name}' is of a processor and prices no GPU; give its .yaml to --host")
    for name, family in fits.families.items():
        form = _form(name)
        missing = [q.name for q in form.parameters if q.name not in family.parameters] if form else []
        if missing:
            raise SpecError(
                f"the calibration '{fits.name}' lacks {', '.join(missing)} of '{name}': "
                "it was written by another version; run `moesim fit`"
            )


def _chosen(costs: list[tuple[Any, Cost]]) -> Cost:
    """Each cost where its mask holds, step by step."""
    spread = {
        family: (np.where(mask, down, 0.0), np.where(mask, up, 0.0))
        for mask, cost in costs
        for family, (down, up) in cost.spread.items()
    }
    parts = [np.where(mask, cost.seconds, 0.0) for mask, cost in costs]
    mostly = costs[int(np.argmax([part.sum() for part in parts]))][1]
    notes = tuple(dict.fromkeys(note for _, cost in costs for note in cost.notes))
    return replace(
        mostly,
        seconds=sum(parts),
        spread=spread,
        source=", ".join(
            cost.source if i == 0 else cost.source.rpartition(":")[2] for i, (_, cost) in enumerate(costs)
        ),
        tag="extrapolated" if notes else mostly.tag,
        notes=notes,
    )


def _is_decode(op: Attention | MlaModule) -> bool:
    return len(op.groups) == 1 and bool(np.all(np.asarray(op.groups[0].query) == 1))


def _cold(gpu: GpuNumbers) -> GpuNumbers:
    """Weights and caches of a running model never wait in L2, unlike a benchmark's repeated call."""
    return replace(gpu, l2_bytes=1.0)


_BOUNDS = ("launch", "memory", "compute")


def _bound(timing: Timing) -> str:
    parts = [part.sum() if isinstance(part, np.ndarray) else part for part in timing[1:]]
    return _BOUNDS[parts.index(max(parts))]
