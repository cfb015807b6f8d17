"""Image towers: what they compute for an image, and how many tokens of a prompt it becomes.

A tower is a transformer without a causal mask over patches, cut into tiles; its rows are merged and projected into the
language model's width. How an image is cut is each family's own rule, as vLLM's processors have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa

if TYPE_CHECKING:
    from moesim.models.model import Layers


@dataclass(frozen=True)
class Picture:
    """One image as a tower and a language model see it."""

    tiles: int
    """Sequences of the tower."""
    patches: int
    """Of each."""
    tokens: int
    """Of the prompt."""


_MOST_CROPPED = 2
"""Images of a prompt up to which DeepSeek-VL2's processor cuts them into tiles."""
Cut = Callable[["Tower", int, int], Picture]


@dataclass(frozen=True)
class Tower:
    kind: str
    """Whose rule cuts images."""
    layers: int
    width: int
    heads: int
    inner: int
    patch: int
    """Side of a patch. [pixels]"""
    side: int = 0
    """Side of a tile; 0 where images are one sequence of any size. [pixels]"""
    most: int = 1
    """Tiles of an image at most, the view of the whole left out; tokens, where there are no tiles."""
    merged: int = 2
    """Rows and columns of patches that one token of the prompt stands for."""
    projector: tuple[tuple[int, int], ...] = ()
    """(columns, depth) of the products that each such token passes."""
    sharded: bool = True
    """Tensor-parallel ranks share it; else each runs all of it."""
    gated: bool = False
    longest: int = 0
    """Times the other side that one may be; 0 is any."""

    def refuses(self, width: int, height: int) -> bool:
        """Whether its processor takes no image of such a shape."""
        return bool(self.longest) and max(width, height) > self.longest * min(width, height)

    def picture(self, width: int, height: int, images: int = 1) -> Picture:
        """What an image of so many pixels becomes, one of several in a prompt."""
        if self.kind == "deepseek_vl2" and images > _MOST_CROPPED:
            width = height = self.side
        return _CUTS[self.kind](self, width, height)

    def stack(self) -> Layers:
        """Its layers, as blocks that are priced like any others."""
        from moesim.models.model import Layers

        attention = Gqa(self.heads, self.heads, self.width // self.heads, causal=False)
        return Layers(self.layers, (attention, Dense(self.inner, self.gated)), 4 * self.width, encoder=True)

    def flop(self, picture: Picture) -> float:
        """Products and attention over an image's tiles, the projector left out. [FLOP]"""
        each = 4 * self.width**2 + (2 + self.gated) * self.width * self.inner
        attention = 4.0 * picture.patches**2 * self.width
        return picture.tiles * self.layers * (2.0 * picture.patches * each + attention)


def tower_of(config: dict[str, Any], text_width: int) -> Tower | None:
    """The tower that a config.json describes; None where there is none, or none of a kind known here."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        return None
    read = _READERS.get(str(config.get("model_type") or ""))
    try:
        return read(vision, text_width) if read else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _deepseek(v: dict[str, Any], text: int) -> Tower:
    width = int(v["width"])
    inner = round(width * float(v["mlp_ratio"]))
    # timm pads 384 pixels to whole patches of 14: 28 a side.
    merged = ((4 * width, text), (text, text))
    return Tower("deepseek_vl2", int(v["layers"]), width, int(v["heads"]), inner, int(v["patch_size"]),
                 int(v["image_size"]), 9, 2, tuple((n, k) for k, n in merged), sharded=False)  # fmt: skip


_LONGEST_OF_QWEN = 200
"""qwen2_vl/image_processing, smart_resize."""


def _qwen(v: dict[str, Any], text: int) -> Tower:
    width, merge = int(v["hidden_size"]), int(v["spatial_merge_size"])
    wide, out = width * merge**2, int(v["out_hidden_size"])
    once = ((wide, wide), (out, wide))
    deep = len(v.get("deepstack_visual_indexes") or ())
    return Tower("qwen", int(v["depth"]), width, int(v["num_heads"]), int(v["intermediate_size"]), int(v["patch_size"]),
                 0, 16_384, merge, once * (1 + deep), longest=_LONGEST_OF_QWEN)  # fmt: skip


def _llama4(v: dict[str, Any], text: int) -> Tower:
    width, inner = int(v["hidden_size"]), int(v["intermediate_size"])
    merged, out = round(1 / float(v.get("pixel_shuffle_ratio", 0.5))), int(v["vision_output_dim"])
    return Tower("llama4", int(v["num_hidden_layers"]), width, int(v["num_attention_heads"]), inner,
                 int(v["patch_size"]), int(v["image_size"]), 16, merged,
                 ((out, width * merged**2), (out, out), (text, out)))  # fmt: skip


def _molmo(v: dict[str, Any], text: int) -> Tower:
    width = int(v["hidden_size"])
    # Two layers' features, pooled by attention over four patches, then a gated projector of the text's width.
    pooled = ((width, 8 * width), (2 * text, width), (text, text))
    return Tower("molmo", int(v["num_hidden_layers"]), width, int(v["num_attention_heads"]),
                 int(v["intermediate_size"]), int(v["patch_size"]), int(v["image_size"]), int(v["max_crops"]), 2,
                 pooled)  # fmt: skip


_READERS: dict[str, Callable[[dict[str, Any], int], Tower]] = {
    "deepseek_vl_v2": _deepseek,
    "qwen3_vl_moe": _qwen,
    "qwen3_5_moe": _qwen,
    "llama4": _llama4,
    "llama4_text": _llama4,
    "molmo": _molmo,
}


def _canvas(width: int, height: int, side: int, most: int, shrink: bool) -> tuple[int, int]:
    """(columns, rows) of tiles for an image: the least enlarged canvas that holds it, else the one it shrinks least on.

    Where ``shrink`` is said, an image is never enlarged: the canvas that keeps most of its pixels, then the smallest.
    """
    options = [(c, r) for c in range(1, most + 1) for r in range(1, most // c + 1)]

    def scale(option: tuple[int, int]) -> float:
        return min(option[0] * side / width, option[1] * side / height)

    if shrink:
        kept = {o: min(scale(o), 1.0) for o in options}
        return min(options, key=lambda o: (-round(kept[o], 9), o[0] * o[1]))
    holding = [o for o in options if scale(o) >= 1.0]
    if holding:
        return min(holding, key=lambda o: (round(scale(o), 9), o[0] * o[1]))
    return min(options, key=lambda o: (-round(scale(o), 9), o[0] * o[1]))


def _cut_deepseek(tower: Tower, width: int, height: int) -> Picture:
    """``14 x 15 + 1 + 14 r (14 c + 1)`` tokens: the whole with line ends, a separator, the tiles with line ends."""
    columns, rows = _canvas(width, height, tower.side, tower.most, shrink=True)
    patches = ceil(tower.side / tower.patch)
    each = patches // tower.merged
    tokens = each * (each + 1) + 1 + each * rows * (each * columns + 1)
    return Picture(columns * rows + 1, patches**2, tokens)


def _cut_llama4(tower: Tower, width: int, height: int) -> Picture:
    """144 tokens a tile and their separators; a view of the whole beside more than one."""
    columns, rows = _canvas(width, height, tower.side, tower.most, shrink=False)
    tiles, per_tile = columns * rows, (tower.side // tower.patch // tower.merged) ** 2
    views = tiles + (tiles > 1)
    return Picture(views, (tower.side // tower.patch) ** 2 + 1, views * per_tile + (tiles if tiles > 1 else 0) + 3)


def _cut_qwen(tower: Tower, width: int, height: int) -> Picture:
    """One sequence of whole merged patches, shrunk to as many tokens as there may be."""
    unit = tower.patch * tower.merged
    columns, rows = max(round(width / unit), 1), max(round(height / unit), 1)
    if columns * rows > tower.most:
        shrink = (tower.most / (columns * rows)) ** 0.5
        columns, rows = max(int(columns * shrink), 1), max(int(rows * shrink), 1)
    return Picture(1, columns * rows * tower.merged**2, columns * rows)


_MOLMO_MARGIN = 4
"""Patches that crops overlap on each side."""


def _cut_molmo(tower: Tower, width: int, height: int) -> Picture:
    """Overlapping crops and the whole: line ends and two marks each."""
    patches = tower.side // tower.patch
    inner, margin = patches - 2 * _MOLMO_MARGIN, 2 * _MOLMO_MARGIN * tower.patch
    columns, rows = _canvas(
        max(width - margin, 1), max(height - margin, 1), inner * tower.patch, tower.most, shrink=False
    )
    wide, high = ((n * inner + 2 * _MOLMO_MARGIN) // tower.merged for n in (columns, rows))
    whole = patches // tower.merged
    tokens = high * (wide + 1) + 2 + whole * (whole + 1) + 2
    return Picture(columns * rows + 1, patches**2 + 1, tokens)


_CUTS: dict[str, Cut] = {
    "deepseek_vl2": _cut_deepseek,
    "llama4": _cut_llama4,
    "qwen": _cut_qwen,
    "molmo": _cut_molmo,
}
