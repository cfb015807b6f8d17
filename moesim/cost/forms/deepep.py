"""DeepEP's dispatch and combine (deepseek-ai/DeepEP; DeepSeek-V3, arXiv 2412.19437, section 3.2).

Low latency: one copy of a token for each of its experts. An SM serves ``ceil(E / SMs)`` experts, so few experts use
few SMs. High throughput: one copy a rank, moved by a chosen number of SMs through rings of buffers; between nodes
one copy a node goes over RDMA and is forwarded over NVLink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moesim.cost.cost import Cost, summed
from moesim.cost.forms.arithmetic import ceil, exp, log2, maximum, real, where
from moesim.cost.forms.form import Form, Parameter, Timing, smooth_max
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, families, prices
from moesim.ops.all_to_all import ExpertAllToAll

_RANGED = ("tokens", "hidden", "top_k", "num_experts", "ranks", "nodes")

LOW_LATENCY_PARAMETERS = (
    Parameter("t_host", "s", 1e-5, 1e-7, 1e-3, "host time of a call outside a CUDA graph, while the GPU works"),
    Parameter("t_launch", "s", 8e-6, 1e-6, 2e-4, "launch, and one flag over NVLink"),
    Parameter("t_experts", "s", 1e-6, 0.0, 2e-5, "for each expert an SM serves"),
    Parameter("t_hidden", "s/B", 2e-10, 0.0, 1e-8, "reading and writing one copy of a token on the critical path"),
    Parameter("t_token", "s", 1e-6, 0.0, 2e-5, "one token on one SM: cast, count, post"),
    Parameter("t_copy", "s", 1e-7, 0.0, 1e-5, "one further copy of it"),
    Parameter("r_link", "1", 0.6, 0.05, 1.0, "share of the link's datasheet"),
    Parameter("t_remote", "s", 8e-6, 0.0, 1e-4, "a flag over RDMA, once"),
    Parameter("r_nic", "1", 0.85, 0.1, 1.0, "share of the NIC's datasheet"),
    Parameter("p_join", "1", 3.0, 1.0, 12.0, "overlap of SMs, links and NICs"),
)


def low_latency_seconds(p: Mapping[str, float], op: ExpertAllToAll, gpu: GpuNumbers) -> Timing:
    """One direction in low-latency mode. [s]"""
    experts = real(op.num_experts)
    per_sm = ceil(experts / gpu.sm_count)
    sms = ceil(experts / per_sm)
    tokens = real(op.tokens) * op.busiest
    launch = p["t_launch"] + p["t_experts"] * per_sm + p["t_hidden"] * op.token_bytes
    launch = launch + where(op.nodes > 1, maximum(p["t_remote"], gpu.nic_latency_s), 0.0)
    work = tokens * (p["t_token"] + op.copies * p["t_copy"]) / sms
    link = maximum(op.link_bytes - op.node_bytes, 0.0) / (gpu.link_bytes_per_s * p["r_link"])
    nic = op.node_bytes / (gpu.nic_bytes_per_s * p["r_nic"])
    moved = smooth_max(smooth_max(link, work, p["p_join"]), nic, p["p_join"])
    return _timing(p, launch, moved)


HIGH_THROUGHPUT_PARAMETERS = (
    Parameter("t_host", "s", 1e-5, 1e-7, 1e-3, "host time of a call outside a CUDA graph, while the GPU works"),
    Parameter("t_launch", "s", 25e-6, 1e-6, 1e-3, "launch, layout and barriers"),
    Parameter("t_hidden", "s/B", 2e-10, 0.0, 1e-8, "one copy of a token on the critical path"),
    Parameter("t_token", "s", 4e-7, 0.0, 2e-5, "one token on one SM"),
    Parameter("t_copy", "s", 1e-7, 0.0, 1e-5, "one copy on one SM"),
    Parameter("bw_sm", "B/s", 2.2e10, 1e9, 2e11, "bytes one SM moves"),
    Parameter("n_fill", "B", 1e6, 0.0, 1e9, "bytes that fill the pipeline of buffers, over all SMs"),
    Parameter("r_link", "1", 0.75, 0.1, 1.0, "share of the link's datasheet"),
    Parameter("r_nic", "1", 0.9, 0.1, 1.0, "share of the NIC's datasheet"),
    Parameter("p_join", "1", 6.0, 1.0, 20.0, "overlap of SMs, links and NICs"),
)


def high_throughput_seconds(p: Mapping[str, float], op: ExpertAllToAll, gpu: GpuNumbers) -> Timing:
    """One direction in high-throughput mode; a node's copies are counted twice, sent and forwarded. [s]"""
    many = real(op.nodes) > 1
    tokens = real(op.tokens) * op.busiest
    copies = op.copies + where(many, op.node_copies / maximum(1.0 - 1.0 / real(op.nodes), 0.5), 0.0)
    each = tokens * (p["t_token"] + copies * (p["t_copy"] + op.token_bytes / p["bw_sm"])) / op.sms
    link = op.link_bytes / (gpu.link_bytes_per_s * p["r_link"])
    nic = op.node_bytes / (gpu.nic_bytes_per_s * p["r_nic"])
    moved = smooth_max(smooth_max(link, each, p["p_join"]), nic, p["p_join"])
    volume = tokens * copies * op.token_bytes
    filling = p["n_fill"] * (1.0 - exp(-volume / max(p["n_fill"], 1.0))) / (p["bw_sm"] * op.sms)
    launch = maximum(p["t_launch"], gpu.nic_latency_s) + p["t_hidden"] * op.token_bytes
    return _timing(p, launch, filling + moved)


