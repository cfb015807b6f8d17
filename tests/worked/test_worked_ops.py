"""FLOP, bytes and messages of every operation, by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from moesim.ops import Attention, Elementwise, FusedExperts, Gemm, Host, MlaModule, attended_pairs
from moesim.ops.attention import virtual_batches
from moesim.ops.formats import ACTIVATION_BYTES, FORMATS, arithmetic, bytes_per_weight
from moesim.ops.host import Copy, CpuMatrices, DiskRead, Unpack
from moesim.ops.load import Group, Load, by_phase
from moesim.ops.measured import HostMatrices, HostStream, Launches, Stream


@dataclass(frozen=True)
class Touched:
    """Loads whose numbers are laid down: rows of the rank, distinct experts."""

    of_rank: float = 48.0
    experts: float = 5.0

    def rows(self, tokens):
        return self.of_rank

    def distinct(self, tokens):
        return self.experts


# --- formats


@pytest.mark.parametrize(
    ("weights", "bytes_each", "multiplied", "activation"),
    [
        ("bfloat16", 2.0, "bfloat16", 2.0),
        ("fp8", 1.0, "fp8", 1.0),
        ("fp8_block", 1.000244140625, "fp8", 1.0),  # 4 / 16384
        ("int8", 1.0, "int8", 1.0),
        ("int8_weight_only", 1.015625, "bfloat16", 2.0),  # 2 / 128
        ("int4", 0.515625, "bfloat16", 2.0),
        ("mxfp4", 0.53125, "bfloat16", 2.0),  # 1 / 32
        ("hqq4", 0.53173828125, "bfloat16", 2.0),  # 2 / 64 + 8 / 16384
        ("hqq3", 0.4625, "bfloat16", 2.0),  # 32 bits for ten; 4 / 64
        ("hqq2", 0.37890625, "bfloat16", 2.0),  # 2 / 16 + 8 / 2048
        ("gguf_q8_0", 1.0625, "bfloat16", 2.0),  # 34 bytes for 32
        ("gguf_q4_k", 0.5625, "bfloat16", 2.0),  # 144 for 256
        ("gguf_q2_k", 0.328125, "bfloat16", 2.0),  # 84 for 256
        ("gguf_q6_k", 0.8203125, "bfloat16", 2.0),  # 128 + 64 + 16 scales + 2 for 256
        ("gguf_q5_k", 0.6875, "bfloat16", 2.0),  # 128 + 32 + 12 + 4
        ("gguf_q5_0", 0.6875, "bfloat16", 2.0),  # 16 + 4 + 2 for 32
        ("gguf_q4_0", 0.5625, "bfloat16", 2.0),  # 16 + 2 for 32
        ("gguf_iq4_nl", 0.5625, "bfloat16", 2.0),
        ("gguf_iq4_xs", 0.53125, "bfloat16", 2.0),  # 128 + 2 + 2 + 4 for 256
        ("gguf_q3_k", 0.4296875, "bfloat16", 2.0),  # 64 + 32 + 12 + 2
        ("gguf_iq3_s", 0.4296875, "bfloat16", 2.0),
        ("gguf_iq3_xxs", 0.3828125, "bfloat16", 2.0),  # 98
        ("gguf_iq2_s", 0.3203125, "bfloat16", 2.0),  # 82
        ("gguf_iq2_xs", 0.2890625, "bfloat16", 2.0),  # 74
        ("gguf_iq2_xxs", 0.2578125, "bfloat16", 2.0),  # 66
        ("gguf_iq1_m", 0.21875, "bfloat16", 2.0),  # 56
        ("gguf_iq1_s", 0.1953125, "bfloat16", 2.0),  # 50
        (
            "gguf_q5_k_m",
            0.6875 + 0.5 * (0.8203125 - 0.6875) / 3,
            "bfloat16",
            2.0,
        ),  # every second down projection in Q6_K
        ("gguf_q4_k_m", 0.5625 + 0.5 * (0.8203125 - 0.5625) / 3, "bfloat16", 2.0),
        ("gguf_q3_k_m", 0.4296875 + (0.5625 - 0.4296875) / 3, "bfloat16", 2.0),  # down projections in Q4_K
        *((f"exl3_{bits}", bits / 8, "bfloat16", 2.0) for bits in (2, 3, 4, 5, 6, 8)),
        ("float32", 4.0, "float32", 4.0),
        ("fp8_weight_only", 1.0, "bfloat16", 2.0),
        ("fp8_block_weight_only", 1.000244140625, "bfloat16", 2.0),
        ("mxfp8", 1.03125, "fp8", 1.0),  # 1 / 32
        ("mxfp8_weight_only", 1.03125, "bfloat16", 2.0),
        ("nf4", 0.5625, "bfloat16", 2.0),  # 4 / 64
        ("nvfp4", 0.5625, "nvfp4", 0.5625),  # 1 / 16
        ("nvfp4_weight_only", 0.5625, "bfloat16", 2.0),
        ("int4/32", 0.5625, "bfloat16", 2.0),  # 2 / 32
        ("int4/-1", 0.5, "bfloat16", 2.0),
        ("fp8_block/64", 1.0009765625, "fp8", 1.0),  # 4 / 4096
    ],
)
def test_formats(weights, bytes_each, multiplied, activation):
    assert bytes_per_weight(weights) == pytest.approx(bytes_each, rel=1e-15)
    assert arithmetic(weights) == multiplied
    assert ACTIVATION_BYTES[multiplied] == activation
    op = Gemm(3, 256, 128, weights)
    assert op.weight_bytes == pytest.approx(bytes_each * 256 * 128, rel=1e-15)
    assert op.hbm_bytes == pytest.approx(bytes_each * 256 * 128 + activation * 3 * 128 + 2 * 3 * 256, rel=1e-15)
    assert op.flop == 2 * 3 * 256 * 128
    assert op.arithmetic == multiplied and not op.of_context


def test_every_format_is_pinned():
    marks = next(m for m in test_formats.pytestmark if m.name == "parametrize")
    assert set(FORMATS) == {row[0] for row in marks.args[1] if "/" not in row[0]}


# --- experts


def test_experts():
    op = FusedExperts(20, 64, 32, 8, 3, Touched(), weights="fp8_block")
    assert op.matrices == 3 and op.arithmetic == "fp8"
    expert = 3 * 64 * 32 * 1.000244140625
    assert op.expert_bytes == expert and op.weight_bytes == 5 * expert
    assert op.rows == 48 and op.flop == 2 * 48 * 3 * 64 * 32
    # Between the products: gate and up in bfloat16, their product in fp8, results in bfloat16.
    between = 48 * (2 * 2 * 32 + 1 * 32 + 2 * 64)
    assert op.hbm_bytes == 5 * expert + between + 2 * 20 * 64 + 2 * 20 * 64
    assert op.rows_around == 60 and not op.parallel and not op.of_context


def test_experts_without_a_gate_on_a_part():
    op = FusedExperts(20, 64, 32, 2, 3, Touched(), gated=False, all_experts=8, local_only=True)
    assert op.matrices == 2
    assert op.flop == 2 * 48 * 2 * 64 * 32
    assert op.expert_bytes == 2 * 64 * 32 * 2
    assert op.hbm_bytes == 5 * 2 * 64 * 32 * 2 + 48 * (2 * 32 + 2 * 32 + 2 * 64) + 4 * 20 * 64
    assert op.rows_around == 48 and op.parallel


# --- attention


def test_pairs():
    """Three queries after five keys."""
    assert attended_pairs(3, 5) == 6 + 7 + 8
    assert attended_pairs(3, 5, causal=False) == 3 * 8
    assert attended_pairs(3, 5, 100) == 21
    assert attended_pairs(3, 5, 7) == 6 + 7 + 7
    assert attended_pairs(3, 5, 4) == 4 + 4 + 4
    assert attended_pairs(3, 0, 2) == 1 + 2 + 2
    assert attended_pairs(3, 5, 4, causal=False) == 24
    assert attended_pairs(np.array([1, 2]), np.array([9, 0])).tolist() == [10, 3]


def test_attention_of_a_prompt():
    op = Attention((Group(2, 3, 5),), 8, 2, 16)
    assert op.flop == 4 * 2 * 21 * 8 * 16
    assert op.hbm_bytes == 2 * (2 * 3 * 8 * 16 * 2 + 2 * 8 * 2 * 16 * 2), "queries and outputs; keys and values"
    half = Attention((Group(2, 3, 5),), 8, 2, 16, kv_bytes=1.0)
    assert half.hbm_bytes == 2 * (2 * 3 * 8 * 16 * 2 + 2 * 8 * 2 * 16)
    assert Attention((Group(2, 3, 5),), 8, 2, 16, causal=False).flop == 4 * 2 * 24 * 8 * 16
    assert op.arithmetic == "bfloat16" and op.of_context and not op.generates


def test_windowed_attention():
    """Window 4, three queries: six keys in reach of any of them."""
    op = Attention((Group(2, 3, 50),), 8, 2, 16, 4)
    assert op.flop == 4 * 2 * 12 * 8 * 16
    assert op.hbm_bytes == 2 * 16 * (4 * 3 * 8 + 2 * 6 * 2 * 2)
    short = Attention((Group(2, 3, 1),), 8, 2, 16, 4)
    assert short.hbm_bytes == 2 * 16 * (4 * 3 * 8 + 2 * 4 * 2 * 2)


def test_groups_add_up():
    op = Attention((Group(2, 3, 5), Group.decode(7, 9)), 8, 2, 16)
    assert op.flop == 4 * (2 * 21 + 7 * 10) * 8 * 16
    assert op.hbm_bytes == 16 * (2 * (96 + 2 * 8 * 4) + 7 * (32 + 2 * 10 * 4))
    assert not op.generates, "the decode kernel runs one group"
    assert not Attention((Group.decode(7, 9), Group(2, 3, 5)), 8, 2, 16).generates
    assert Attention((Group.decode(7, 9),), 8, 2, 16).generates
    assert Attention((Group.verify(7, 3, 9),), 8, 2, 16).generates


def test_chunks_are_sequences_of_their_own():
    """Chunks of 8: ten queries after five are 3 to fill the first chunk, then 7 of another."""
    assert virtual_batches((Group(2, 10, 5),), 8) == (Group(2, 3, 5), Group(2, 7, 0))
    assert virtual_batches((Group(2, 20, 5),), 8) == (Group(2, 3, 5), Group(4, 8, 0), Group(2, 1, 0))
    assert virtual_batches((Group(2, 19, 5),), 8) == (Group(2, 3, 5), Group(4, 8, 0))
    assert virtual_batches((Group(2, 2, 13),), 8) == (Group(2, 2, 5),)
    assert virtual_batches((Group.decode(3, 21),), 8) == (Group.decode(3, 5),)


# --- latent attention


def mla(*groups, **more):
    """4 heads, hidden 100, query rank 10, latents 20 + 6, keys 8 + 6 wide, values 7."""
    shape = {"heads": 4, "hidden": 100, "q_lora_rank": 10, "kv_lora_rank": 20, "qk_rope_head_dim": 6}
    return MlaModule(groups, **(shape | {"qk_nope_head_dim": 8, "v_head_dim": 7} | more))


WEIGHTS = 100 * (10 + 20 + 6) + 4 * (10 * 14 + 20 * 15 + 7 * 100)


def test_latent_projections():
    assert mla(Group.decode(1, 0)).weights == WEIGHTS
    straight = 100 * (20 + 6) + 4 * (100 * 14 + 20 * 15 + 7 * 100)
    assert mla(Group.decode(1, 0), q_lora_rank=0).weights == straight


def test_absorbed_at_decode_expanded_at_prefill():
    """Absorbed: scores over 26 latent elements, values over 20. Expanded: keys of 14, values of 7."""
    decode = mla(Group.decode(3, 9))
    assert decode.attention_flop == 2 * 30 * 4 * (20 + 6 + 20)
    assert decode.tokens == 3 and decode.generates and decode.of_context
    prefill = mla(Group(3, 2, 8))
    assert prefill.attention_flop == 2 * (3 * (9 + 10)) * 4 * (8 + 6 + 7)
    assert prefill.tokens == 6 and not prefill.generates
    verify = mla(Group.verify(3, 2, 8))
    assert verify.attention_flop == 2 * 57 * 4 * 46 and verify.generates
    both = mla(Group(3, 2, 8), Group.decode(3, 9))
    assert both.attention_flop == 2 * 57 * 4 * 21 + 2 * 30 * 4 * 46
    assert both.flop == 2 * 9 * WEIGHTS + both.attention_flop and not both.generates
    assert not mla(Group.decode(3, 9), Group(3, 2, 8)).generates
    assert decode.arithmetic == "bfloat16"


def test_latent_bytes():
    """Weights once, hidden states in and out, each sequence's latents once."""
    assert mla(Group(3, 2, 8)).hbm_bytes == WEIGHTS * 2 + 2 * 2 * 6 * 100 + 3 * 10 * 26 * 2
    small = mla(Group(3, 2, 8), kv_bytes=1.0, bytes_per_weight=0.5)
    assert small.hbm_bytes == WEIGHTS * 0.5 + 4 * 6 * 100 + 30 * 26


