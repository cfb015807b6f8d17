"""What a command writes into, checked before it computes anything."""

from __future__ import annotations

from pathlib import Path

from moesim.errors import Problem, SpecError

_NEEDS = {".parquet": "pyarrow", ".png": "matplotlib", ".svg": "matplotlib"}


def check_output(path: Path, suffixes: set[str], option: str) -> None:
    """Raise SpecError for a name or folder that cannot be written, ModuleNotFoundError where a package is missing."""
    import importlib.util
    import os

    if path.suffix not in suffixes:
        raise SpecError([Problem(f"'{path}' must end in {' or '.join(sorted(suffixes))}", option)])
    if not path.parent.is_dir():
        raise SpecError([Problem(f"there is no folder '{path.parent}' to write into", option)])
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SpecError([Problem(f"'{path}' cannot be written", option)])
    package = _NEEDS.get(path.suffix)
    if package and importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)
