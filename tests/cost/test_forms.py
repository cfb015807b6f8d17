"""The fitted formulas stay sane: right in both limits, monotone where nature is, faster on faster hardware."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import load_hardware
from moesim.cost.gpu import GpuNumbers
from moesim.cost.machine import Machine
from moesim.engines.engine import load_engine
from moesim.experts import routing
from moesim.inputs.routing import Uniform, Zipf
from moesim.ops import Attention, Collective, Elementwise, FusedExperts, Gemm, MlaModule
from moesim.ops.load import Group

MACHINE = Machine(load_hardware("h100-sxm"), load_engine())
GPU = MACHINE.gpu


def seconds(op) -> float:
    return float(np.sum(MACHINE.price("op", op).seconds))


def experts(tokens, weights="bfloat16", experts=128, k=8, width=768, hidden=2048, spec=None):
    return FusedExperts(tokens, hidden, width, experts, k, routing.loads(spec or Uniform(), experts, k), True, weights)


@pytest.mark.parametrize("weights", ["bfloat16", "fp8", "fp8_block", "int8", "int4", "mxfp4"])
@pytest.mark.parametrize("tokens", [1, 16, 512, 8192])
def test_fused_experts_respect_physics(weights, tokens):
    op = experts(tokens, weights)
    floor = max(float(op.flop) / GPU.flop_per_s(op.arithmetic), float(op.weight_bytes) / GPU.hbm_bytes_per_s)
    assert seconds(op) > floor


@pytest.mark.parametrize("weights", ["bfloat16", "fp8", "fp8_block"])
def test_gemm_limits(weights):
    large = Gemm(8192, 8192, 8192, weights)
    assert 1.0 < seconds(large) * GPU.flop_per_s(large.arithmetic) / large.flop < 2.2
    tall = Gemm(16, 16384, 16384, weights)
    assert 1.0 < seconds(tall) * GPU.hbm_bytes_per_s / tall.hbm_bytes < 1.6
    assert 1e-6 < seconds(Gemm(1, 64, 64, weights)) < 2e-5


@given(
    m=st.integers(1, 8192), n=st.integers(1, 128), k=st.integers(1, 128),
    weights=st.sampled_from(["bfloat16", "fp8", "fp8_block", "int4"]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_gemm_grows_with_its_shape(m, n, k, weights):
    op = Gemm(m, 128 * n, 128 * k, weights)
    assert seconds(replace(op, n=op.n * 4)) >= 0.95 * seconds(op)
    assert seconds(replace(op, k=op.k * 4)) >= 0.95 * seconds(op)
    assert seconds(op) > op.flop / GPU.flop_per_s(op.arithmetic)


@given(tokens=st.integers(1, 4096), scale=st.integers(2, 8), width=st.sampled_from([128, 768, 1024, 7168]))
@settings(max_examples=60, deadline=None)
def test_more_tokens_never_speed_up_experts_much(tokens, scale, width):
    assert seconds(experts(tokens * scale, width=width)) > 0.9 * seconds(experts(tokens, width=width))


def test_skew_changes_sign_with_load():
    """Fewer distinct experts make a small batch faster; the tables show it on H100 too."""
    skewed = Zipf(kind="zipf", s=1.2)
    assert seconds(experts(16, spec=skewed)) < 0.9 * seconds(experts(16))


@given(batch=st.integers(1, 256), context=st.integers(1, 65536), kv=st.sampled_from([1, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_decode_attention_grows_with_context(batch, context, kv):
    short = Attention((Group.decode(batch, context),), 8 * kv, kv, 128)
    long = Attention((Group.decode(batch, 4 * context),), 8 * kv, kv, 128)
    assert seconds(long) >= 0.97 * seconds(short)
    assert seconds(long) > float(long.hbm_bytes) / GPU.hbm_bytes_per_s


def test_a_window_is_never_slower_and_ends_growth():
    def windowed(context, window):
        return seconds(Attention((Group.decode(32, context),), 64, 8, 64, window))

    assert windowed(100_000, 128) < windowed(100_000, None)
    assert windowed(100_000, 128) == pytest.approx(windowed(10_000, 128))


def test_prefill_attention_is_quadratic_in_the_end():
    def prefill(tokens):
        return seconds(Attention((Group(1, tokens, 0),), 32, 8, 128))

    assert 3.5 < prefill(65536) / prefill(32768) < 4.2


def test_chunked_prefill_costs_what_its_chunks_do():
    whole = seconds(Attention((Group(1, 8192, 0),), 32, 8, 128))
    chunks = sum(seconds(Attention((Group(1, 2048, past),), 32, 8, 128)) for past in range(0, 8192, 2048))
    assert whole < chunks < 1.6 * whole


def test_mla_modules():
    def mla(heads, batch, query, past):
        return seconds(MlaModule((Group(batch, query, past),), heads, 7168, 1536, 512, 64, 128, 128))

    assert mla(128, 1, 1, 1000) < mla(128, 64, 1, 1000) < mla(128, 64, 1, 32000)
    assert mla(16, 1, 4096, 0) < mla(128, 1, 4096, 0)


@given(size=st.floats(1e3, 1e9), kind=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "alltoall"]))
@settings(max_examples=60, deadline=None)
def test_collectives_grow_with_bytes_and_obey_the_link(size, kind):
    for ranks in (2, 4, 8):
        op = Collective(size, ranks, kind)
        assert seconds(replace(op, message_bytes=2 * size)) >= 0.999 * seconds(op)
        assert seconds(op) > (ranks - 1) / ranks * size / GPU.link_bytes_per_s


def test_faster_hardware_is_never_slower():
    from moesim.cost.forms import attention, elementwise, gemm

    faster = replace(
        GPU, hbm_bytes_per_s=2 * GPU.hbm_bytes_per_s, bf16_flop_per_s=2 * GPU.bf16_flop_per_s,
        fp8_flop_per_s=2 * GPU.fp8_flop_per_s,
    )  # fmt: skip
    cases = [
        (gemm.BF16, "gemm/bfloat16", Gemm(np.array([1.0, 64, 8192]), 8192.0, 4096.0)),
        (gemm.FP8, "gemm/fp8", Gemm(np.array([1.0, 64, 8192]), 8192.0, 4096.0, "fp8")),
        (attention.DECODE, "attention_decode", Attention((Group.decode(64, np.array([100, 9000])),), 32, 8, 128)),
        (
            attention.PREFILL,
            "attention_prefill",
            Attention((Group(2, np.array([100, 9000]), 0),), 32, 8, 128),
        ),
        (elementwise.FORM, "elementwise", Elementwise(4096, 1e8)),
    ]
    for form, name, op in cases:
        p = MACHINE.family(name)[0].parameters
        assert (np.asarray(form.seconds(p, op, faster).seconds) <= 1.0001 * form.seconds(p, op, GPU).seconds).all()


def test_order_and_empty_groups_do_not_change_mla():
    def mla(*groups):
        return seconds(MlaModule(groups, 16, 7168, 1536, 512, 64, 128, 128))

    long, short, nothing = Group(1, 4000, 6000), Group(2, 100, 0), Group(0, 1, 0)
    assert mla(long, short) == pytest.approx(mla(short, long))
    assert mla(long, nothing) == pytest.approx(mla(long))


def test_weight_formats_change_what_mla_streams():
    def mla(bytes_per_weight):
        op = MlaModule((Group.decode(1, 100),), 128, 7168, 1536, 512, 64, 128, 128, bytes_per_weight=bytes_per_weight)
        return MACHINE.price("mla", op)

    assert mla(0.5).seconds < mla(2.0).seconds
    assert mla(0.5).tag == "extrapolated"


def test_cached_context_before_a_prefill_chunk_was_never_measured():
    fresh = MACHINE.price("a", Attention((Group(1, 2048, 0),), 32, 8, 128))
    later = MACHINE.price("a", Attention((Group(1, 2048, 2048),), 32, 8, 128))
    assert fresh.tag == "fitted"
    assert later.tag == "extrapolated" and "past outside the fitted range" in later.notes


def test_host_time_says_where_it_comes_from():
    from moesim.ops import Host

    def host(machine, sequences, graph=True):
        return machine.price("host", Host(np.array([sequences]), 300, np.array([graph]), np.array([1e-4])))

    assert host(MACHINE, 32).tag == "fitted"
    assert host(MACHINE, 900).tag == "extrapolated"
    assert host(MACHINE, 32, graph=False).tag == "assumed"
    assert "fitted on nvidia-h100-sxm5-80gb" in host(Machine(load_hardware("rtx-4090"), load_engine()), 32).notes


def test_all_reduce_follows_the_engine_by_size():
    def source(size, hardware=MACHINE):
        return hardware.price("a", Collective(np.array([size]), 8)).source

    assert source(2.0**17).endswith(":custom_all_reduce")
    assert source(2.0**18).endswith(":symmetric_memory_all_reduce")
    assert source(2.0**26 + 1).endswith(":nccl/all_reduce")
    assert source(2.0**17, Machine(load_hardware("l40s"), load_engine())).endswith(":nccl/all_reduce")
    mixed = MACHINE.price("a", Collective(np.array([2.0**17, 2.0**20]), 8))
    alone = [MACHINE.price("a", Collective(np.array([s]), 8)).seconds[0] for s in (2.0**17, 2.0**20)]
    assert mixed.seconds.tolist() == alone


def test_int8_uses_the_gpus_int8_rate():
    a100 = Machine(load_hardware("a100"), load_engine())
    big = Gemm(8192, 8192, 8192)
    int8, bf16 = (float(a100.price("g", replace(big, weights=w)).seconds) for w in ("int8", "bfloat16"))
    assert int8 < bf16


def test_outside_the_fitted_range_intervals_widen_and_say_so():
    near, far = MACHINE.price("e", experts(4096)), MACHINE.price("e", experts(200_000))
    assert near.tag == "fitted" and far.tag == "extrapolated"
    assert "tokens outside the fitted range" in far.notes

    def relative(cost):
        return cost.spread["fused_moe/bfloat16"][1] / cost.seconds

    assert relative(far) > 1.5 * relative(near)


def test_another_gpu_borrows_constants_and_says_so():
    other = Machine(load_hardware("rtx-4090"), load_engine())
    cost = other.price("e", experts(16))
    assert cost.tag == "extrapolated"
    assert "fitted on nvidia-l40s-48gb" in cost.notes, "of the same architecture"
    assert cost.seconds > seconds(experts(16))
    assert GpuNumbers.of(load_hardware("rtx-4090")).hbm_bytes_per_s < GPU.hbm_bytes_per_s