def test_picked_tokens():
    """At most 4 tokens attended: 2 queries see 4 each."""
    op = mla(Group(3, 2, 8), top_k=4)
    assert op.attention_flop == 2 * (3 * 8) * 4 * 46, "the absorbed form, at prompts too"
    assert op.hbm_bytes == WEIGHTS * 2 + 4 * 6 * 100 + 3 * 4 * 26 * 2
    assert mla(Group.decode(3, 2), top_k=4).attention_flop == 2 * 9 * 4 * 46


# --- groups and loads


def test_groups():
    assert Group(3, 5, 7).phase == "prefill" and Group(3, 5, 7).tokens == 15 and not Group(3, 5, 7).generates
    decode = Group.decode(3, 7)
    assert decode == (3, 1, 7, "decode") and decode.tokens == 3 and decode.generates
    verify = Group.verify(3, 4, 7)
    assert verify == (3, 4, 7, "verify") and verify.tokens == 12 and verify.generates


def test_loads():
    prompt, other, decode, verify = Group(3, 5, 7), Group(1, 2, 0), Group.decode(4, 9), Group.verify(2, 3, 9)
    load = Load((prompt, decode, verify), 32, False)
    assert load.checked == 4 and load.sequences == 9 and load.tokens == 15 + 4 + 6 and not load.only_generates
    assert load.source_len == 0
    assert Load((decode, verify), 16, True).only_generates
    assert by_phase((prompt, decode, other, verify)) == [
        ("prefill", (prompt, other)),
        ("decode", (decode,)),
        ("verify", (verify,)),
    ]


