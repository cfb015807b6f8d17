"""Results of ``vllm bench serve`` as measured runs: a run set from JSON files and the scenario that ran."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.inputs.run_file import METRICS
from moesim.paths import write_whole

_COUNTS = ("completed", "total_input_tokens", "total_output_tokens")


def import_bench(results: Sequence[Path], scenario: Path, title: str, target: Path) -> list[Path]:
    """A run set at ``target`` from results and the scenario file that says what served. Raises SpecError."""
    from moesim.inputs.loading import load

    served = load(scenario).model_dump(mode="json", exclude_defaults=True, exclude={"workload", "description"})
    return write_run_set(results, served, title, target)


def write_run_set(results: Sequence[Path], scenario: dict[str, Any], title: str, target: Path) -> list[Path]:
    """Write ``target`` (YAML) and its CSV: a row for each result.

    Parameters
    ----------
    results : sequence of Path
        Files that ``vllm bench serve --save-result`` wrote.
    scenario : dict
        Model, hardware and engine that served; lengths and load come from the results.

    Raises
    ------
    SpecError
        A file that is no such result.
    """
    rows = [_row(path) for path in results]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
    first = rows[0]
    load = {
        name: first[name] for name in ("input_len", "output_len", "max_concurrency", "request_rate") if name in first
    }
    about = {
        "title": title,
        "role": "validation",
        "source": f"vllm bench serve, {len(rows)} results",
        "scenario": {**scenario, "workload": load},
    }
    write_whole(target.with_suffix(".csv"), "\n".join(lines) + "\n")
    # JSON is YAML.
    write_whole(target, json.dumps(about, indent=2) + "\n")
    return [target, target.with_suffix(".csv")]


def _row(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror or error}", str(path))]) from None
    except ValueError:
        raise SpecError([Problem("is not JSON", str(path))]) from None
    measured = {name: data[name] for name in METRICS if isinstance(data, dict) and _positive(data.get(name))}
    if isinstance(data, dict) and row_of_one_token(data):
        measured = {name: value for name, value in measured.items() if "tpot" not in name and "itl" not in name}
    missing = [name for name in _COUNTS if not isinstance(data, dict) or not _positive(data.get(name))]
    if missing or not measured:
        lacking = missing[0] if missing else "mean_ttft_ms"
        raise SpecError([Problem(f"is no result of vllm bench serve: it lacks '{lacking}'", str(path))])
    row: dict[str, Any] = {
        "input_len": round(data["total_input_tokens"] / data["completed"]),
        "output_len": round(data["total_output_tokens"] / data["completed"]),
        "num_prompts": data["completed"],
    }
    if _positive(data.get("max_concurrency")):
        row["max_concurrency"] = int(data["max_concurrency"])
    if _positive(data.get("request_rate")):
        row["request_rate"] = float(data["request_rate"])
        row["burstiness"] = float(data.get("burstiness") or 1.0)
    if "max_concurrency" not in row and "request_rate" not in row:
        # All requests at once.
        row["max_concurrency"] = data["completed"]
    return row | measured


def row_of_one_token(data: dict[str, Any]) -> bool:
    """Whether answers had one token, so that nothing was measured between tokens."""
    return data.get("total_output_tokens") == data.get("completed")


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
