"""TP, PP and DP, each with and without EP, over numbers of GPUs: a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moesim.errors import DoesNotFit, SpecError
from moesim.files.writing import write_whole
from moesim.inputs.scenario import Scenario
from moesim.outcome import Prediction
from moesim.prediction import predict
from moesim.report.figure import pyplot, save

FAMILIES = ("TP", "TP+EP", "PP", "PP+EP", "DP", "DP+EP")
_MARKERS = dict(zip(FAMILIES, "osD^vX", strict=True))


def settings(family: str, gpus: int) -> dict[str, Any] | None:
    """The engine settings of a family on ``gpus`` GPUs; None where it needs more of them.

    PP+EP shares the experts out between the two TP ranks of each stage.
    """
    plain = {
        "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "data_parallel_size": 1,
        "enable_expert_parallel": False, "all2all_backend": None,
    }  # fmt: skip
    if gpus == 1:
        return plain if family == "TP" else None
    if family == "PP+EP":
        if gpus < 4:
            return None
        return plain | {"tensor_parallel_size": 2, "pipeline_parallel_size": gpus // 2, "enable_expert_parallel": True}
    axis = {"TP": "tensor", "PP": "pipeline", "DP": "data"}[family[:2]]
    return plain | {f"{axis}_parallel_size": gpus, "enable_expert_parallel": family.endswith("EP")}


def study(scenarios: list[Scenario], gpus: list[int]) -> list[tuple[Scenario, int, str, Prediction | str]]:
    """(scenario, GPUs, family, prediction or why there is none) for every combination that exists."""
    rows: list[tuple[Scenario, int, str, Prediction | str]] = []
    for scenario in scenarios:
        for many in gpus:
            for family in FAMILIES:
                changes = settings(family, many)
                if changes is not None:
                    rows.append((scenario, many, family, _outcome(scenario, changes)))
    if not any(isinstance(outcome, Prediction) for *_, outcome in rows):
        raise SpecError(f"no plan of the study runs: {rows[0][3]}")
    return rows


def _outcome(scenario: Scenario, changes: dict[str, Any]) -> Prediction | str:
    try:
        return predict(scenario.with_(**changes))
    except DoesNotFit:
        return "does not fit"
    except SpecError as error:
        return error.problems[0].message


def study_text(rows: list[tuple[Scenario, int, str, Prediction | str]]) -> str:
    """The page: a table a model, the best plan of each number of GPUs in bold."""
    lines = [
        "# TP, PP and EP on a node",
        "",
        "Written by `moesim study`; do not edit. Predicted, with 90 % intervals; vLLM's names.",
    ]
    for name in dict.fromkeys(scenario.model for scenario, *_ in rows):
        mine = [row for row in rows if row[0].model == name]
        load = mine[0][0].workload
        lines += [
            "",
            f"## {name}: batch {load.size}, {load.input_len} in, {load.output_len} out, {mine[0][0].hardware}",
            "",
            "| GPUs | plan | output tok/s | 90 % | TPOT ms | TTFT ms | decode bound by |",
            "|---|---|---|---|---|---|---|",
        ]
        for many in dict.fromkeys(row[1] for row in mine):
            here = [row for row in mine if row[1] == many]
            best = max((r[3]["output_throughput"] for r in here if isinstance(r[3], Prediction)), default=0.0)
            lines += [_line(many, family, outcome, best) for _, _, family, outcome in here]
    lines += ["", "![study](plots/study.png)"]
    return "\n".join(lines) + "\n"


def _line(gpus: int, family: str, outcome: Prediction | str, best: float) -> str:
    if isinstance(outcome, str):
        return f"| {gpus} | {family} | {outcome} | | | | |"
    metric = outcome.metrics["output_throughput"]
    assert metric is not None
    value = f"{metric.value:,.0f}"
    value = f"**{value}**" if metric.value == best else value
    interval = f"{metric.low:,.0f} .. {metric.high:,.0f}"
    times = f"{outcome['mean_tpot_ms']:.2f} | {outcome['mean_ttft_ms']:,.0f}"
    return f"| {gpus} | {family} | {value} | {interval} | {times} | {outcome.bounds.get('decode', '')} |"


def write_study(scenarios: list[Scenario], gpus: list[int], folder: Path) -> list[Path]:
    """Write ``study.md`` and ``plots/study.png`` under ``folder``. Returns the files written."""
    rows = study(scenarios, gpus)
    picture = _draw(rows, folder / "plots" / "study.png")
    write_whole(folder / "study.md", study_text(rows))
    return [folder / "study.md", picture]


def _draw(rows: list[tuple[Scenario, int, str, Prediction | str]], target: Path) -> Path:
    plt = pyplot()
    names = list(dict.fromkeys(scenario.model for scenario, *_ in rows))
    figure, panels = plt.subplots(1, len(names), figsize=(5.0 * len(names), 3.9), dpi=110, squeeze=False)
    for axes, name in zip(panels[0], names, strict=True):
        for family in FAMILIES:
            found = [(n, p.metrics["output_throughput"]) for s, n, f, p in rows
                     if s.model == name and f == family and isinstance(p, Prediction)]  # fmt: skip
            points = [(n, m) for n, m in found if m is not None]
            if not points:
                continue
            shift = 1.0 + 0.03 * (FAMILIES.index(family) - 2.5)
            x, y = [n * shift for n, _ in points], [m.value for _, m in points]
            bars = [[m.value - m.low for _, m in points], [m.high - m.value for _, m in points]]
            axes.errorbar(x, y, yerr=bars, marker=_MARKERS[family], markersize=5, capsize=2, linewidth=1, label=family)
        axes.set(xscale="log", xlabel="GPUs", ylabel="output tokens/s", title=name)
        axes.set_ylim(bottom=0)
        ticks = sorted({n for _, n, *_ in rows})
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    return save(figure, target, metadata={"Software": None})
