"""Mixtral, OLMoE, Phi-3.5-MoE, MiniMax-M2: every layer routed, no shared experts."""

from __future__ import annotations

from collections.abc import Callable

from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, gqa, model_of, reads
from moesim.models.model import Model

_SPARSE_MIXER = 20
"""Small kernels of Phi-3.5-MoE's sparse mixer, twice a softmax over what is near the best (vLLM models/phimoe.py)."""


@reads("mixtral", "olmoe", "phimoe", "minimax_m2")
def mixtral(f: Fields, name: str) -> Model:
    kind, hidden = str(f.data["model_type"]), f.whole("hidden_size")
    window = f.optional("sliding_window")
    extra: dict[str, Callable[[int, int, int], int]] = {
        "olmoe": lambda h, kv, d: (h + kv) * d,
        "minimax_m2": lambda h, kv, d: (h + kv) * d,
        "phimoe": lambda h, kv, d: (h + 2 * kv) * d + hidden,
    }
    parameters = extra.get(kind, lambda h, kv, d: 0)
    experts, module = f.whole("num_local_experts", "num_experts"), "mlp" if kind == "olmoe" else "block_sparse_moe"
    biased_norms = kind == "phimoe"
    norms = hidden * (4 if biased_norms else 2)

    def row(i: int) -> Row:
        attention = gqa(f, i, parameters, window=window, norm_across_heads=kind == "minimax_m2")
        ffn = Moe(
            experts,
            f.whole("num_experts_per_tok"),
            f.whole("intermediate_size"),
            extra_parameters=experts if f.flag("use_routing_bias") else 0,
            scores="sigmoid" if kind == "minimax_m2" else "softmax",
            router="float32" if kind == "minimax_m2" else "bfloat16",  # vLLM models/minimax_m2.py
            experts=f.format(i, f"{module}.experts.0.w2"),
            mixer_kernels=_SPARSE_MIXER if kind == "phimoe" else 0,
        )
        return Row((attention, ffn), norms)

    head_bias = f.whole("vocab_size") if f.flag("lm_head_bias") else 0
    rows = [row(i) for i in range(f.layers())]
    return model_of(f, name, rows, norm=2 if biased_norms else 1, other=head_bias)