def _timing(p: Mapping[str, float], launch: Any, moved: Any) -> Timing:
    """The call waits for its host where that is slower."""
    total = smooth_max(launch + moved, p["t_host"], 4.0)
    return Timing(total, total - moved * total / (launch + moved), moved, 0.0 * moved)


NOTIFY_PARAMETERS = (
    Parameter("t_notify", "s", 1e-5, 0.0, 1e-3, "launch and a barrier in the node"),
    Parameter("t_level", "s", 2e-5, 0.0, 1e-3, "each doubling of nodes: a round over RDMA"),
)


def notify_seconds(p: Mapping[str, float], op: ExpertAllToAll, gpu: GpuNumbers) -> Timing:
    """The exchange of counts before high throughput transmits between nodes, ranks in step. [s]"""
    total = p["t_notify"] + p["t_level"] * log2(real(op.nodes))
    total = maximum(total, gpu.nic_latency_s) + 0.0 * real(op.tokens)
    return Timing(total, total, 0.0 * total, 0.0 * total)


NOTIFY = Form("deepep_notify", "t_notify + t_level log2(nodes)", NOTIFY_PARAMETERS, notify_seconds, ("nodes",))
LOW_LATENCY = Form(
    "deepep_low_latency",
    "t_launch + t_experts ceil(E/SMs) + t_hidden b + smax(bytes/(link r_link), N (t_token + k t_copy)/SMs used, "
    "bytes between nodes/(NIC r_nic)) + t_remote between nodes",
    LOW_LATENCY_PARAMETERS,
    low_latency_seconds,
    _RANGED,
)
HIGH_THROUGHPUT = Form(
    "deepep_high_throughput",
    "t_launch + t_hidden b + filling + smax(bytes/(link r_link), N (t_token + copies (t_copy + b/bw_sm))/SMs, "
    "bytes between nodes/(NIC r_nic))",
    HIGH_THROUGHPUT_PARAMETERS,
    high_throughput_seconds,
    _RANGED,
)

families({
    "deepep_low_latency": LOW_LATENCY,
    "deepep_low_latency_nodes": LOW_LATENCY,
    "deepep_high_throughput": HIGH_THROUGHPUT,
    "deepep_high_throughput_nodes": HIGH_THROUGHPUT,
    "deepep_notify": NOTIFY,
})  # fmt: skip


@prices(ExpertAllToAll)
def price(machine: Any, name: str, op: ExpertAllToAll) -> Cost:
    """In a node, or between nodes as the cluster's fabric lets it; high throughput exchanges counts first."""
    way = machine.route(op.members)
    if way is None or way.nodes == 1:
        return machine.priced(name, Choice(f"{op.backend}/{op.phase}", op, machine.gpu))
    family = f"{op.backend}_nodes/{op.phase}"
    # The NIC's share was fitted with the NIC: what the fabric leaves of it is the rest.
    left = way.remote_bytes_per_s / machine.family(family)[0].parameters["r_nic"]
    nic = min(machine.gpu.nic_bytes_per_s, left)
    gpu = replace(machine.gpu, nic_bytes_per_s=nic, nic_latency_s=way.latency_s)
    op = replace(op, nodes=way.nodes)
    sent = machine.with_bottleneck(machine.priced(name, Choice(family, op, gpu)), way)
    if op.backend == "deepep_low_latency":
        return sent
    # Counts first: no bytes worth counting.
    counts = replace(machine.priced(f"{name}_notify", Choice("deepep_notify", op, gpu)), op=None)
    return summed(name, [counts, sent])
