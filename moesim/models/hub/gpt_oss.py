"""gpt-oss: every other layer windowed."""

from __future__ import annotations

from typing import Any

from moesim.errors import Problem
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import gqa, model_of, reads
from moesim.models.model import Layers, Model


@reads("gpt_oss")
def gpt_oss(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    experts, width = f.whole("num_local_experts"), f.whole("intermediate_size")
    moe = Moe(
        experts,
        f.whole("num_experts_per_tok", "experts_per_token"),
        width,
        extra_parameters=experts * (2 * width + hidden + 1),
    )

    def attention(window: int | None) -> Gqa:
        return gqa(f, lambda h, kv, d: (h + 2 * kv) * d + hidden + h, window=window)

    kinds = (f.data.get("layer_types") or ["sliding_attention", "full_attention"] * count)[:count]
    if len(kinds) < count:
        f.problems.append(Problem(f"'layer_types' names {len(kinds)} of {count} layers", f.source))
    sliding = kinds.count("sliding_attention")
    groups = (
        Layers(sliding, (attention(f.whole("sliding_window")), moe), 2 * hidden),
        Layers(count - sliding, (attention(None), moe), 2 * hidden),
    )
    return model_of(f, name, groups)
