"""Kinds of attention beside grouped and latent: compressed, block-sparse, gated, shared indexers; by hand."""

import pytest

from moesim.cost.forms.block_sparse import block_sparse_seconds
from moesim.cost.gpu import GpuNumbers
from moesim.engines.engine import load_engine
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.routing import Uniform
from moesim.models.blocks.block_sparse import BlockSparse
from moesim.models.blocks.compressed import Compressed
from moesim.models.blocks.engram import Engram
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.catalogue import load_model
from moesim.models.frame import Frame
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops import BlockSparseModule, IndexScores
from moesim.ops.load import Group, Load


def rank(model="DeepSeek-V4-Flash", tp=1, kv_bytes=2.0) -> Rank:
    return Rank(load_model(model), Plan(tp=tp, expert_tp=tp), kv_bytes, Uniform(), load_engine())


def operations(block, groups, **more):
    tokens = sum(g.sequences * g.query for g in groups)
    return list(Frame(rank(**more), Load(groups, tokens, True)).operations(block))


def layers_of(model):
    found = load_model(model)
    return [found.layers[i].blocks for i in found.order]


# --- compressed keys


def test_compressed_parameters():
    """DeepSeek-V4-Flash: 106.956 M of attention, compressors of 4 and 128 tokens, an indexer with its own."""
    window, short, long = (layers_of("DeepSeek-V4-Flash")[i][0] for i in (0, 2, 3))
    attention = 4096 * (1024 + 512) + 1024 + 512 + 64 * (512 * 1024 + 1) + 1024 * 64 * 512 + 4096 * 8 * 1024
    assert window.parameters(4096) == attention
    assert long.parameters(4096) - attention == 2 * 4096 * 512 + 128 * 512 + 512
    indexer = 64 * (128 * 1024 + 4096) + 2 * 4096 * 256 + 4 * 256 + 128
    assert short.parameters(4096) - attention == 2 * 4096 * 1024 + 4 * 1024 + 512 + indexer


def test_compressed_caches():
    """A row of 584 bytes in fp8, 1,024 in bfloat16; 3,850 bytes a token of V4-Flash, 5,511 of V4-Pro, in fp8."""
    window, short, long = (layers_of("DeepSeek-V4-Flash")[i][0] for i in (0, 2, 3))
    assert window.state(8, 1.0).sequence_bytes == 128 * 584 and window.state(8, 1.0).token_bytes == 0
    assert short.state(8, 1.0).token_bytes == (584 + 132) / 4
    assert long.state(8, 2.0).token_bytes == 1024 / 128
    assert load_model("DeepSeek-V4-Flash").kv_bytes_per_token(1, 1.0) == pytest.approx(3850, abs=1)
    assert load_model("DeepSeek-V4-Pro").kv_bytes_per_token(1, 1.0) == pytest.approx(5511, abs=1)
    assert load_model("DeepSeek-V4.1-Flash").kv_bytes_per_token(1, 1.0) == pytest.approx(1790, abs=1)


def test_keys_that_a_query_attends():
    """At 10,000 tokens: 128 of the window, and 512 picked of 2,500, or all 78 of a long ratio."""
    window, short, long = (layers_of("DeepSeek-V4-Flash")[i][0] for i in (0, 2, 3))
    for block, keys in ((window, 128), (short, 128 + 512), (long, 128 + 78)):
        op = dict(operations(block, (Group.decode(4, 9999),)))["attention"]
        assert op.groups[0].past + op.groups[0].query == keys
        assert (op.heads, op.kv_heads, op.head_dim) == (64, 1, 512)
    early = dict(operations(short, (Group.decode(4, 99),)))["attention"]
    assert early.groups[0].past + early.groups[0].query == 100 + 25
    prompt = dict(operations(short, (Group(1, 2000, 8000),)))["attention"]
    assert prompt.window == 128 + 512 and prompt.groups[0].query == 2000
    scores = dict(operations(short, (Group.decode(4, 9999),)))["index_scores"]
    assert scores.scores == 4 * 10000 / 4 and scores.hbm_bytes == 132 * 4 * 10000 / 4
    assert "index_scores" not in dict(operations(long, (Group.decode(4, 9999),)))


def test_few_heads_cost_as_many():
    block = layers_of("DeepSeek-V4-Flash")[0][0]
    assert dict(operations(block, (Group.decode(1, 99),), tp=8))["attention"].heads == 64
    assert [why for _, why in block.refusals(Plan(tp=16), "x")] == ["16 does not divide the 8 output groups of x"]


