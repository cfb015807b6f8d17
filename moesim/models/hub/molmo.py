"""MolmoE."""

from __future__ import annotations

from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, gqa, model_of, reads
from moesim.models.model import Model


@reads("molmo")
def molmo(f: Fields, name: str) -> Model:
    hidden = f.whole("hidden_size")
    attention = gqa(f, extra=lambda h, kv, d: (h + kv) * d)
    moe = Moe(f.whole("moe_num_experts"), f.whole("moe_top_k"), f.whole("intermediate_size"))
    vocabulary = f.whole("vocab_size") + f.whole("additional_vocab_size", default=0)
    rows = [Row((attention, moe), 2 * hidden)] * f.layers()
    return model_of(f, name, rows, embedding_rows=vocabulary)
