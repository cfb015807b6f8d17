"""Shipped files by the names people call them."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

from moesim.errors import SpecError


def squeezed(name: str) -> str:
    """Names match in any case, with any separator."""
    return "".join(c for c in name.lower() if c.isalnum())


def names_of(files: list[Path]) -> dict[str, Path]:
    """Files by their names and aliases; only the heads of the files are read."""
    names: dict[str, Path] = {}
    for path in files:
        names[squeezed(path.stem)] = path
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("aliases:"):
                names |= {squeezed(a): path for a in line.partition("[")[2].rstrip(" ]").split(",") if a.strip()}
                break
    return names


@lru_cache(maxsize=8)
def _names_in(folder: Path) -> dict[str, Path]:
    return names_of(sorted(folder.glob("*.yaml")))


def named_file(name: str, folder: Path, what: str, known: dict[str, Path] | None = None) -> Path:
    """The file of ``folder`` that ``name`` means, or the file it names itself. Raises SpecError."""
    names = known if known is not None else _names_in(folder)
    path = names.get(squeezed(name)) or Path(name)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    if "/" in name or path.suffix in {".yaml", ".yml"}:
        what_is = "is no YAML file" if path.exists() else "does not exist"
        raise SpecError(f"the {what} file '{name}' {what_is}")
    stems = list(dict.fromkeys(p.stem for p in names.values()))
    near = difflib.get_close_matches(squeezed(name), list(names), 1)
    hint = f"did you mean '{names[near[0]].stem}'? Known: " if near else "known: "
    raise SpecError(f"the {what} '{name}' is not known; {hint}{', '.join(stems)}")
