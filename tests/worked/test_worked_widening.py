"""How wide intervals are, exactly: a family's residuals and every reason to widen them.

A price of s seconds with half-width w in the logarithm lies between s / e^w and s e^w, and never below what the
hardware allows. Another machine, another version, another kernel are terms of their own beside the family's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from moesim import load, load_hardware, paths
from moesim.assembly import assemble
from moesim.cost.cost import by_family, summed
from moesim.cost.fits import FittedFamily, Relative, Residuals
from moesim.cost.limits import floor_seconds
from moesim.cost.machine import Machine
from moesim.cost.reasons import Why
from moesim.engines.engine import load_engine
from moesim.models.frame import Frame
from moesim.ops import Attention, Collective, Elementwise, FusedExperts, Gemm
from moesim.ops.load import Group

H100 = Machine(load_hardware("h100-sxm"), load_engine())
TERMS = {"machine", "engine version", "backend", "rows of padding"}


@dataclass(frozen=True)
class Even:
    """Loads laid down, that vary from draw to draw where told."""

    draws: float = 0.0
    varies: float = 0.0
    strategy: str = "linear"

    def rows(self, tokens):
        return 8.0 * tokens

    def distinct(self, tokens):
        return 16.0

    def blocks(self, tokens, block):
        return 64.0

    def spread(self, tokens):
        return self.draws

    def deviation(self, tokens):
        return self.varies


class Full(Even):
    """Every expert has tokens, in as many blocks as they fill."""

    def distinct(self, tokens):
        return 64.0

    def blocks(self, tokens, block):
        return 8.0 * tokens / block


def experts(weights="bfloat16", parallel=False, tokens=256, loads=None, **more):
    shapes = {
        "bfloat16": (4096, 1024, 64, 8),
        "fp8_block": (4096, 1024, 64, 8),
        "int4": (7168, 1024, 384, 8),
        "mxfp4": (2880, 720, 64, 4),
    }
    hidden, width, many, k = shapes[weights]
    whole = 2 * many if parallel else None
    return FusedExperts(tokens, hidden, width, many, k, loads or Even(), True, weights, all_experts=whole, **more)


def own_width(machine, cost) -> tuple[str, float]:
    """The family's half-width at that duration: of the bin whose lower edges lie below it."""
    (name,) = set(by_family(cost.spread)) - TERMS
    residuals = machine.family(name)[0].residuals
    return name, residuals.half_width[sum(edge < cost.seconds for edge in residuals.edges_s)]


def check(machine, cost, factor=1.0, added=0.0):
    """The interval is that of ``factor`` times the family's own half-width, and ``added`` more."""
    name, own = own_width(machine, cost)
    width = factor * own + added
    down, up = by_family(cost.spread)[name]
    assert up == pytest.approx(cost.seconds * (math.exp(width) - 1), rel=1e-9)
    least = floor_seconds(cost.op, machine.gpu)
    assert down == pytest.approx(min(cost.seconds * (1 - math.exp(-width)), cost.seconds - least), rel=1e-9)


def whys(cost):
    return [reason.why for reason in cost.reasons]


def test_residuals_by_duration():
    residuals = Residuals((1.0, 2.0), (0.3, 0.2, 0.1))
    assert [float(residuals.interval(s)) for s in (0.5, 1.0, 1.5, 2.0, 9.0)] == [0.3, 0.3, 0.2, 0.2, 0.1]


@pytest.mark.parametrize("m", [16, 4096, 32768])
def test_fitted(m):
    cost = H100.price("g", Gemm(m, 4096, 4096))
    assert cost.tag == "fitted" and not cost.reasons
    check(H100, cost)


@pytest.mark.parametrize(("weights", "factor"), [("bfloat16", 1.5), ("fp8_block", 1.0), ("int4", 3.0), ("mxfp4", 3.0)])
def test_expert_parallelism(weights, factor):
    whole, part = H100.price("e", experts(weights)), H100.price("e", experts(weights, parallel=True))
    assert whole.tag == "fitted"
    check(H100, whole)
    assert Why.EXPERT_MAP in whys(part) and part.tag == "extrapolated"
    check(H100, part, factor)


