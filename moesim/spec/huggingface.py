"""Hugging Face config.json -> Model, one reader per architecture. An unknown architecture is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.spec.config_fields import Fields
from moesim.spec.model import (
    Attention,
    DenseFfn,
    Indexer,
    Layers,
    Mla,
    Model,
    MoeFfn,
    Quantization,
)


def model_from_config(config: dict[str, Any], name: str, source: str) -> Model:
    """Read a config.json. Raises SpecError for an unknown architecture or missing fields."""
    model_type = config.get("model_type")
    reader = READERS.get(str(model_type))
    if reader is None:
        known = ", ".join(sorted(READERS))
        shown = model_type or (config.get("architectures") or ["(none named)"])[0]
        raise SpecError([Problem(f"the architecture '{shown}' is not known; known model_type values: {known}", source)])
    fields = Fields(_text_config(config), source)
    model: Model | None = None
    try:
        model = reader(fields, name, config)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        fields.problems = fields.problems or [Problem(f"its values do not hang together ({error})", source)]
    if fields.problems or model is None:
        raise SpecError(fields.problems)
    return model


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    for nested in ("text_config", "language_config"):
        if isinstance(config.get(nested), dict):
            return {**config[nested], "quantization_config": config.get("quantization_config")}
    return config


def _quantization(f: Fields) -> Quantization:
    config = f.section("quantization_config")
    if not config:
        return Quantization()
    method = config.get("quant_method", "")
    if method == "mxfp4":
        return Quantization(experts="mxfp4", linear="bfloat16")
    if method == "fp8":
        scheme = "fp8_block" if config.get("weight_block_size") else "fp8"
        return Quantization(experts=scheme, linear=scheme)
    bits = config.get("bits") or config.get("w_bit")
    if method in {"awq", "gptq", "gptq_marlin", "awq_marlin"} and bits in (4, 8):
        scheme = "int4" if bits == 4 else "int8_weight_only"
        return Quantization(experts=scheme, linear=scheme)
    if method == "compressed-tensors" and _int4_weights(config):
        everywhere = not any("self_attn" in str(name) for name in config.get("ignore") or [])
        return Quantization(experts="int4", linear="int4" if everywhere else "bfloat16")
    f.problems.append(
        Problem(
            f"quant_method '{method}' is not known; fp8, mxfp4, awq, gptq, int4 compressed-tensors are",
            f.source,
        )
    )
    return Quantization()


def _int4_weights(config: dict[str, Any]) -> bool:
    """compressed-tensors with 4-bit integer weights in every group."""
    groups = config.get("config_groups")
    weights = [g.get("weights") or {} for g in groups.values()] if isinstance(groups, dict) else []
    return bool(weights) and all(w.get("num_bits") == 4 and w.get("type") == "int" for w in weights)


def _gqa(f: Fields, extra: Callable[[int, int, int], int] = lambda h, kv, d: 0, **more: Any) -> Attention:
    heads = f.whole("num_attention_heads", "n_heads")
    kv = f.whole("num_key_value_heads", default=heads)
    dim = f.whole("head_dim", default=f.whole("hidden_size", "d_model") // max(heads, 1))
    return Attention(heads, kv, dim, extra_parameters=extra(heads, kv, dim), **more)


def _model(f: Fields, name: str, layers: tuple[Layers, ...], norm: int = 1, other: int = 0, **more: Any) -> Model:
    hidden = f.whole("hidden_size", "d_model")
    more.setdefault("tie_word_embeddings", f.flag("tie_word_embeddings"))
    limit = f.optional("max_position_embeddings") or f.optional("max_seq_len")
    provenance = f.data.get("_provenance")
    return Model(
        name=name,
        architecture=str(f.data.get("model_type")),
        hidden_size=hidden,
        vocab_size=f.whole("vocab_size"),
        layers=tuple(group for group in layers if group.count > 0),
        max_position_embeddings=limit,
        quantization=_quantization(f),
        other_parameters=other + norm * hidden,
        provenance=f"rebuilt: {provenance}" if provenance else "Hugging Face config.json",
        **more,
    )


def _by_kind(count: int, attention: Attention, kinds: list[DenseFfn | MoeFfn], norms: int) -> tuple[Layers, ...]:
    """Group equal layers; their order matters to pipelines alone, where dense layers may come first."""
    kinds = kinds[:count]
    different = list(dict.fromkeys(kinds))
    groups = []
    for ffn in different:
        many = kinds.count(ffn)
        leading = len(different) > 1 and kinds[:many] == [ffn] * many
        groups.append(Layers(many, attention, ffn, norms, leading=leading))
    return tuple(groups)


def _llama(f: Fields, name: str, config: dict[str, Any]) -> Model:
    qk_norm = config["model_type"] == "qwen3"
    attention = _gqa(f, lambda h, kv, d: 2 * d if qk_norm else 0)
    ffn = DenseFfn(f.whole("intermediate_size"))
    return _model(f, name, (Layers(f.layers(), attention, ffn, 2 * f.whole("hidden_size")),))


def _mixtral(f: Fields, name: str, config: dict[str, Any]) -> Model:
    kind, hidden = config["model_type"], f.whole("hidden_size")
    window = f.optional("sliding_window")
    extra: dict[str, Callable[[int, int, int], int]] = {
        "olmoe": lambda h, kv, d: (h + kv) * d,
        "minimax_m2": lambda h, kv, d: (h + kv) * d,
        "phimoe": lambda h, kv, d: (h + 2 * kv) * d + hidden,
    }
    attention = _gqa(f, extra.get(kind, lambda h, kv, d: 0), window=window, norm_across_heads=kind == "minimax_m2")
    experts = f.whole("num_local_experts", "num_experts")
    ffn = MoeFfn(
        experts,
        f.whole("num_experts_per_tok"),
        f.whole("intermediate_size"),
        extra_parameters=experts if f.flag("use_routing_bias") else 0,
    )
    biased_norms = kind == "phimoe"
    norms = hidden * (4 if biased_norms else 2)
    head_bias = f.whole("vocab_size") if f.flag("lm_head_bias") else 0
    layers = (Layers(f.layers(), attention, ffn, norms),)
    return _model(f, name, layers, norm=2 if biased_norms else 1, other=head_bias)


def _qwen_moe(f: Fields, name: str, config: dict[str, Any]) -> Model:
    third, hidden, count = (
        config["model_type"] == "qwen3_moe",
        f.whole("hidden_size"),
        f.layers(),
    )
    attention = _gqa(f, lambda h, kv, d: 2 * d if third else (h + 2 * kv) * d)
    shared = f.whole("shared_expert_intermediate_size", default=0)
    moe = MoeFfn(
        f.whole("num_experts"),
        f.whole("num_experts_per_tok"),
        f.whole("moe_intermediate_size"),
        shared_width=shared,
        extra_parameters=hidden if shared else 0,
        shared_gate=shared > 0,
    )
    dense = DenseFfn(f.whole("intermediate_size"))
    step, only = f.whole("decoder_sparse_step", default=1), f.data.get("mlp_only_layers") or []
    kinds = [dense if i in only or (i + 1) % step else moe for i in range(count)]
    return _model(f, name, _by_kind(count, attention, kinds, 2 * hidden))


def _routed_and_shared(f: Fields, biased: bool) -> MoeFfn:
    """DeepSeek's names for experts; ``biased`` routers carry a correction per expert."""
    experts, width = f.whole("n_routed_experts"), f.whole("moe_intermediate_size")
    return MoeFfn(
        experts,
        f.whole("num_experts_per_tok"),
        width,
        shared_width=f.whole("n_shared_experts", default=0) * width,
        extra_parameters=experts * biased,
        n_group=f.whole("n_group", default=1),
        topk_group=f.whole("topk_group", default=1),
    )


