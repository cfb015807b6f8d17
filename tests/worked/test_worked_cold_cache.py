"""Who finds its operands in L2: GEMM weights and decode's cache are cold in a model that runs, the rest as measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from moesim import load_hardware
from moesim.cost.machine import Machine
from moesim.cost.registry import CHOICES, form_of
from moesim.engines.engine import load_engine
from moesim.ops import Attention, Elementwise, FusedExperts, Gemm, MlaModule
from moesim.ops.load import Group

H100 = Machine(load_hardware("h100-sxm"), load_engine())


@dataclass(frozen=True)
class Even:
    """Few experts of small weights, many row blocks each: the second pass may find them in L2."""

    def rows(self, tokens):
        return 8.0 * tokens

    def distinct(self, tokens):
        return 8.0

    def blocks(self, tokens, block):
        return 1024.0

    def spread(self, tokens):
        return None


PREFILL = Attention((Group(8, 256, 0),), 32, 8, 128)
DECODE = Attention((Group.decode(8, 500),), 32, 8, 128)
SHAPE = {"heads": 16, "hidden": 7168, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
MLA = {**SHAPE, "qk_nope_head_dim": 128, "v_head_dim": 128}
COLD = {
    "gemm": Gemm(64, 2048, 1024),
    "gemm fp8": Gemm(64, 2048, 1024, "fp8"),
    "gemm fp8_block": Gemm(64, 2048, 1024, "fp8_block"),
    "gemm int4": Gemm(64, 2048, 1024, "int4"),
    "decode attention": DECODE,
    "windowed decode": replace(DECODE, window=128),
    "verified drafts": Attention((Group.verify(8, 3, 500),), 32, 8, 128),
}
WARM = {
    "prefill attention": PREFILL,
    "mixed attention": replace(PREFILL, groups=(*PREFILL.groups, *DECODE.groups)),
    "mla decode": MlaModule((Group.decode(8, 500),), **MLA),
    "mla prefill": MlaModule((Group(8, 64, 0),), **MLA),
    "experts": FusedExperts(4096, 2048, 128, 128, 8, Even()),
    "elementwise": Elementwise(64, 1e6),
}


def chosen(op):
    return CHOICES[type(op)](H100, "op", op)


def test_a_cold_gpu_is_the_same_but_for_its_cache():
    assert H100.gpu.l2_bytes == 50e6 and H100.cold_gpu.l2_bytes == 1.0
    assert replace(H100.cold_gpu, l2_bytes=50e6) == H100.gpu


@pytest.mark.parametrize("what", COLD)
def test_cold(what):
    assert chosen(COLD[what]).gpu is H100.cold_gpu


@pytest.mark.parametrize("what", WARM)
def test_as_measured(what):
    assert chosen(WARM[what]).gpu is H100.gpu


def priced_on(op, gpu) -> float:
    choice = chosen(op)
    p = choice.parameters or H100.family(choice.family)[0].parameters
    return float(form_of(choice.family).seconds(p, choice.op, gpu, *choice.extra).seconds)


@pytest.mark.parametrize("what", ["gemm", "gemm fp8", "decode attention"])
def test_a_cold_price_is_above_a_hot_one(what):
    op = COLD[what]
    hot, cold = priced_on(op, H100.gpu), priced_on(op, H100.cold_gpu)
    assert H100.price("op", op).seconds == pytest.approx(cold, rel=1e-12)
    assert H100.seconds("op", op) == pytest.approx(cold, rel=1e-12)
    assert cold > 1.02 * hot


def test_what_bounds():
    """One tile and a launch; weights of 512 MB; 2 x 8192^3 products."""
    bounds = [H100.price("g", op).bound for op in (Gemm(1, 64, 64), Gemm(16, 16384, 16384), Gemm(8192, 8192, 8192))]
    assert bounds == ["launch", "memory", "compute"]


@pytest.mark.parametrize("what", ["prefill attention", "experts", "elementwise"])
def test_a_hot_price_is_below_a_cold_one(what):
    op = WARM[what]
    hot, cold = priced_on(op, H100.gpu), priced_on(op, H100.cold_gpu)
    assert H100.price("op", op).seconds == pytest.approx(hot, rel=1e-12)
    assert cold > 1.001 * hot


def test_families():
    assert [chosen(op).family for op in COLD.values()] == [
        "gemm/bfloat16", "gemm/fp8", "gemm/fp8_block", "gemm/bfloat16", "attention_decode", "attention_decode",
        "attention_decode",
    ]  # fmt: skip
    assert [chosen(op).family for op in WARM.values()] == [
        "attention_prefill", "attention_prefill", "mla_decode", "mla_prefill", "fused_moe/bfloat16", "elementwise",
    ]  # fmt: skip


def test_whose_kernel_it_is():
    related = [bool(chosen(op).related) for op in (COLD["gemm int4"], DECODE, PREFILL, WARM["mla decode"])]
    assert related == [True, False, False, False]
    assert chosen(replace(PREFILL, causal=False)).related
    mla = WARM["mla decode"]
    sparse = replace(mla, top_k=2048)
    assert chosen(sparse).family == "mla_sparse_decode" and not chosen(sparse).related
    assert chosen(replace(WARM["mla prefill"], top_k=2048)).family == "mla_sparse_prefill"
    assert not chosen(replace(sparse, hidden=6144, q_lora_rank=2048)).related, "GLM-5 too"
    assert chosen(replace(sparse, hidden=6144)).related
    assert chosen(replace(mla, hidden=6144)).related and chosen(replace(mla, q_lora_rank=2048)).related
    assert chosen(replace(mla, kv_lora_rank=256)).related and chosen(replace(mla, bytes_per_weight=0.5)).related
    assert not chosen(replace(mla, bytes_per_weight=1.0, fp8_gemm=True)).related


def test_block_scaled_fp8_is_its_own():
    """Its table was collected in CUDA graphs: nothing is borrowed."""
    assert chosen(COLD["gemm fp8_block"]).parameters is None and not chosen(COLD["gemm fp8_block"]).related
