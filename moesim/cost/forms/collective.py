"""Collectives: algorithms as alpha-beta forms, with the constants of NCCL's protocols and vLLM's own all-reduces.

NCCL sends a message by LL (few bytes, least latency), LL128 or Simple (a pipeline to fill, then nearly the link's
rate), whichever is fastest; launch and hops take LL the least, Simple the most. Algorithms differ in hops and volume
(docs/model/collectives.md; NCCL tuning.cc):

=================  ===================================  ===========================
ring all-reduce    2(n - 1) hops                        2(n - 1)/n m
ring gather        (n - 1) hops                         (n - 1)/n m
tree all-reduce    local chain + 2 log2(nodes) hops     2 m
nvls all-reduce    the switch adds                      (1 + 1/n) m, past each link
direct all-to-all  one hop, a message for each peer     (n - 1)/n m
two-level          within nodes, then between           twice that
2DH (Tutel)        the same, chunks aligned by copies   twice that
=================  ===================================  ===========================

vLLM's custom all-reduce reads peers' buffers directly: once each below a size, in two shots above. Its
symmetric-memory all-reduce copies the message in and lets the switch add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.cost.cost import Cost, add_spread
from moesim.cost.forms.arithmetic import exp, log2, maximum, minimum, real, where
from moesim.cost.forms.form import Form, Parameter, Timing, smooth_max
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, families, prices
from moesim.ops.collective import BUS_FACTOR, Collective

if TYPE_CHECKING:
    from moesim.hardware.topology import Route

_NVLS_ABOVE_RANKS = 4
_SHARPNESS = 8.0
"""Of the choice between protocols: NCCL picks the fastest, nearly always."""

NCCL_PARAMETERS = (
    Parameter("t_ll", "s", 5e-6, 1e-7, 1e-4, "LL: launch and one hop"),
    Parameter("h_ll", "s", 1e-6, 0.0, 2e-5, "LL: each further rank"),
    Parameter("r_ll", "1", 0.05, 1e-3, 1.0, "LL: share of the link's datasheet"),
    Parameter("t_ll128", "s", 2e-6, 0.0, 1e-4, "LL128: launch and one hop, beyond LL's time"),
    Parameter("h_ll128", "s", 2e-7, 0.0, 2e-5, "LL128: each further rank, beyond LL's time"),
    Parameter("r_ll128", "1", 0.3, 0.02, 1.0, "LL128: share of the link's datasheet"),
    Parameter("t_simple", "s", 3e-6, 0.0, 2e-4, "Simple: launch and one hop, beyond LL128's time"),
    Parameter("h_simple", "s", 2e-7, 0.0, 2e-5, "Simple: each further rank, beyond LL's time"),
    Parameter("r_simple", "1", 0.8, 0.1, 1.0, "Simple: share of the link's datasheet"),
    Parameter("n_fill", "B", 5e6, 1.0, 1e8, "volume that fills the pipeline of Simple"),
    Parameter("r_copy", "1", 0.3, 0.02, 20.0, "copy of a rank's own chunk, share of HBM bandwidth"),
    Parameter("r_nvls", "1", 0.68, 0.1, 1.0, "in-switch reduction, share of the link's datasheet"),
    Parameter("x_shared", "1", 0.1, 0.0, 3.0, "how bandwidth per rank falls with ranks that share a link (PCIe)"),
)
"""r_nvls starts from nccl-tests on H200 with 5 to 8 ranks (stas00/ml-engineering, network/README.md)."""

CUSTOM_PARAMETERS = (
    Parameter("t_launch", "s", 4e-6, 1e-7, 5e-5, "launch and barrier"),
    Parameter("t_rank", "s", 0.1e-6, 0.0, 1e-5, "each further rank"),
    Parameter("r_one_shot", "1", 0.5, 0.02, 2.0, "reading every peer, share of the link's datasheet"),
    Parameter("t_two_shot", "s", 2e-6, 0.0, 2e-5, "second shot: barrier and gather"),
    Parameter("r_two_shot", "1", 0.7, 0.02, 1.5, "two shots, share of the link's datasheet"),
    Parameter("r_copy", "1", 0.5, 0.02, 20.0, "local copies, share of HBM bandwidth"),
)

SYMMETRIC_PARAMETERS = (
    Parameter("t_launch", "s", 9e-6, 1e-7, 5e-5, "copy in, barriers and launch"),
    Parameter("r_link", "1", 0.5, 0.02, 2.0, "in-switch reduction, share of the link's datasheet"),
    Parameter("r_copy", "1", 0.5, 0.02, 20.0, "the copy in, share of HBM bandwidth"),
)


def symmetric_seconds(p: Mapping[str, float], op: Collective, gpu: GpuNumbers) -> Timing:
    """vLLM's all-reduce through symmetric memory: a copy in, then a multimem reduction. [s]"""
    message = real(op.message_bytes)
    copy = 2.0 * message / (gpu.hbm_bytes_per_s * p["r_copy"])
    transfer = message / (gpu.link_bytes_per_s * p["r_link"]) + copy
    return Timing(p["t_launch"] + transfer, p["t_launch"], transfer, 0.0 * transfer)


