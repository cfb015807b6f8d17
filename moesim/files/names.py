"""Shipped files by the names people call them."""

from __future__ import annotations

from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from moesim.errors import SpecError

_NEAR, _LONGEST = 3, 80


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


def named_file(name: str, folder: Path, what: str) -> Path:
    """The file of ``folder`` that ``name`` means, or the file it names itself. Raises SpecError."""
    names = _names_in(folder)
    path = names.get(squeezed(name)) or own_file(name, what)
    if path is None:
        raise unknown(name, [squeezed(name)], names, what)
    return path


def own_file(name: str, what: str) -> Path | None:
    """The YAML file that ``name`` is the path of; None where it reads as no path. Raises SpecError."""
    path = Path(name)
    is_yaml = path.suffix in {".yaml", ".yml"}
    if is_yaml and path.is_file():
        return path
    if "/" in name or is_yaml:
        what_is = "is no YAML file" if path.exists() else "does not exist"
        raise SpecError(f"the {what} file '{name}' {what_is}")
    return None


def unknown(name: str, spelled: list[str], names: dict[str, Path], what: str) -> SpecError:
    """The error of a name that means nothing: what comes nearest to one of the ways it is ``spelled``."""
    near = [f"'{stem}'" for stem in _nearest(spelled, names)]
    hint = " or ".join(filter(None, [", ".join(near[:-1]), *near[-1:]]))
    return SpecError(f"the {what} '{name[:_LONGEST]}' is not known; did you mean {hint}?")


def _nearest(spelled: list[str], names: dict[str, Path]) -> list[str]:
    """The files with the fewest edits a letter to one of their names; the same beginning, a family, counts for it."""

    def distance(one: str, known: str) -> float:
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(one, known, strict=False))
        return (_edits(one, known) - len(list(alike))) / len(known)

    spelled = [one[:_LONGEST] for one in spelled]
    ranked = sorted(names, key=lambda known: min(distance(one, known) for one in spelled))
    return list(dict.fromkeys(names[known].stem for known in ranked))[:_NEAR]


def _edits(one: str, other: str) -> int:
    """Letters to insert, drop or replace (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
