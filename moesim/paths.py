"""Where the shipped data lives: a repository checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE.parent if (_PACKAGE.parent / "hwspecs").is_dir() else _PACKAGE / "_data"

HWSPECS = ROOT / "hwspecs"
SCENARIOS = ROOT / "scenarios"
MODELS = SCENARIOS / "models"
CALIBRATION = ROOT / "calibration"
KERNELS = CALIBRATION / "kernels"
FITS = CALIBRATION / "fits"


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    half.write_text(text, encoding="utf-8")
    half.replace(path)