def test_sources_of_compressed_keys():
    """DeepSeek-V4.1: layers 2, 8, 14 and 20 make them, eight index; the others read."""
    found = [next(b for b in blocks if isinstance(b, Compressed)) for blocks in layers_of("DeepSeek-V4.1-Flash")]
    assert [i for i, b in enumerate(found) if b.ratio and b.compresses] == [2, 8, 14, 20]
    assert [i for i, b in enumerate(found) if b.index_heads] == [2, 8, 14, 20, 24, 28, 32, 36]
    assert found[3].state(1, 1.0).token_bytes == 0 and found[3].picked == 512


def test_engram():
    """A token reads a row of each of 24 hashes; ranks share the table."""
    block = Engram(1000, 256, 24, 4)
    assert block.linear_parameters(64) == 64 * 5 * 24 * 256 + 2 * 4 * 64
    assert block.parameters(64) == 1000 * 256 + block.linear_parameters(64)
    assert load_model("DeepSeek-V4.1-Flash").layers[1].blocks[0].columns == 24
    table = 1000 * 256 * (1 + 1 / 32)
    part = block.weight_bytes(rank(tp=4))
    assert part == table / 4 + block.linear_parameters(4096) * 2
    names = [name for name, _ in operations(block, (Group.decode(4, 9),), tp=4)]
    assert names == ["engram_rows", "engram_gather", "engram_proj", "engram_gate"]


# --- blocks of keys

M3 = BlockSparse(Gqa(64, 4, 128, extra_parameters=256), 4, 128, 16, 128)


def test_block_sparse_block():
    indexer = 6144 * 5 * 128 + 256
    assert M3.parameters(6144) == 6144 * 128 * 136 + 256 + indexer
    assert M3.state(1, 2.0).token_bytes == 2048 + 256 and M3.state(8, 2.0).token_bytes == 512 + 256
    assert load_model("MiniMax-M3").kv_bytes_per_token(8) == 45312
    op = dict(operations(M3, (Group.decode(4, 9999),), model="MiniMax-M3", tp=2))["block_sparse_attention"]
    assert (op.heads, op.kv_heads, op.index_heads, op.top_k) == (32, 2, 2, 2048)


def test_block_sparse_work():
    """Four sequences at 10,000 tokens: each query attends 2,048 keys and scores all."""
    op = BlockSparseModule((Group.decode(4, 9999),), 8, 1, 128, 64, 1, 128, 2048)
    assert op.pairs == 4 * 2048 and op.scores == 4 * 10000
    assert op.kv_read == 4 * 2048 * 2 * 128 * 2 and op.index_bytes == 4 * 10000 * 256
    assert op.weights == 64 * (2 * 9 * 128 + 2 * 128)
    assert op.flop == 2 * 4 * op.weights + 4 * 4 * 2048 * 8 * 128 + 2 * 4 * 10000 * 128
    assert op.hbm_bytes == op.weights * 2 + 4 * 4 * 64 + op.kv_read + op.index_bytes


def test_block_sparse_seconds():
    """A tile of queries has 16 rows: one head costs as much as 16 of a KV head; fp8 keys take longer."""
    gpu = GpuNumbers.of(load_hardware("h100-sxm"))
    p = {
        "t_floor": 2e-5, "e_weights": 0.8, "e_gemm": 0.7, "e_gemm_fp8": 0.5, "c_act": 2.0, "e_attention": 0.01,
        "c_fp8": 2.0, "e_kv": 0.5, "t_key": 1e-12, "t_score": 1e-16, "e_keys": 0.7, "p_join": 8.0,
    }  # fmt: skip

    def seconds(heads, kv_bytes=2.0):
        op = BlockSparseModule((Group(1, 8192, 0),), heads, 1, 128, 1, 1, 128, 2048, kv_bytes)
        return float(block_sparse_seconds(p, op, gpu).seconds), float(op.pairs)

    one, pairs = seconds(1)
    assert one == pytest.approx(seconds(16)[0], rel=0.01)
    attention = 4 * pairs * 16 * 128 / (gpu.bf16_flop_per_s * 0.01)
    assert one == pytest.approx(2e-5 + attention, rel=0.05)
    assert seconds(1, 1.0)[0] == pytest.approx(2e-5 + 2 * attention, rel=0.05)
    assert seconds(32)[0] == pytest.approx(2e-5 + 2 * attention, rel=0.05)


