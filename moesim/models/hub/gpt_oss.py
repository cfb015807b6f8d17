"""gpt-oss: every other layer windowed."""

from __future__ import annotations

from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, gqa, model_of, reads
from moesim.models.model import Model

_KINDS = ("sliding_attention", "full_attention")


@reads("gpt_oss")
def gpt_oss(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    experts, width = f.whole("num_local_experts"), f.whole("intermediate_size")
    picked = f.whole("num_experts_per_tok", "experts_per_token")
    kinds = f.words("layer_types", count, _KINDS, ["sliding_attention", "full_attention"] * count)

    def row(i: int) -> Row:
        window = f.whole("sliding_window") if kinds[i] == "sliding_attention" else None
        attention = gqa(f, i, lambda h, kv, d: (h + 2 * kv) * d + hidden + h, window=window)
        biases = experts * (2 * width + hidden + 1)
        moe = Moe(experts, picked, width, extra_parameters=biases, experts=f.format(i, "mlp.experts.0.down_proj"))
        return Row((attention, moe), 2 * hidden)

    return model_of(f, name, [row(i) for i in range(count)])