def custom_seconds(p: Mapping[str, float], op: Collective, gpu: GpuNumbers) -> Timing:
    """vLLM's custom all-reduce inside a CUDA graph. [s]"""
    n, message = real(op.ranks), real(op.message_bytes)
    one_shot_limit = where(n == 2, np.inf, where(n <= 4, 512 * 1024, 256 * 1024))
    launch = p["t_launch"] + p["t_rank"] * (n - 2)
    copy = message / (gpu.hbm_bytes_per_s * p["r_copy"])
    one = (n - 1) * message / (gpu.link_bytes_per_s * p["r_one_shot"])
    two = p["t_two_shot"] + 2 * (n - 1) / n * message / (gpu.link_bytes_per_s * p["r_two_shot"])
    transfer = where(message < one_shot_limit, one, two) + copy
    return Timing(launch + transfer, launch, transfer, 0.0 * transfer)


def nccl_seconds(p: Mapping[str, float], op: Collective, gpu: GpuNumbers, route: Route | None = None) -> Timing:
    """A collective through NCCL, by the algorithm ``op`` names or the fastest NCCL has for it. [s]

    Parameters
    ----------
    p : mapping
        Fitted parameters, see ``NCCL_PARAMETERS`` for units.
    op : Collective
    gpu : GpuNumbers
    route : Route, optional
        What lies between the GPUs. None is one NVSwitch node, or whatever the table was measured on.
    """
    names = (op.algorithm,) if op.algorithm != "auto" else _choices(op, route)
    timings = [_ALGORITHM[name](p, op, gpu, route) for name in names]
    total = timings[0][0]
    launch = timings[0][1]
    for other, other_launch in timings[1:]:
        launch = where(other < total, other_launch, launch)
        total = minimum(total, other)
    launch = minimum(launch, total)
    return Timing(total, launch, total - launch, 0.0 * total)


def _choices(op: Collective, route: Route | None) -> tuple[str, ...]:
    """The algorithms NCCL has for a collective there."""
    if op.kind in {"alltoall", "send_recv"}:
        return ("direct",)
    if op.kind != "all_reduce":
        return ("ring",)
    if route and route.nodes > 1:
        return ("ring", "tree")
    return ("ring",) if route and not route.switched else ("ring", "nvls")