# --- grouped attention with gates, other values, shared projections


def test_values_narrower_than_keys():
    """MiMo-V2: keys of 192, values of 128."""
    block = Gqa(64, 4, 192, v_head_dim=128)
    assert block.parameters(10) == 10 * (64 * 192 + 4 * 192 + 4 * 128 + 64 * 128)
    assert block.state(1, 2.0).token_bytes == 4 * (192 + 128) * 2
    found = dict(operations(block, (Group.decode(4, 99),)))
    assert found["o_proj"].k == 64 * 128 and found["attention"].head_dim == 160


def test_gates():
    plain, each, head = (Gqa(8, 2, 16, gate=gate) for gate in ("", "elementwise", "head"))
    assert each.parameters(10) - plain.parameters(10) == 10 * 8 * 16
    assert head.parameters(10) - plain.parameters(10) == 10 * 8
    assert dict(operations(each, (Group.decode(4, 9),)))["qkv_proj"].n == (8 * 2 + 4) * 16
    assert dict(operations(head, (Group.decode(4, 9),)))["gate_proj"].n == 8
    assert "gate" not in dict(operations(plain, (Group.decode(4, 9),)))


def test_keys_that_are_values():
    """One projection on disk, two in memory and in the cache."""
    shared, plain = Gqa(8, 2, 16, keys_are_values=True), Gqa(8, 2, 16)
    assert plain.parameters(10) - shared.parameters(10) == 10 * 2 * 16
    assert shared.weight_bytes(rank()) == plain.weight_bytes(rank())
    assert shared.state(1, 2.0) == plain.state(1, 2.0)


def test_shared_indexers():
    """GLM-5.2: 57 of 78 layers take another's picks: no parameters, no keys, no work of an indexer."""
    full, shared = (layers_of("GLM-5.2")[i][0] for i in (0, 3))
    assert sum(blocks[0].indexer is None for blocks in layers_of("GLM-5.2")) == 57
    assert full.parameters(6144) - shared.parameters(6144) == full.indexer.parameters(6144, 2048)
    assert full.state(8, 1.0).token_bytes - shared.state(8, 1.0).token_bytes == 132
    op = dict(operations(shared, (Group.decode(4, 99),), model="GLM-5.2"))["mla"]
    assert op.index_heads == 0 and op.top_k == 2048


def test_pooled_index_keys():
    """GLM-5.3-Flash: four tokens share a key."""
    block = next(b for blocks in layers_of("GLM-5.3-Flash") for b in blocks if type(b).__name__ == "SparseMla")
    assert block.indexer.token_bytes == 33
    op = dict(operations(block, (Group.decode(4, 9999),), model="GLM-5.3-Flash"))["mla"]
    assert op.scores == 4 * 10000 / 4 and op.index_bytes == 4 * 10000 / 4 * 132


def test_scores_alone():
    op = IndexScores((Group(2, 10, 90),), 64, 128, 4.0)
    assert op.scores == 2 * 10 * 100 / 4 and op.hbm_bytes == 132 * 2 * 100 / 4
    assert op.flop == 2 * op.scores * 64 * 128


# --- experts behind a latent


def test_experts_behind_a_latent():
    """Nemotron-3: experts see 8 of 32 numbers; two projections are whole on every rank."""
    moe = Moe(4, 2, 16, gated=False, shared_width=24, latent=8)
    assert moe.parameters(32) == 4 * 2 * 8 * 16 + 2 * 32 * 24 + 32 * 4 + 2 * 32 * 8
    found = dict(operations(moe, (Group.decode(4, 9),)))
    assert found["experts"].hidden == 8
    assert (found["latent_proj"].n, found["latent_out_proj"].k) == (8, 8)
    exchanged = Rank(load_model("DeepSeek-V4-Flash"), Plan(dp=4, ep=4), 2.0, Uniform(), load_engine())
    at = Frame(exchanged, Load((Group.decode(4, 9),), 4, True))
    sent = dict(at.operations(moe))["gather_tokens"].message_bytes
    assert sent == (2 * 8 + 8 * 2) * 16


def test_router_columns_that_do_nothing():
    """LongCat-Flash: 256 of 768 choices do nothing, and still take rows."""
    moe = Moe(512, 12, 16, unrouted=256)
    assert moe.parameters(32) - Moe(512, 12, 16).parameters(32) == 32 * 256
    found = dict(operations(moe, (Group.decode(4, 9),)))
    assert found["router"].n == 768 and found["experts"].top_k == 12
