"""GLaM (arXiv 2112.06905), rebuilt from its paper."""

from __future__ import annotations

from moesim.models.blocks.dense import Dense
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, gqa, model_of, reads
from moesim.models.model import Model


@reads("glam")
def glam(f: Fields, name: str) -> Model:
    hidden, count, every = f.whole("hidden_size"), f.layers(), f.whole("moe_every")
    moe = Moe(f.whole("num_experts"), f.whole("num_experts_per_tok"), f.whole("intermediate_size"), gated=False)
    dense = Dense(f.whole("intermediate_size"))
    rows = [Row((gqa(f), moe if (i + 1) % every == 0 else dense), 2 * hidden) for i in range(count)]
    tied = f.flag("tie_word_embeddings", True)
    return model_of(f, name, rows, tie_word_embeddings=tied)
