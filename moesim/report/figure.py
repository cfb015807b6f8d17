"""Pictures without a screen, written whole or not at all. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moesim.files.writing import whole


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure: Any, target: Path, **more: Any) -> Path:
    """Write a figure in the format of ``target``'s suffix, and let go of it; ``more`` as matplotlib's savefig."""
    with whole(target) as half:
        figure.savefig(half, format=target.suffix[1:], **more)
    pyplot().close(figure)
    return target
