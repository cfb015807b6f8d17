"""What the image side of a model holds, counted from its ``vision_config``: tower, merger, projector.

One function for each kind of tower; one that is not known is left out, and said so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.models.config_fields import Fields

Count = Callable[[Fields, int], int]


def tower_parameters(f: Fields, config: dict[str, Any]) -> int:
    """Parameters of tower and projector; 0 where there is none. The catalogue's own count stands where it has one."""
    if "_vision_parameters" in config:
        return int(config["_vision_parameters"])
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        if vision:
            f.refuse(f"'vision_config' is {vision!r}; a map is expected")
        return 0
    kind = str(config.get("model_type") or "")
    count = _TOWERS.get(kind)
    if count is None:
        f.notes.append(f"the image tower of {kind} is not known: what it holds is left out")
        return 0
    around = {"_around": config}
    inner = Fields({**vision, **around}, f.source)
    total = count(inner, f.whole("hidden_size"))
    f.problems += inner.problems
    return total


def _block(width: int, inner: int) -> int:
    """A transformer layer with biases and layer norms, its feed-forward of two products."""
    return 4 * width * width + 2 * width * inner + inner + 9 * width


def _qwen(v: Fields, text: int) -> int:
    """Qwen-VL: patches of two frames, positions, mergers of 2 x 2 patches, one for each deep stack."""
    width, inner, out = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("out_hidden_size")
    merged = width * v.whole("spatial_merge_size") ** 2
    patch = v.whole("in_channels", default=3) * v.whole("temporal_patch_size") * v.whole("patch_size") ** 2
    project = merged * merged + merged + merged * out + out
    deep = len(v.data.get("deepstack_visual_indexes") or ())
    ends = patch * width + width + v.whole("num_position_embeddings") * width
    return v.whole("depth") * _block(width, inner) + ends + 2 * width + project + deep * (2 * merged + project)


def _kimi_k25(v: Fields, text: int) -> int:
    """MoonViT, merged 2 x 2."""
    width, inner, patch = v.whole("vt_hidden_size"), v.whole("vt_intermediate_size"), v.whole("patch_size")
    rows, columns = v.whole("init_pos_emb_height"), v.whole("init_pos_emb_width")
    merged = 4 * width
    project = 2 * width + merged * merged + merged + merged * text + text
    ends = 3 * patch * patch * width + width + rows * columns * width + 2 * width
    return v.whole("vt_num_hidden_layers") * _block(width, inner) + ends + project


def _kimi_k3(v: Fields, text: int) -> int:
    """MoonViT without biases, its heads wider than its stream."""
    width, inner, patch = v.whole("vt_hidden_size"), v.whole("vt_intermediate_size"), v.whole("patch_size")
    heads, merged = v.whole("qkv_hidden_size"), 4 * width
    layer = 4 * width * heads + 2 * width * inner + 2 * width
    ends = (3 * patch * patch + v.whole("init_pos_emb_height") * v.whole("init_pos_emb_width") + 1) * width
    return v.whole("vt_num_hidden_layers") * layer + ends + merged * merged + merged * text + text


def _llama4(v: Fields, text: int) -> int:
    """Llama 4: a class token, positions, a pixel shuffle into an adapter."""
    width, inner, out = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("vision_output_dim")
    places = (v.whole("image_size") // v.whole("patch_size")) ** 2 + 1
    patch = 3 * v.whole("patch_size") ** 2 * width
    adapter = inner * out + out * out + out * text
    return v.whole("num_hidden_layers") * _block(width, inner) + width + places * width + patch + 4 * width + adapter


def _gemma4(v: Fields, text: int) -> int:
    """Gemma 4: gated, without biases, a table of positions for each axis."""
    width, inner, dim = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("head_dim")
    heads, kv = v.whole("num_attention_heads"), v.whole("num_key_value_heads")
    layer = width * dim * 2 * (heads + kv) + 3 * width * inner + 2 * dim + 4 * width
    patch, places = 3 * v.whole("patch_size") ** 2 * width, 2 * v.whole("position_embedding_size") * width
    return v.whole("num_hidden_layers") * layer + patch + places + width * text


def _minimax(v: Fields, text: int) -> int:
    """MiniMax-M3: CLIP's layers over patches of two frames, projected, then merged 2 x 2."""
    width, inner, out = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("projection_dim")
    around = v.data["_around"]
    project = int(around.get("projector_hidden_size") or out)
    pressed = v.section("img_token_compression_config")
    frames, merged = int(pressed.get("temporal_patch_size", 2)), int(pressed.get("spatial_merge_size", 2)) ** 2
    patch = 3 * frames * v.whole("patch_size") ** 2 * width
    projector = width * project + project + project * out + out
    merger = merged * out * project + project + project * out + out
    return v.whole("num_hidden_layers") * _block(width, inner) + patch + 2 * width + projector + merger


def _glm(v: Fields, text: int) -> int:
    """GLM-5.3-Flash: gated layers with biases, normed queries and keys, a convolution that merges 2 x 2."""
    width, inner, out = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("out_hidden_size")
    dim, merge = width // max(v.whole("num_heads"), 1), v.whole("spatial_merge_size")
    layer = 4 * width * width + 4 * width + 2 * dim + 3 * width * inner + 2 * inner + width + 2 * width
    patch = v.whole("in_channels") * v.whole("temporal_patch_size") * v.whole("patch_size") ** 2 * width + width
    down = merge * merge * width * out + out
    merger = out * out + 2 * out + 3 * out * v.whole("projection_intermediate_size")
    return v.whole("depth") * layer + patch + width + down + merger


def _deepseek_v41(v: Fields, text: int) -> int:
    """DeepSeek-V4.1: gated layers with biased attention, an aligner over 3 x 3 patches."""
    width, inner, patch = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("patch_size")
    layer = 4 * width * width + 4 * width + 3 * width * inner + 2 * width
    merged = v.whole("downsample_ratio") ** 2 * width
    aligner = merged * text + text + text * text + text + 3 * text
    return v.whole("num_hidden_layers") * layer + 3 * patch * patch * width + 2 * width + aligner


def _gemma3(v: Fields, text: int) -> int:
    """Gemma 3: SigLIP, pooled, normed and projected."""
    width, inner, patch = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("patch_size")
    places = (v.whole("image_size") // patch) ** 2
    ends = 3 * patch * patch * width + width + places * width + 2 * width
    return v.whole("num_hidden_layers") * _block(width, inner) + ends + width + width * text


_TOWERS: dict[str, Count] = {
    "qwen3_vl_moe": _qwen,
    "qwen3_5_moe": _qwen,
    "kimi_k25": _kimi_k25,
    "kimi_k2": _kimi_k25,
    "kimi_k3": _kimi_k3,
    "llama4": _llama4,
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "minimax_m3_vl": _minimax,
    "glm5_next": _glm,
    "deepseek_v41": _deepseek_v41,
}
