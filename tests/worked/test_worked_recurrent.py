"""Linear attention by hand: parameters, states, pages, operations, and what its forms make of them."""

import math

import numpy as np
import pytest

from moesim.cost.forms.recurrent import chunked_seconds, streamed_seconds
from moesim.cost.gpu import GpuNumbers
from moesim.engines.engine import load_engine
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.routing import Uniform
from moesim.memory import cache_block, sequence_kv_bytes, weight_bytes
from moesim.models.blocks.recurrent import GatedDeltaNet, KimiDelta, Mamba2
from moesim.models.catalogue import load_model
from moesim.models.frame import Frame
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops import DeltaRule, ShortConvolution, StreamMix
from moesim.ops.load import Group, Load

GDN = GatedDeltaNet(2, 4, 8, 8)
KDA = KimiDelta(4, 8)
MAMBA = Mamba2(4, 8, 16, 2)


def rank(model="Qwen3.5-35B-A3B", tp=1) -> Rank:
    return Rank(load_model(model), Plan(tp=tp, expert_tp=tp), 2.0, Uniform(), load_engine())


def test_parameters():
    """Hidden size 10. Keys and queries of 2 heads of 8, values of 4: 64 channels, 32 inner."""
    products = 10 * (64 + 32) + 10 * 2 * 4 + 32 * 10
    assert GDN.parameters(10) == products + 64 * 4 + 2 * 4 + 8
    # q, k, v; decay and gate through a rank of 8; one number a head; convolution, decay, biases, norm.
    shared = 3 * 32 * 10 + 2 * 32 * 8 + 4 * 10
    assert KDA.parameters(10) == shared + 2 * 8 * 10 + 96 * 4 + 4 + 32 + 8 + 32 * 10
    full = KimiDelta(4, 8, full_rank_gate=True)
    assert full.parameters(10) - KDA.parameters(10) == 32 * 10 - 32 * 8 - 8 * 10
    # 32 inner, 32 + 2 x 2 x 16 = 96 channels, 4 heads.
    assert MAMBA.parameters(10) == 10 * (32 + 96 + 4) + 96 * 5 + 3 * 4 + 32 + 32 * 10


def test_states():
    """The matrix of each head in float32, three tokens before the convolution in 16 bits; shared among ranks."""
    assert GDN.state(1, 2.0).sequence_bytes == 4 * 8 * 8 * 4 + 3 * 64 * 2
    assert GDN.state(2, 2.0).sequence_bytes == (4 * 8 * 8 * 4 + 3 * 64 * 2) / 2
    assert GDN.state(1, 2.0).token_bytes == 0
    assert MAMBA.state(1, 2.0).sequence_bytes == 4 * 16 * 8 * 4 + 3 * 96 * 2
    assert GDN.keeps_state and not load_model("Mixtral-8x7B-v0.1").layers[0].blocks[0].keeps_state


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        ("Qwen3-Next-80B-A3B-Instruct", (544, 544, 272, 144)), ("Qwen3.5-35B-A3B", (1056, 1056, 528, 272)),
        ("Qwen3.5-122B-A10B", (2096, 2096, 1056, 528)), ("Qwen3.8-2.4T-A95B", (2080, 2080, 2080, 1040)),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B", (2096, 2096, 1056, 528)),
        ("NVIDIA-Nemotron-3-Super-120B-A12B", (4160, 4160, 2080, 1040)),
        ("NVIDIA-Nemotron-3-Ultra-550B-A55B", (8304, 8304, 4160, 2080)), ("Mixtral-8x7B-v0.1", (16, 16, 16, 16)),
    ],
)  # fmt: skip
def test_pages_of_attention_hold_a_state(model, blocks):
    """Tokens of a block at TP 1, 2, 4, 8, as vLLM's rule gives them."""
    assert tuple(cache_block(rank(model, tp), 16) for tp in (1, 2, 4, 8)) == blocks


def test_a_sequence_takes_whole_pages():
    """Qwen3.5-35B: 30 pages of states and, for each token begun, 10 pages of attention of 1,056 tokens."""
    page = 1056 * 2 * 2 * 256 * 2
    assert float(sequence_kv_bytes(rank(), 1, 1056)) == 40 * page
    assert float(sequence_kv_bytes(rank(), 1057, 1056)) == 50 * page


def test_weights_of_ranks():
    """Nothing is held twice but what is whole: at four ranks more than a quarter, less than that and a tenth."""
    for model in (
        "Qwen3.5-35B-A3B",
        "NVIDIA-Nemotron-3-Nano-30B-A3B",
        "GLM-5.3-Flash",
        "MiniMax-M3",
        "DeepSeek-V4-Flash",
    ):
        whole, part = weight_bytes(rank(model)), weight_bytes(rank(model, 4))
        assert 0.25 * whole < part < 0.285 * whole, model
    assert weight_bytes(rank()) == 2 * load_model("Qwen3.5-35B-A3B").parameters


