"""Where the shipped data lives: a repository checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent if (PACKAGE.parent / "hwspecs").is_dir() else PACKAGE / "_data"

HWSPECS = ROOT / "hwspecs"
CLUSTERS = HWSPECS / "clusters"
HOSTS = HWSPECS / "hosts"
SCENARIOS = ROOT / "scenarios"
MODELS = SCENARIOS / "models"
CALIBRATION = ROOT / "calibration"
KERNELS = CALIBRATION / "kernels"
FITS = CALIBRATION / "fits"
ENGINES = CALIBRATION / "engines"
SYSTEMS = CALIBRATION / "systems"
OFFLOAD = CALIBRATION / "offload"
QUALITY = CALIBRATION / "quality"
GRID = CALIBRATION / "grid.yaml"
CAMPAIGN = CALIBRATION / "campaign.yaml"


def stored_fits() -> dict[str, Path]:
    """Stored fits by name ``<gpu>/<stack>``."""
    return {f"{p.parent.name}/{p.stem}": p for p in sorted(FITS.glob("*/*.json")) if p.stem != "tiles"}


def shipped_scenarios() -> list[Path]:
    """Every scenario that ships."""
    return sorted(path for path in SCENARIOS.rglob("*.yaml") if MODELS not in path.parents)
