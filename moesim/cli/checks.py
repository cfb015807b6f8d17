"""What a command writes into, checked before it computes anything."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from moesim.errors import Problem, SpecError

_NEEDS = {".parquet": ("pandas", "pyarrow"), ".csv": ("pandas",), ".png": ("matplotlib",), ".svg": ("matplotlib",)}
"""Packages that write a format."""


def check_output(path: Path, suffixes: set[str], option: str) -> None:
    """Raise SpecError for a name or folder that cannot be written, ModuleNotFoundError where a package is missing."""
    import os

    if path.suffix not in suffixes:
        raise SpecError([Problem(f"'{path}' must end in {' or '.join(sorted(suffixes))}", option)])
    if not path.parent.is_dir():
        raise SpecError([Problem(f"there is no folder '{path.parent}' to write into", option)])
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SpecError([Problem(f"'{path}' cannot be written", option)])
    require(*_NEEDS.get(path.suffix, ()))


def say_written(path: Path, as_json: bool) -> None:
    """Name a file that was written; beside JSON, where it is not read as such."""
    print(path, file=sys.stderr if as_json else sys.stdout)


def require(*packages: str) -> None:
    """Raise ModuleNotFoundError for a package that is not installed, before anything is computed."""
    import importlib.util

    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named '{package}'", name=package)


def gpu_range(text: str) -> tuple[int, int]:
    """``8`` or ``1-16``. Raises SpecError."""
    found = re.fullmatch(r"([0-9]{1,6})(?:\s*-\s*([0-9]{1,6}))?", text.strip())
    if found is None:
        raise SpecError([Problem(f"'{text}' is not a number of GPUs, like 8, or a range, like 1-16", "--gpus")])
    fewest, most = int(found[1] if found[2] else 1), int(found[2] or found[1])
    if not 1 <= fewest <= most:
        raise SpecError([Problem(f"'{text}' is no number of GPUs from 1 on, nor a range that rises", "--gpus")])
    return fewest, most