def test_draws_are_independent_of_the_kernel():
    loads = Even(draws=0.2, varies=0.25)
    cost = H100.price("e", experts(parallel=True, loads=loads))
    name, own = own_width(H100, cost)
    width = math.sqrt((1.5 * own) ** 2 + 0.2**2)
    assert cost.spread[name][1] == pytest.approx(cost.seconds * (math.exp(width) - 1), rel=1e-9)
    p = H100.family(name)[0].parameters
    launch = p["t_fixed"] + 2 * p["t_kernel"] + p["t_align"]
    assert cost.variance == pytest.approx((0.25 * (cost.seconds - launch)) ** 2, rel=1e-9)
    assert H100.price("e", experts(loads=loads)).variance == 0.0


def test_a_related_kernel():
    """int4 products are cuBLAS's, small kernels one family's, index scores and cross attention the plain kernel's."""
    for cost in (
        H100.price("g", Gemm(256, 4096, 4096, "int4")),
        H100.price("shared_add", Elementwise(256, 1e6)),
        H100.price("i", Attention((Group.decode(16, 4000),), 16, 1, 128, causal=False)),
        H100.price("c", Attention((Group(4, 512, 0),), 16, 4, 128, causal=False)),
    ):
        assert whys(cost) == [Why.RELATED_KERNEL]
        check(H100, cost, 2.0)


@pytest.mark.parametrize(("octaves", "m"), [(1.0, 2 * 32768), (3.0, 8 * 32768), (math.log2(1.5), 49152)])
def test_beyond_the_fitted_range(octaves, m):
    """A quarter wider and a tenth more for each doubling beyond 32768 rows."""
    cost = H100.price("g", Gemm(m, 4096, 4096))
    assert whys(cost) == [Why.OUT_OF_RANGE] and cost.notes == ("m outside the fitted range",)
    check(H100, cost, 1 + 0.25 * octaves, 0.1 * octaves)


def test_below_the_fitted_range_and_in_two_fields():
    """k from 32 up, m up to 32768: an octave below and two above."""
    check(H100, H100.price("g", Gemm(64, 4096, 16)), 1.25, 0.1)
    cost = H100.price("g", Gemm(4 * 32768, 4096, 16))
    assert cost.notes == ("m, k outside the fitted range",)
    check(H100, cost, 1 + 0.25 * 3, 0.1 * 3)


def test_what_was_never_measured_away_from_zero_counts_as_one_doubling():
    check(H100, H100.price("a", Attention((Group(1, 2048, 0),), 32, 8, 128)))
    check(H100, H100.price("a", Attention((Group(1, 2048, 9999),), 32, 8, 128)), 1.25, 0.1)


def test_steps_without_a_sequence_leave_no_range():
    """Placeholders of no sequences count as one."""
    cost = H100.price("a", Attention((Group(np.array([0, 4]), np.array([1, 512]), np.array([0, 0])),), 32, 8, 128))
    assert cost.tag == "fitted"


def test_another_version():
    """Beyond every file half as wide again; within them a term of its own, as wide as the file says."""
    beyond = Machine(load_hardware("h100-sxm"), load_engine("vllm", "0.40"))
    cost = beyond.price("g", Gemm(256, 4096, 4096))
    assert whys(cost) == [Why.OTHER_VERSION] and cost.notes == ("kernels of vllm 0.33, not of 0.40",)
    check(beyond, cost, 1.5)
    both = beyond.price("g", Gemm(256, 4096, 4096, "int4"))
    assert whys(both) == [Why.RELATED_KERNEL, Why.OTHER_VERSION]
    check(beyond, both, 2.0 * 1.5)
    old = Machine(load_hardware("h100-sxm"), load_engine("vllm", "0.12"))
    cost = old.price("g", Gemm(256, 4096, 4096))
    assert not cost.reasons and cost.spread["engine version"][1] == pytest.approx(cost.seconds * math.expm1(0.05))
    assert "engine version" not in H100.price("g", Gemm(256, 4096, 4096)).spread


