"""Tuned fused-experts tiles out of a vLLM wheel (its JSON tables; read as a zip, never imported)."""

from __future__ import annotations

import json
import re
from pathlib import Path

from moesim import paths
from moesim.errors import CalibrationError
from moesim.files.archive import Archive
from moesim.files.json import parse as parse_json
from moesim.files.writing import write_whole

FOLDER = "vllm/model_executor/layers/fused_moe/configs/"
_NAME = re.compile(r"E=(\d+),N=(\d+),device_name=([^,]+?)(?:,dtype=([^,]+?))?(?:,block_shape=\[([\d,]+)\])?\.json$")
_KEYS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages")
_FORMATS = {(None, None): "bfloat16", ("fp8_w8a8", None): "fp8", ("fp8_w8a8", "128,128"): "fp8_block"}


def import_tiles(wheel: Path, gpu: str, device_name: str) -> Path:
    """Write the tuned tiles of one device to ``calibration/fits/<gpu>/tiles.json``.

    Parameters
    ----------
    wheel : Path
        A vLLM wheel (any platform: the tables are the same).
    gpu : str
        moesim's name of the GPU.
    device_name : str
        vLLM's name of it, for example ``NVIDIA_H100_80GB_HBM3``.

    Raises
    ------
    CalibrationError
        The file is no wheel, or holds no table for this device.
    """
    shapes = []
    with Archive(wheel) as archive:
        for member in sorted(n for n in archive.names if n.startswith(FOLDER)):
            match = _NAME.search(member.removeprefix(FOLDER))
            if not match or match[3] != device_name or (match[4], match[5]) not in _FORMATS:
                continue
            table = parse_json(archive.text(member), f"{wheel}: {member}")
            try:
                tiles = [[int(m), *(int(t[k]) for k in _KEYS)] for m, t in table.items() if m.isdigit()]
            except (AttributeError, KeyError, TypeError, ValueError):
                raise CalibrationError(f"'{member}' of '{wheel.name}' is no table of tiles") from None
            weights = _FORMATS[match[4], match[5]]
            shapes.append(
                {"weights": weights, "experts": int(match[1]), "width": int(match[2]), "tiles": sorted(tiles)}
            )
    if not shapes:
        raise CalibrationError(f"'{wheel.name}' holds no fused-experts table for '{device_name}'")
    head = {
        "about": "Tuned tiles of vLLM's fused experts; written by `moesim import-tiles`, do not edit.",
        "source": wheel.name.split("-cp")[0],
        "licence": "Apache-2.0 (vLLM contributors)",
        "device_name": device_name,
        "columns": ["tokens", "block_m", "block_n", "block_k", "group_m", "warps", "stages"],
    }
    lines = ",\n  ".join(json.dumps(shape, separators=(",", ":")) for shape in shapes)
    text = json.dumps(head, indent=1)[:-2] + f',\n "shapes": [\n  {lines}\n ]\n}}\n'
    target = paths.FITS / gpu / "tiles.json"
    write_whole(target, text)
    return target