def _protocols(
    p: Mapping[str, float], gpu: GpuNumbers, bytes_per_s: float, volume: Any, ll_volume: Any, hops: Any, extra: Any,
    copied: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """(seconds, seconds of launch and hops) by the fastest protocol; ``extra`` is what remote hops add."""
    link = gpu.link_bytes_per_s

    def through(share: float, bytes_sent: Any) -> Any:
        return bytes_sent / minimum(link * share, bytes_per_s)

    ll = p["t_ll"] + p["h_ll"] * hops + maximum(ll_volume / (link * p["r_ll"]), volume / bytes_per_s)
    ll128 = p["t_ll"] + p["t_ll128"] + (p["h_ll"] + p["h_ll128"]) * hops + through(p["r_ll128"], volume)
    filling = p["n_fill"] * (1.0 - exp(-volume / p["n_fill"]))
    copy = copied / (gpu.hbm_bytes_per_s * p["r_copy"])
    simple = _simple_launch(p, hops) + through(p["r_simple"], volume + filling) + copy
    fastest = 1.0 / smooth_max(smooth_max(1.0 / ll, 1.0 / ll128, _SHARPNESS), 1.0 / simple, _SHARPNESS)
    # Protocols that meet at the same wire do not add up to more than it carries.
    return maximum(fastest, volume / bytes_per_s) + extra, p["t_ll"] + p["h_ll"] * hops + extra


def _simple_launch(p: Mapping[str, float], hops: Any) -> Any:
    return p["t_ll"] + p["t_ll128"] + p["t_simple"] + (p["h_ll"] + p["h_simple"]) * hops


def _ring(p: Mapping[str, float], op: Collective, gpu: GpuNumbers, route: Route | None) -> tuple[Any, Any]:
    n, message = real(op.ranks), real(op.message_bytes)
    volume = BUS_FACTOR[op.kind] * (n - 1) / n * message
    rounds = BUS_FACTOR[op.kind]
    if route is None:
        volume = volume * (n / 2) ** p["x_shared"]
        return _protocols(p, gpu, np.inf, volume, volume, n - 2, 0.0, message / n)
    extra = rounds * route.nodes * route.latency_s if route.nodes > 1 else 0.0
    return _protocols(p, gpu, route.ring_bytes_per_s, volume, volume, n - 2, extra, message / n)


def _tree(p: Mapping[str, float], op: Collective, gpu: GpuNumbers, route: Route | None) -> tuple[Any, Any]:
    n, message = real(op.ranks), real(op.message_bytes)
    local, nodes = (n, 1) if route is None else (route.local_ranks, route.nodes)
    levels, bandwidth = log2(nodes), np.inf if route is None else route.ring_bytes_per_s
    extra = 2.0 * levels * (route.latency_s if route else 0.0)
    hops = maximum(local - 1 + levels - 1, 0.0)
    return _protocols(p, gpu, bandwidth, 2.0 * message, 2.0 * message, hops, extra, 0.0)


def _nvls(p: Mapping[str, float], op: Collective, gpu: GpuNumbers, route: Route | None) -> tuple[Any, Any]:
    """Each link carries the message up and its share down, then the reverse; filled like a ring's pipeline."""
    if route and not route.switched:
        return _ring(p, op, gpu, route)
    n, message = real(op.ranks), real(op.message_bytes)
    ring = 2.0 * (n - 1) / n * message
    filling = p["n_fill"] * (1.0 - exp(-ring / p["n_fill"]))
    launch = _simple_launch(p, n - 2)
    seconds = launch + ((1.0 + 1.0 / n) * message + filling) / (gpu.link_bytes_per_s * p["r_nvls"])
    usable = (n > _NVLS_ABOVE_RANKS) | (op.algorithm == "nvls")
    return where(usable, seconds, np.inf), launch


def _direct(p: Mapping[str, float], op: Collective, gpu: GpuNumbers, route: Route | None) -> tuple[Any, Any]:
    if op.kind == "send_recv":
        # Two ranks that exchange halves of a buffer of twice the size send one message each way.
        op = replace(op, kind="alltoall", ranks=2, message_bytes=2.0 * real(op.message_bytes))
    n, message = real(op.ranks), real(op.message_bytes) * op.busiest
    volume = (n - 1) / n * message
    # Each peer has a channel of its own, so LL's rate is that of one peer's share.
    if route is None:
        return _protocols(p, gpu, np.inf, volume * (n / 2) ** p["x_shared"], message / n, n - 2, 0.0, message / n)
    away = n - n / route.nodes
    extra = (route.latency_s + route.gap_s * maximum(away - 1.0, 0.0)) if route.nodes > 1 else 0.0
    return _protocols(p, gpu, route.direct_bytes_per_s, volume, message / n, n / route.nodes - 2, extra, message / n)


def _two_level(p: Mapping[str, float], op: Collective, gpu: GpuNumbers, route: Route | None) -> tuple[Any, Any]:
    """Within nodes, then between ranks of the same place: G + p/G messages, every byte sent twice."""
    if route is None or route.nodes == 1:
        return _direct(p, op, gpu, route)
    seconds, launch = _levels(p, op, gpu, route)
    pieces = p["h_ll"] * (op.ranks - route.local_ranks)
    return seconds + pieces, launch + pieces


def _levels(p: Mapping[str, float], op: Collective, gpu: GpuNumbers, route: Route) -> tuple[Any, Any]:
    """The two exchanges of a hierarchical all-to-all, chunks aligned."""
    local, nodes = route.local_ranks, route.nodes
    inside = _direct(p, replace(op, ranks=local), gpu, None) if local > 1 else (0.0, 0.0)
    between = replace(route, ranks=nodes, nodes=nodes, direct_bytes_per_s=route.remote_bytes_per_s)
    across = _direct(p, replace(op, ranks=nodes), gpu, between)
    return inside[0] + across[0], inside[1] + across[1]


def _two_dh(p: Mapping[str, float], op: Collective, gpu: GpuNumbers, route: Route | None) -> tuple[Any, Any]:
    """Tutel (arXiv 2206.03382, section 4.3): two strided copies align what one peer gets into one chunk."""
    if route is None or route.nodes == 1:
        return _direct(p, op, gpu, route)
    seconds, launch = _levels(p, op, gpu, route)
    copies = 2.0 * 2.0 * real(op.message_bytes) / gpu.hbm_bytes_per_s
    return seconds + copies, launch


_ALGORITHM: dict[str, Callable[..., tuple[Any, Any]]] = {
    "ring": _ring, "tree": _tree, "nvls": _nvls, "direct": _direct, "two_level": _two_level, "two_dh": _two_dh,
}  # fmt: skip

NCCL = Form(
    "nccl",
    "min over protocols and algorithms of t + h (n - 2) + volume/(link r) + copy of the own chunk; between nodes "
    "+ hops x latency, bandwidth of the bottleneck",
    NCCL_PARAMETERS,
    nccl_seconds,
    ("message_bytes", "ranks"),
)
SYMMETRIC = Form(
    "symmetric_memory_all_reduce",
    "t_launch + m/(link r_link) + 2 m/(HBM r_copy)",
    SYMMETRIC_PARAMETERS,
    symmetric_seconds,
    ("message_bytes", "ranks"),
)
CUSTOM = Form(
    "custom_all_reduce",
    "t_launch + t_rank (n - 2) + (n - 1) m/(link r) in one shot, or t_two_shot + 2(n - 1)/n m/(link r) in two",
    CUSTOM_PARAMETERS,
    custom_seconds,
    ("message_bytes", "ranks"),
)

families({"nccl": NCCL, "custom_all_reduce": CUSTOM, "symmetric_memory_all_reduce": SYMMETRIC})


@prices(Collective)
def price(machine: Any, name: str, op: Collective) -> Cost:
    """By NCCL, or by whichever all-reduce of its own the engine runs at each size."""
    way = machine.route(op.members)
    switched = way.switched if way else machine.hardware.links.kind == "NVSwitch"
    kernels: dict[str, Any] = {"nccl": True}
    inside = op.kind == "all_reduce" and switched
    if inside:
        rule, capability = machine.engine.file.all_reduce, machine.hardware.compute_capability
        kernels = rule.kernels(capability, int(op.ranks), op.message_bytes, op.custom)
    costs = []
    for kernel, mask in kernels.items():
        if kernel == "nccl":
            kind = "alltoall" if op.kind == "send_recv" else op.kind
            chosen = Choice(f"nccl/{kind}", op, machine.gpu, () if way is None else (way,), related=not switched)
        else:
            chosen = Choice(f"{kernel}_all_reduce", op, machine.gpu)
        costs.append((mask, machine.with_bottleneck(machine.priced(name, chosen), way)))
    return costs[0][1] if len(costs) == 1 else _where_each_runs(costs)


def _where_each_runs(costs: list[tuple[Any, Cost]]) -> Cost:
    """Each cost where its mask holds, step by step."""
    spread: dict[str, tuple[Any, Any]] = {}
    for mask, cost in costs:
        add_spread(spread, {t: (where(mask, down, 0.0), where(mask, up, 0.0)) for t, (down, up) in cost.spread.items()})
    parts = [where(mask, cost.seconds, 0.0) for mask, cost in costs]
    mostly = costs[int(np.argmax([np.sum(part) for part in parts]))][1]
    reasons = tuple(dict.fromkeys(reason for _, cost in costs for reason in cost.reasons))
    return replace(
        mostly,
        seconds=sum(parts),
        spread=spread,
        source=", ".join(
            cost.source if i == 0 else cost.source.rpartition(":")[2] for i, (_, cost) in enumerate(costs)
        ),
        tag="extrapolated" if reasons else mostly.tag,
        reasons=reasons,
    )
