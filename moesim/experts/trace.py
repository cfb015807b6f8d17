"""Routing traces: which experts each token picked."""

from __future__ import annotations

from pathlib import Path

from moesim.errors import Problem, SpecError

_MOST_PROBLEMS = 5


_MOST_EXPERTS = 1 << 16


def read_picks(file: str) -> tuple[tuple[int, ...], ...]:
    """Read a trace of a model that is not known: as many experts on each line as on the first. Raises SpecError."""
    with Path(file).open(encoding="utf-8", errors="replace") as lines:
        first = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    if not all(cell.strip().isdigit() for cell in first.split(",")):
        message = (
            f"begins with {first.strip()[:40]!r}: neither a trace (a token's experts on each line, with commas), nor"
        )
        raise SpecError([Problem(f"{message} counts (columns layer,expert,count), nor a scenario (.yaml)", file)])
    return read_trace(file, _MOST_EXPERTS, first.count(",") + 1)


def read_trace(file: str, num_experts: int, top_k: int) -> tuple[tuple[int, ...], ...]:
    """Read a trace: one line a token, its k expert numbers separated by commas. Raises SpecError."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError([Problem("is not UTF-8 text; a CSV file is expected", file)]) from None
    except OSError as error:
        raise SpecError([Problem(f"cannot be read ({error.strerror or error})", file)]) from None
    problems: list[Problem] = []
    rows: list[tuple[int, ...]] = []
    accepted = f"{top_k} different numbers from 0 to {num_experts - 1}"
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            row = tuple(int(cell) for cell in line.split(","))
        except ValueError:
            row = ()
        if len(set(row)) != top_k or len(row) != top_k or min(row) < 0 or max(row) >= num_experts:
            problems.append(Problem(f"is {line[:40]!r}; accepted: {accepted}", f"{file}:{number}"))
            if len(problems) == _MOST_PROBLEMS:
                break
        rows.append(row)
    if problems or not rows:
        raise SpecError(problems or [Problem("holds no token", file)])
    return tuple(rows)
