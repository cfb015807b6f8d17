"""Llama 4: chunked attention in three of four layers."""

from __future__ import annotations

from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, gqa, model_of, reads
from moesim.models.model import Model


@reads("llama4", "llama4_text")
def llama4(f: Fields, name: str) -> Model:
    hidden, count, width = f.whole("hidden_size"), f.layers(), f.whole("intermediate_size")
    experts, picked = f.whole("num_local_experts"), f.whole("num_experts_per_tok")
    step, chunk = f.whole("interleave_moe_layer_step"), f.whole("attention_chunk_size")
    kinds = f.words("layer_types", count, ("chunked_attention", "full_attention"), _kinds(f, count))

    def row(i: int) -> Row:
        local = kinds[i] == "chunked_attention"
        attention = gqa(f, i, window=chunk if local else None, chunked=local)
        if (i + 1) % step:
            return Row((attention, dense(f, i, f.whole("intermediate_size_mlp"), name="feed_forward")), 2 * hidden)
        moe = Moe(
            experts, picked, width, shared_width=width, experts=f.format(i, "feed_forward.experts.0.down_proj"),
            weights=f.format(i, "feed_forward.shared_expert.down_proj"),
        )  # fmt: skip
        return Row((attention, moe), 2 * hidden)

    return model_of(f, name, [row(i) for i in range(count)])


def _kinds(f: Fields, count: int) -> list[str]:
    """By ``no_rope_layers`` (1 rotates, in chunks), else every fourth layer sees everything."""
    rotated = f.data.get("no_rope_layers") or [(i + 1) % 4 != 0 for i in range(count)]
    return ["chunked_attention" if i < len(rotated) and rotated[i] else "full_attention" for i in range(count)]
