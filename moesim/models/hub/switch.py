"""Switch Transformers (arXiv 2101.03961): encoder and decoder."""

from __future__ import annotations

from moesim.models.blocks.cross import Cross
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, model_of, reads
from moesim.models.model import Model


@reads("switch_transformers")
def switch(f: Fields, name: str) -> Model:
    hidden, heads, dim = f.whole("d_model"), f.whole("num_heads"), f.whole("d_kv")
    gated = "geglu" in str(f.data.get("feed_forward_proj", "")) or "gated" in str(f.data.get("feed_forward_proj", ""))
    width = f.whole("d_ff")
    moe = Moe(f.whole("num_experts"), f.whole("top_k", default=1), width, gated=gated)
    dense = Dense(width, gated)
    rows: list[Row] = []
    for encoder in (True, False):
        total = f.layers("num_layers") if encoder else f.layers("num_decoder_layers")
        sparse = f.whole("num_sparse_encoder_layers" if encoder else "num_sparse_decoder_layers")
        attention = (Gqa(heads, heads, dim, causal=not encoder), *(() if encoder else (Cross(heads, heads, dim),)))
        norms, step = hidden * (2 if encoder else 3), max(total // max(sparse, 1), 1)
        rows += [Row((*attention, dense if (i + 1) % step else moe), norms, encoder) for i in range(total)]
    relative_positions = 2 * heads * f.whole("relative_attention_num_buckets", default=32)
    tied = f.flag("tie_word_embeddings", True)
    return model_of(f, name, rows, norm=2, other=relative_positions, tie_word_embeddings=tied)
