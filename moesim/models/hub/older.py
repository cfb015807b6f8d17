"""GPT-2 and T5, dense."""

from __future__ import annotations

from moesim.models.blocks.cross import Cross
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, model_of, reads
from moesim.models.model import Model


@reads("gpt2")
def gpt2(f: Fields, name: str) -> Model:
    hidden, heads, count = f.whole("n_embd", "hidden_size"), f.whole("n_head"), f.layers("n_layer")
    width = f.whole("n_inner", default=4 * hidden)
    f.data.setdefault("hidden_size", hidden)
    attention = Gqa(heads, heads, hidden // max(heads, 1), extra_parameters=4 * hidden)
    row = Row((attention, Dense(width, gated=False)), 4 * hidden + width + hidden)
    positions = f.whole("n_positions") * hidden
    tied = f.flag("tie_word_embeddings", True)
    return model_of(f, name, [row] * count, norm=2, other=positions, tie_word_embeddings=tied)


@reads("t5", "mt5")
def t5(f: Fields, name: str) -> Model:
    hidden, heads, dim = f.whole("d_model"), f.whole("num_heads"), f.whole("d_kv")
    ffn = Dense(f.whole("d_ff"), gated="gated" in str(f.data.get("feed_forward_proj", "")))
    count, decoders = f.layers("num_layers"), f.layers("num_decoder_layers", "num_layers")
    encoder = Row((Gqa(heads, heads, dim, causal=False), ffn), 2 * hidden, encoder=True)
    decoder = Row((Gqa(heads, heads, dim), Cross(heads, heads, dim), ffn), 3 * hidden)
    positions = 2 * heads * f.whole("relative_attention_num_buckets", default=32)
    tied = f.flag("tie_word_embeddings", True)
    rows = [encoder] * count + [decoder] * decoders
    return model_of(f, name, rows, norm=2, other=positions, tie_word_embeddings=tied)