def _deepseek(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    mla = None
    if f.data.get("use_mla", True) and f.data.get("kv_lora_rank"):
        mla = Mla(
            f.optional("q_lora_rank"),
            f.whole("kv_lora_rank"),
            f.whole("qk_nope_head_dim"),
            f.whole("qk_rope_head_dim"),
            f.whole("v_head_dim"),
        )
    indexer = None
    if f.data.get("index_topk"):
        indexer = Indexer(f.whole("index_n_heads"), f.whole("index_head_dim"), f.whole("index_topk"))
    heads = f.whole("num_attention_heads")
    attention = Attention(heads, heads, mla.qk_head_dim, mla=mla, indexer=indexer) if mla else _gqa(f)
    moe = _routed_and_shared(f, biased=f.data.get("topk_method") == "noaux_tc")
    dense, first = DenseFfn(f.whole("intermediate_size")), f.whole("first_k_dense_replace", default=0)
    every = f.whole("moe_layer_freq", default=1)
    kinds = [dense if i < first or i % every else moe for i in range(count)]
    vision = _vision_parameters(config)
    return _model(f, name, _by_kind(count, attention, kinds, 2 * hidden), other=vision)


def _glm4_moe(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    bias, qk_norm = f.flag("attention_bias"), f.flag("use_qk_norm")
    attention = _gqa(f, lambda h, kv, d: (h + 2 * kv) * d * bias + 2 * d * qk_norm)
    moe = _routed_and_shared(f, biased=True)
    dense, first = DenseFfn(f.whole("intermediate_size")), f.whole("first_k_dense_replace", default=0)
    return _model(f, name, _by_kind(count, attention, [dense] * first + [moe] * max(count - first, 0), 2 * hidden))


def _gpt_oss(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    experts, width = f.whole("num_local_experts"), f.whole("intermediate_size")
    moe = MoeFfn(
        experts,
        f.whole("num_experts_per_tok", "experts_per_token"),
        width,
        extra_parameters=experts * (2 * width + hidden + 1),
    )

    def attention(window: int | None) -> Attention:
        return _gqa(f, lambda h, kv, d: (h + 2 * kv) * d + hidden + h, window=window)

    kinds = (f.data.get("layer_types") or ["sliding_attention", "full_attention"] * count)[:count]
    if len(kinds) < count:
        f.problems.append(Problem(f"'layer_types' names {len(kinds)} of {count} layers", f.source))
    sliding = kinds.count("sliding_attention")
    groups = (
        Layers(sliding, attention(f.whole("sliding_window")), moe, 2 * hidden),
        Layers(count - sliding, attention(None), moe, 2 * hidden),
    )
    return _model(f, name, groups)


def _llama4(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, count, width = f.whole("hidden_size"), f.layers(), f.whole("intermediate_size")
    moe = MoeFfn(f.whole("num_local_experts"), f.whole("num_experts_per_tok"), width, shared_width=width)
    dense = DenseFfn(f.whole("intermediate_size_mlp"))
    step, chunk = f.whole("interleave_moe_layer_step"), f.whole("attention_chunk_size")
    groups: dict[tuple[Attention, DenseFfn | MoeFfn], int] = {}
    for i in range(count):
        local = (i + 1) % 4 != 0
        attention = _gqa(f, window=chunk if local else None, chunked=local)
        key = (attention, dense if (i + 1) % step else moe)
        groups[key] = groups.get(key, 0) + 1
    layers = tuple(Layers(n, attention, ffn, 2 * hidden) for (attention, ffn), n in groups.items())
    return _model(f, name, layers, other=_vision_parameters(config))


def _dbrx(f: Fields, name: str, config: dict[str, Any]) -> Model:
    inner, ffn = (Fields(f.section(key), f.source) for key in ("attn_config", "ffn_config"))
    hidden, heads = f.whole("d_model"), f.whole("n_heads")
    attention = Attention(heads, inner.whole("kv_n_heads"), hidden // max(heads, 1))
    moe = MoeFfn(ffn.whole("moe_num_experts"), ffn.whole("moe_top_k"), ffn.whole("ffn_hidden_size"))
    f.problems += inner.problems + ffn.problems
    return _model(f, name, (Layers(f.layers("n_layers"), attention, moe, 2 * hidden),))


def _molmo(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden = f.whole("hidden_size")
    attention = _gqa(f, lambda h, kv, d: (h + kv) * d)
    moe = MoeFfn(f.whole("moe_num_experts"), f.whole("moe_top_k"), f.whole("intermediate_size"))
    rows = f.whole("vocab_size") + f.whole("additional_vocab_size", default=0)
    layers = (Layers(f.layers(), attention, moe, 2 * hidden),)
    return _model(f, name, layers, other=_vision_parameters(config), embedding_rows=rows)


def _glam(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, count, every = f.whole("hidden_size"), f.layers(), f.whole("moe_every")
    moe = MoeFfn(f.whole("num_experts"), f.whole("num_experts_per_tok"), f.whole("intermediate_size"), gated=False)
    dense = DenseFfn(f.whole("intermediate_size"))
    kinds = [moe if (i + 1) % every == 0 else dense for i in range(count)]
    tied = f.flag("tie_word_embeddings", True)
    return _model(f, name, _by_kind(count, _gqa(f), kinds, 2 * hidden), tie_word_embeddings=tied)


def _switch(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, heads, dim = f.whole("d_model"), f.whole("num_heads"), f.whole("d_kv")
    gated = "geglu" in str(f.data.get("feed_forward_proj", "")) or "gated" in str(f.data.get("feed_forward_proj", ""))
    width = f.whole("d_ff")
    moe = MoeFfn(f.whole("num_experts"), f.whole("top_k", default=1), width, gated=gated)
    dense = DenseFfn(width, gated)
    layers: list[Layers] = []
    for encoder in (True, False):
        total = f.layers("num_layers") if encoder else f.layers("num_decoder_layers")
        sparse = f.whole("num_sparse_encoder_layers" if encoder else "num_sparse_decoder_layers")
        attention = Attention(heads, heads, dim, cross=not encoder, causal=not encoder)
        norms = hidden * (2 if encoder else 3)
        layers += [
            Layers(sparse, attention, moe, norms, encoder),
            Layers(total - sparse, attention, dense, norms, encoder),
        ]
    relative_positions = 2 * heads * f.whole("relative_attention_num_buckets", default=32)
    tied = f.flag("tie_word_embeddings", True)
    return _model(f, name, tuple(layers), norm=2, other=relative_positions, tie_word_embeddings=tied)


def _nllb(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, experts = f.whole("d_model"), f.whole("num_experts")
    layers: list[Layers] = []
    for side, cross in (("encoder", False), ("decoder", True)):
        heads, total = f.whole(f"{side}_attention_heads"), f.layers(f"{side}_layers")
        width, sparse = f.whole(f"{side}_ffn_dim"), total // max(f.whole(f"{side}_sparse_step"), 1)
        extra = 4 * hidden * (2 if cross else 1)
        attention = Attention(heads, heads, hidden // max(heads, 1), cross=cross, causal=cross, extra_parameters=extra)
        bias = width + hidden
        moe = MoeFfn(experts, f.whole("num_experts_per_tok"), width, gated=False, extra_parameters=experts * bias)
        norms = 2 * hidden * (3 if cross else 2)
        layers += [
            Layers(sparse, attention, moe, norms, side == "encoder"),
            Layers(total - sparse, attention, DenseFfn(width, gated=False), norms + bias, side == "encoder"),
        ]
    return _model(f, name, tuple(layers), norm=4)


def _vision_parameters(config: dict[str, Any]) -> int:
    """What the image side holds; config.json files of the catalogue carry it where the tower is not described."""
    return int(config.get("_vision_parameters", 0))


READERS: dict[str, Callable[[Fields, str, dict[str, Any]], Model]] = {
    "llama": _llama,
    "qwen3": _llama,
    "mixtral": _mixtral,
    "olmoe": _mixtral,
    "phimoe": _mixtral,
    "minimax_m2": _mixtral,
    "qwen2_moe": _qwen_moe,
    "qwen3_moe": _qwen_moe,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "deepseek_vl_v2": _deepseek,
    "kimi_k2": _deepseek,
    "glm_moe_dsa": _deepseek,
    "glm4_moe": _glm4_moe,
    "gpt_oss": _gpt_oss,
    "llama4": _llama4,
    "dbrx": _dbrx,
    "molmo": _molmo,
    "glam": _glam,
    "switch_transformers": _switch,
    "nllb-moe": _nllb,
}