def test_products_of_two_shapes_err_nearly_independently():
    """Of w either way, half of w goes together at a correlation of 0.25; the same product again adds up whole."""
    one = H100.price("qkv_proj", Gemm(64, 4096, 4096))
    other = replace(one, spread=H100.price("o_proj", Gemm(64, 4096, 4096)).spread)

    def family(*costs):
        return by_family(summed("layer", list(costs)).spread)["gemm/bfloat16"][1]

    alone = family(one)
    assert family(one, one) == pytest.approx(2 * alone, rel=1e-12)
    assert family(one, other) == pytest.approx(alone * math.sqrt(0.25 * 4 + 0.75 * 2), rel=1e-12)
    assert set(one.spread) - TERMS == {"gemm/bfloat16", "gemm/bfloat16 @ qkv_proj"}


def test_mxfp4_by_the_constants_of_int4():
    """Arithmetic is slower as tables of both say, memory is not; what they still miss is the interval."""
    relative = H100.family("fused_moe/int4")[0].relatives["mxfp4"]
    assert 1.0 < relative.slower_arithmetic < 1.3 and 0.05 < relative.half_width < 0.3
    few, many = (experts("mxfp4", tokens=tokens, backend="marlin", loads=Full()) for tokens in (64, 16384))
    plain = Machine(H100.hardware, H100.engine)
    family, fits = plain.family("fused_moe/int4")
    plain._families["fused_moe/int4"] = replace(family, relatives={"mxfp4": Relative(1.0, relative.half_width)}), fits
    assert H100.seconds("e", many) / plain.seconds("e", many) == pytest.approx(relative.slower_arithmetic, rel=0.05)
    assert H100.seconds("e", few) / plain.seconds("e", few) < 1.05
    cost = H100.price("e", many)
    assert cost.seconds == H100.seconds("e", many)
    assert cost.spread["fused_moe/int4"][1] == pytest.approx(cost.seconds * math.expm1(relative.half_width))


def test_another_machine_of_the_same_kind():
    cost = H100.price("g", Gemm(256, 4096, 4096))
    assert cost.spread["machine"] == pytest.approx((cost.seconds * -math.expm1(-0.04), cost.seconds * math.expm1(0.04)))


def test_nothing_is_faster_than_the_hardware():
    """Weights of 512 MB at 3.35 TB/s: the fast end stands there, however wide the fit."""
    op = Gemm(16, 16384, 16384)
    wide = Machine(load_hardware("h100-sxm"), load_engine("vllm", "0.40"))
    least = 2 * 16384**2 / 3.35e12
    assert floor_seconds(op, wide.gpu) == pytest.approx(least)
    cost = wide.price("g", op)
    assert cost.seconds - max(down for down, _ in cost.spread.values()) >= least * (1 - 1e-12)
    assert floor_seconds(Gemm(8192, 8192, 8192), wide.gpu) == pytest.approx(2 * 8192**3 / 989e12, rel=2e-3)
    assert floor_seconds(Elementwise(1, 1e6), wide.gpu) == 0.0


def test_a_kernel_that_is_not_known():
    """mxfp4 on Hopper: triton_kernels or Marlin; the interval reaches to the other's time."""
    unsure = H100.price("e", experts("mxfp4", others=("marlin",), backend="triton"))
    one, other = (H100.price("e", experts("mxfp4", backend=name)).seconds for name in ("triton", "marlin"))
    assert unsure.seconds == one
    assert unsure.spread["backend"] == pytest.approx((max(one - other, 0), max(other - one, 0)))
    assert "triton or marlin may run" in unsure.notes