# --- bytes alone, and the host


def test_bytes_alone():
    assert Elementwise(5, 1000.0).hbm_bytes == 1000 and Elementwise(5, 1000.0).launches == 1
    assert Elementwise(5, 1000.0).flop == 0 and not Elementwise(5, 1000.0).of_context
    assert Copy(3, 100.0).hbm_bytes == 300 and Copy(3, 100.0).flop == 0 and not Copy(3, 100.0).back
    assert DiskRead(3, 100.0).hbm_bytes == 0 and DiskRead(3, 100.0).flop == 0
    assert CpuMatrices(3, 100.0, 50.0).flop == 150 and CpuMatrices(3, 100.0, 50.0).hbm_bytes == 0
    assert Unpack(1000, 70.0, "hqq4").hbm_bytes == 70 and Unpack(1000, 70.0, "hqq4").flop == 0
    host = Host(3, 10, True, 1.0)
    assert (host.flop, host.hbm_bytes, host.of_context, host.schedules, host.ahead) == (0, 0, False, True, False)
    assert Stream(8.0).hbm_bytes == 8 and Launches(3).hbm_bytes == 0 and HostStream(9.0, 2).hbm_bytes == 9
    assert Stream(8.0).flop == Launches(3).flop == HostStream(9.0, 2).flop == 0
    matrices = HostMatrices(7, 100, 0.5, 3, 2)
    assert matrices.flop == 2 * 7 * 100 and matrices.hbm_bytes == 50