def operations(block, tp, *groups):
    tokens = sum(g.sequences * g.query for g in groups)
    at = Frame(rank("Qwen3.5-35B-A3B", tp), Load(groups, tokens, True))
    return dict(at.operations(block)), at


def test_operations():
    block = load_model("Qwen3.5-35B-A3B").layers[0].blocks[0]
    found, at = operations(block, 4, Group.decode(8, 100), Group(2, 128, 0))
    assert list(found) == [
        "in_proj", "gates_proj", "decode_convolution", "convolution", "decode_state", "state", "gated_norm", "out_proj",
        "all_reduce",
    ]  # fmt: skip
    assert (found["in_proj"].m, found["in_proj"].n, found["in_proj"].k) == (264, (8192 + 4096) // 4, 2048)
    assert found["gates_proj"].n == 64 // 4 and found["out_proj"].k == 4096 // 4
    assert (found["state"].heads, found["state"].key_heads) == (8, 4)
    assert found["convolution"].channels == 8192 // 4
    context = [name for name, _ in block.context_operations(at)]
    assert context == ["decode_convolution", "convolution", "decode_state", "state"]
    assert next(block.refusals(Plan(tp=32), "x"))[1].startswith("32 does not divide the ")


def test_work_of_states():
    """Eight sequences of 4 heads of 16 x 16; two prompts of 130 tokens, three chunks each."""
    decode = DeltaRule("gdn", (Group.decode(8, 100),), 2, 4, 16, 16)
    assert decode.state_bytes == 4 * 16 * 16 * 4
    assert decode.hbm_bytes == 8 * 2 * (2 * 2 * 16 + 2 * 4 * 16) + 2 * 8 * 4096
    assert decode.flop == 7 * 8 * 4 * 256
    prompt = DeltaRule("gdn", (Group(2, 130, 0),), 2, 4, 16, 16)
    assert (prompt.chunks, prompt.longest_chunks, prompt.tokens) == (6, 3, 260)
    assert prompt.flop == 260 * 4 * (2 * 64 * 5 * 16 + 6 * 256)
    convolution = ShortConvolution((Group(2, 130, 0),), 32)
    assert convolution.hbm_bytes == 4 * 32 * (260 + 2 * 3) and convolution.flop == 2 * 260 * 32 * 4


def test_seconds():
    """By hand on 132 SMs: rounds of heads, chunks one after the other, or the work of all."""
    gpu = GpuNumbers.of(load_hardware("h100-sxm"))
    p = {"t_launch": 1e-5, "t_chain": 3e-6, "t_work": 1e-9, "t_head": 1e-9, "e_hbm": 1.0, "c_wave": 1.0, "p_join": 12.0}

    def seconds(sequences, query, heads=32, **more):
        return float(
            chunked_seconds(p | more, DeltaRule("gdn", (Group(sequences, query, 0),), 16, heads, 128, 128), gpu)[0]
        )

    assert seconds(1, 640) == pytest.approx(1e-5 + 10 * 3e-6, rel=0.02)
    assert seconds(8, 640) == pytest.approx(1e-5 + 2 * 10 * 3e-6, rel=0.02)  # 256 heads: two rounds
    busy = seconds(8, 640, t_work=1e-4)
    assert busy == pytest.approx(1e-5 + 80 * 32 * 1e-4 / 132, rel=0.02)
    one = DeltaRule("gdn", (Group.decode(64, 9),), 16, 32, 128, 128)
    read = streamed_seconds({"t_launch": 4e-6, "e_hbm": 0.5}, one, gpu)
    assert float(read.seconds) == pytest.approx(4e-6 + one.hbm_bytes / (gpu.hbm_bytes_per_s * 0.5))


def test_more_never_takes_less():
    gpu = GpuNumbers.of(load_hardware("h100-sxm"))
    p = {"t_launch": 1e-5, "t_chain": 3e-6, "t_work": 3e-6, "t_head": 5e-6, "e_hbm": 0.7, "c_wave": 0.5, "p_join": 3.0}
    for op in (
        DeltaRule("gdn", (Group(1, np.arange(1, 9000, 7), 0),), 16, 32, 128, 128),
        DeltaRule("gdn", (Group(np.arange(1, 300), 512, 0),), 16, 32, 128, 128),
    ):
        seconds = np.asarray(chunked_seconds(p, op, gpu).seconds)
        assert np.all(np.diff(seconds) >= -1e-12) and math.isfinite(seconds[-1])


def test_streams():
    """Four streams of 10 tokens: 24 numbers say how they mix; a row in and out beside the streams."""
    before, after = (StreamMix(phase, 10, 4, 64) for phase in ("pre", "post"))
    assert before.mixes == 24
    assert before.flop == 2 * 10 * 4 * 64 * 24 + 2 * 10 * 64 * 4
    assert after.flop == 2 * 10 * 64 * 4 * 5
    assert before.hbm_bytes == 2 * 10 * 64 * 5 + 4 * 24 * 4 * 64
    assert after.hbm_bytes == 2 * 10 * 64 * 9