def test_a_rank_touches_no_more_experts_than_it_holds():
    """Experts 0 to 7 of 256 over 64 ranks: this one holds four of them, or one where they are dealt out."""
    op = experts(tokens=32, real_tokens=24, padding="first_experts", parallel=True)
    op = replace(op, num_experts=4, all_experts=256, top_k=8)
    assert float(op.distinct) == 4.0
    assert float(op.rows - op.loads.rows(24)) == 8 * 4
    dealt = replace(op, loads=Even(strategy="round_robin"))
    assert float(dealt.rows - dealt.loads.rows(24)) == 8 * 1
    one = replace(op, padding="first_expert")
    assert float(one.rows - one.loads.rows(24)) == 8 * 8, "all slots of a row"
    assert float(replace(op, padding="not_routed").rows) == op.loads.rows(24)


def test_a_norm_is_fused_where_a_kernel_can():
    def launches(**changes):
        scenario = load(paths.SCENARIOS / "mixtral_tp4.yaml").with_(**changes)
        steps = assemble(scenario).steps
        return Frame(steps.rank, steps.load((Group.decode(8, 100),))).norm.launches

    assert launches() == 0
    for apart in ({"enforce_eager": True}, {"hardware": "nvidia-h100-nvl-94gb", "tp": 2}, {"fuse_allreduce_rms": False},
                  {"engine__version": "0.16"}, {"tp": 1}, {"tp": 2, "pp": 2}):  # fmt: skip
        assert launches(**apart) == 1, apart
    assert launches(engine__version="0.16", fuse_allreduce_rms=True) == 0, "asked for"


def test_rows_of_padding():
    """9 tokens in a graph of 16: the rest picks one expert, or in the worst case experts of its own."""
    padded = H100.price("e", experts(tokens=16, real_tokens=9, padding="first_expert"))
    fresh = H100.price("e", experts(tokens=16))
    assert padded.spread["rows of padding"] == pytest.approx((0.0, max(fresh.seconds - padded.seconds, 0.0)))
    assert "rows of padding" not in fresh.spread


def test_another_gpu_at_least_half_wider():
    """An H100 of another form has an architecture on which these constants were seen to err little."""
    other = Machine(load_hardware("nvidia-h100-pcie-80gb"), load_engine())
    cost = other.price("g", Gemm(4096, 4096, 4096))
    seen = other.family("gemm/bfloat16")[0].transfer["9.0"]
    assert seen < 1.5 * own_width(other, cost)[1]
    assert whys(cost) == [Why.OTHER_GPU] and cost.notes == ("fitted on nvidia-h100-sxm5-80gb",)
    check(other, cost, 1.5)
    check(other, other.price("g", Gemm(8 * 32768, 4096, 4096)), 1.5 * (1 + 0.25 * 3), 1.5 * 0.3)


def test_another_gpu_as_wide_as_was_seen():
    """Where nothing was measured on its architecture: the nearest GPU's constants, as wide as they ever erred."""
    other = Machine(load_hardware("t4"), load_engine())
    cost = other.price("g", Gemm(256, 4096, 4096))
    assert cost.source.startswith("nvidia-a100-sxm-80gb")
    widest = min(max(0.35, *other.family("gemm/bfloat16")[0].transfer.values()), 1.1)
    assert widest > 1.5 * own_width(other, cost)[1]
    check(other, cost, 0.0, widest)


def test_transfer():
    """As seen there; on an unseen architecture the widest, a third at least; never beyond a factor of three."""
    family = FittedFamily("f", {}, {}, Residuals((), (0.1,)), {"9.0": 0.12, "8.9": 0.5, "8.0": 2.4})
    assert family.transfer_half_width("9.0") == 0.12 and family.transfer_half_width("8.9") == 0.5
    assert family.transfer_half_width("8.0") == 1.1 and family.transfer_half_width("7.5") == 1.1
    small = replace(family, transfer={"9.0": 0.12})
    assert small.transfer_half_width("7.5") == 0.35
    assert replace(family, transfer={"9.0": 0.4}).transfer_half_width("7.5") == 0.4
    assert replace(family, transfer={}).transfer_half_width("9.0") == 0.35


def test_no_interval_is_wider_than_a_factor_of_nine():
    cost = H100.price("g", Gemm(32768 * 2**30, 4096, 4096))
    check(H100, cost, 0.0, 2.2)


def test_collectives_without_a_switch_are_related():
    bridged = Machine(load_hardware("l40s"), load_engine())
    cost = bridged.price("a", Collective(1e6, 4))
    assert Why.RELATED_KERNEL in whys(cost)
    check(bridged, cost, 2.0)
    check(H100, H100.price("a", Collective(1e6, 4, "all_gather")))


def test_which_fit_stands_in():
    """The nearest fitted GPU by compute capability, then bandwidth; for collectives one with such links first."""
    h100, l40s = "nvidia-h100-sxm5-80gb/vllm-0.25.0", "nvidia-l40s-48gb/vllm-0.24.0"
    h200 = "nvidia-h200-sxm-141gb/vllm-0.25.0"
    ada = Machine(load_hardware("rtx-4090"), load_engine())
    assert ada.price("g", Gemm(64, 4096, 4096)).source == f"{l40s}:gemm/bfloat16"
    for kind in ("all_reduce", "all_gather", "reduce_scatter", "alltoall"):
        assert ada.price("a", Collective(1e6, 2, kind)).source == f"{l40s}:nccl/{kind}"
    assert ada.price("a", Collective(1e6, 2, "send_recv")).source == f"{l40s}:nccl/alltoall"
    nvl = Machine(load_hardware("nvidia-h100-nvl-94gb"), load_engine())
    assert nvl.price("g", Gemm(64, 4096, 4096)).source in {f"{h100}:gemm/bfloat16", f"{h200}:gemm/bfloat16"}
    ampere = Machine(load_hardware("a100"), load_engine())
    assert ampere.price("g", Gemm(64, 4096, 4096)).source == "nvidia-a100-sxm-80gb/vllm-0.14.0:gemm/bfloat16"
    assert ampere.price("g", Gemm(64, 4096, 4096, "fp8")).source == f"{l40s}:gemm/fp8", "what was not measured there"
    own = Machine(load_hardware("l40s"), load_engine())
    assert own.price("g", Gemm(64, 4096, 4096)).source == f"{l40s}:gemm/bfloat16"
    assert Why.OTHER_GPU not in whys(own.price("g", Gemm(64, 4096, 4096)))
    blackwell = Machine(load_hardware("gb300"), load_engine())
    assert blackwell.price("g", Gemm(64, 4096, 4096)).source == "nvidia-gb300-279gb/vllm-0.25.0:gemm/bfloat16"


def test_whose_fit_prices_a_family():
    """By family, not the newest stack: MLA and products from 0.25.0, small messages from 0.24.0; never what is held
    out."""
    chosen = {
        name: H100.family(name)[1].stack
        for name in (
            "mla_decode",
            "gemm/fp8_block",
            "custom_all_reduce",
            "nccl/all_reduce",
            "elementwise",
            "deepep_low_latency/dispatch",
            "deepep_high_throughput/combine",
        )
    }
    assert chosen == {
        "mla_decode": "vllm-0.25.0", "gemm/fp8_block": "vllm-0.25.0", "custom_all_reduce": "vllm-0.24.0",
        "nccl/all_reduce": "vllm-0.24.0", "elementwise": "vllm-0.24.0", "deepep_low_latency/dispatch": "sglang-0.5.12",
        "deepep_high_throughput/combine": "vllm-0.24.0",
    }  # fmt: skip
    assert not any("0.31.0" in name for name in paths.stored_fits())


def test_factors():
    assert {why.name: (why.factor, why.strict) for why in Why} == {
        "OUT_OF_RANGE": (1.25, True),
        "OTHER_GPU": (1.5, True),
        "OTHER_VERSION": (1.5, True),
        "OTHER_ENGINE": (1.5, True),
        "RELATED_KERNEL": (2.0, False),
        "EXPERT_MAP": (1.5, False),
        "OTHER_SYSTEM": (2.0, False),
    }
