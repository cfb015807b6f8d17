"""The accuracy page of served runs: errors by set, plan and concurrency, interval coverage, a picture, the worst rows.

Written by ``moesim validate``. The figures stand in a JSON file beside the page; a test fails when an error grows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moesim import paths
from moesim.explore.first_look import first_error
from moesim.explore.peers import beside_peers
from moesim.explore.validate import BAD_NODE_RATIO, QUEUE_RATIO, Comparison, compared_memory
from moesim.files.writing import write_whole
from moesim.inputs.run_file import RunSet
from moesim.prediction import predict
from moesim.report.figure import pyplot, save
from moesim.report.text import explain_text
from moesim.units import bytes_text

TPOT, TTFT = "mean_tpot_ms", "mean_ttft_ms"
CONCURRENCIES = (4, 64)
OTHERS = (("itl", "mean_itl_ms"), ("p99_ttft", "p99_ttft_ms"), ("p99_itl", "p99_itl_ms"), ("p99_tpot", "p99_tpot_ms"))
"""Figures of sets that have them."""
WORST = 10
GROWTH = 0.01
"""An error may grow by one percentage point before the test of this page fails."""
TARGETS: dict[str, tuple[float, float]] = {
    "h100-vllm-gpt-oss-120b": (0.035, 0.09),
    "h100-vllm-0.11.2-gpt-oss-120b": (0.035, 0.09),
    "h100-vllm-0.13.0-gpt-oss-120b": (0.035, 0.09),
    "h100-vllm-minimax-m2.5": (0.06, 0.18),
    "h200-vllm-gpt-oss-120b": (0.035, 0.09),
    "h200-vllm-minimax-m2.5-tp4": (0.10, 0.18),
    "h200-vllm-minimax-m2.5-tp8": (0.07, 0.18),
    "h200-vllm-qwen3-235b": (0.07, 0.18),
    "h200-vllm-kimi-k2.5": (0.07, 0.18),
    "h100-vllm-llama31-70b": (0.08, 0.18),
    "h100-vllm-0.15.1-llama-4-scout-17b-16e-instruct": (0.08, 0.15),
}
"""Mean absolute errors aimed at: time per token, time to first token."""


def write_served(sets: Sequence[RunSet], found: Sequence[Comparison], folder: Path) -> list[Path]:
    """Write ``served.md``, ``served.json`` and ``plots/served.png``. Returns the files written."""
    figures = {group.name: figures_of(group, found) for group in sets}
    page, data, plot = folder / "served.md", folder / "served.json", folder / "plots" / "served.png"
    write_whole(data, json.dumps(figures, indent=1) + "\n")
    write_whole(page, page_text(sets, found, figures))
    return [page, data, _plot(sets, found, plot)]


def figures_of(group: RunSet, found: Sequence[Comparison]) -> dict[str, Any]:
    """Errors, coverage and queueing of one set."""
    mine = [c for c in found if c.runs == group.name]
    inside = [c for c in mine if _counts(group, c)]
    # A run may have several statistics of its time to first token, and counts once.
    times = list({c.run.line: c for c in mine if c.metric.endswith("ttft_ms")}.values())
    figures: dict[str, Any] = {"role": group.about.role, "runs": len(group.runs)}
    for name, metric in (("tpot", TPOT), ("ttft", TTFT), *OTHERS):
        rows = [c for c in inside if c.metric == metric and not (name.endswith("ttft") and c.queued)]
        if not rows and (name, metric) in OTHERS:
            continue
        figures[name] = _summary(rows)
        if any(c.bad_node for c in rows):
            figures[f"{name}_without_bad_nodes"] = _summary([c for c in rows if not c.bad_node])
    figures["queueing"] = {
        "measured": sum(c.queued for c in times),
        "named": sum(c.queued and c.queues for c in times),
        "named_wrongly": sum(c.queues and not c.queued for c in times),
    }
    return figures


def _counts(group: RunSet, c: Comparison) -> bool:
    """Of a published table the middle of its concurrencies, as the targets say; of a user's runs all."""
    if c.run.fitted:
        return False
    return not group.about.select or CONCURRENCIES[0] <= c.run.scenario.workload.size <= CONCURRENCIES[1]


def _summary(rows: Sequence[Comparison]) -> dict[str, float]:
    if not rows:
        return {"rows": 0}
    errors = np.array([c.error for c in rows])
    return {
        "rows": len(rows),
        "mean_absolute_error": round(float(np.abs(errors).mean()), 4),
        "bias": round(float(errors.mean()), 4),
        "coverage_of_90_percent": round(float(np.mean([c.covered for c in rows])), 4),
        "half_width": round(float(np.mean([c.half_width for c in rows])), 4),
    }


def page_text(sets: Sequence[RunSet], found: Sequence[Comparison], figures: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# Served runs: predictions beside measurements",
        "",
        "Written by `moesim validate`; do not edit. Every run is simulated request by request with the constants of",
        "the kernel tables and of dense models' runs (role `fit`). One constant, the feed of DeepGEMM's blocks, was",
        "fitted on half of the Qwen3-235B rows, which are in no figure; nothing else to other sets. Errors are",
        f"means of |predicted/measured - 1| over configurations of concurrency {CONCURRENCIES[0]} to",
        f"{CONCURRENCIES[1]}; time to first token without runs that queue for the cache, which are judged on being",
        "named.",
        "",
        *headline(sets, figures),
        "",
        f"A run is taken as a bad node's when a token takes more than {BAD_NODE_RATIO:g} times as long as in its",
        f"H200 twin. A run queues, as measured, when its time to first token is {QUEUE_RATIO:g} times or more that at",
        "half the concurrency. Both rules were written before any prediction was compared.",
        "",
        "![predicted against measured](plots/served.png)",
        "",
        *_tails(sets, figures),
        "",
        *_peers(sets, found),
        "",
        *_first_looks(sets, figures),
        "",
        *_by_concurrency(sets, found),
        "",
        *_by_plan(sets, found),
        "",
        *_doubts(sets),
        "",
        *_worst(found),
    ]
    return "\n".join(lines) + "\n"


def headline(sets: Sequence[RunSet], figures: dict[str, Any]) -> list[str]:
    """The table that the README shows: a line a set."""
    lines = [
        "| runs | role | TPOT error | TTFT error | 90 % interval holds TPOT / TTFT | its half-width | queueing named |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in sets:
        data = figures[group.name]
        cells = [_error_cell(data, name, group.name, i) for i, name in enumerate(("tpot", "ttft"))]
        covered = " / ".join(_percent(data[n].get("coverage_of_90_percent"), 0) for n in ("tpot", "ttft"))
        widths = " / ".join(_percent(data[n].get("half_width"), 0) for n in ("tpot", "ttft"))
        queue = data["queueing"]
        named = f"{queue['named']} of {queue['measured']}" if queue["measured"] else "none"
        named += f", {queue['named_wrongly']} wrongly" if queue["named_wrongly"] else ""
        title = f"{group.about.title} ({data['runs']})"
        lines.append(f"| {title} | {data['role']} | {cells[0]} | {cells[1]} | {covered} | {widths} | {named} |")
    return [*lines, *_all_rows(figures)]


def _all_rows(figures: dict[str, Any]) -> list[str]:
    """Coverage and width over all rows that no constant was fitted on."""
    judged = [data for data in figures.values() if data["role"] != "fit"]
    cells = []
    for key in ("coverage_of_90_percent", "half_width"):
        pair = []
        for name in ("tpot", "ttft"):
            rows = [data[name] for data in judged if data[name]["rows"]]
            mean = np.average([row[key] for row in rows], weights=[row["rows"] for row in rows]) if rows else None
            pair.append(_percent(mean, 0))
        cells.append(" / ".join(pair))
    many = sum(data["tpot"]["rows"] for data in judged)
    return [f"| all rows but those fitted ({many}) | | | | {cells[0]} | {cells[1]} | |"]


_WRITTEN: dict[str, Callable[[float], str]] = {"KV blocks": "{:,.0f}".format, "least share": "{:.3f}".format}


def memory_lines(sets: Sequence[RunSet]) -> list[str]:
    """Each engine's own memory profile beside ours; nothing where no set has one."""
    lines = []
    for group in sets:
        for what, theirs, ours in compared_memory(group):
            said = [_WRITTEN.get(what, bytes_text)(x) for x in (theirs, ours)]
            lines.append(
                f"{group.name:50} {what:12} measured {said[0]:>12}, predicted {said[1]:>12} {ours / theirs - 1:+.1%}"
            )
    return lines


def _error_cell(data: dict[str, Any], name: str, group: str, place: int) -> str:
    text = _percent(data[name].get("mean_absolute_error"))
    better = data.get(f"{name}_without_bad_nodes")
    if better:
        text += f" ({_percent(better['mean_absolute_error'])} without bad nodes)"
    return text + (f", target {_percent(TARGETS[group][place], 0)}" if group in TARGETS else "")


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _tails(sets: Sequence[RunSet], figures: dict[str, Any]) -> list[str]:
    lines = [
        "## Gaps between tokens, and the slowest of a hundred",
        "",
        "| runs | mean ITL | p99 TTFT | p99 TPOT | p99 ITL |",
        "|---|---|---|---|---|",
    ]
    for group in sets:
        data = figures[group.name]
        cells = [
            _percent(data.get(name, {}).get("mean_absolute_error"))
            for name in ("itl", "p99_ttft", "p99_tpot", "p99_itl")
        ]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {group.about.title} | {' | '.join(cells)} |")
    return lines


def _peers(sets: Sequence[RunSet], found: Sequence[Comparison]) -> list[str]:
    lines = [
        "## Beside other simulators",
        "",
        "What others published of the same runs (vLLM 0.15.1, dense models and Llama-4-Scout), and moesim on exactly",
        "the rows that each predicts, without those that moesim was fitted on. Two of the peers were fitted to runs of",
        "this kind (blis-evolved, blis-trained-physics). Mean absolute errors.",
        "",
        "| simulator | metric | rows | its error | moesim's |",
        "|---|---|---|---|---|",
    ]
    for line in beside_peers(found, {group.name: group.about.role for group in sets}):
        cells = (line.simulator, line.metric, str(line.rows), _percent(line.theirs), _percent(line.ours))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _first_looks(sets: Sequence[RunSet], figures: dict[str, Any]) -> list[str]:
    lines = [
        "## First looks",
        "",
        "Predictions written down and committed before anybody compared them, against what is said now.",
        "",
        "| runs | TPOT, first look | now | TTFT, first look | now |",
        "|---|---|---|---|---|",
    ]
    for group in sets:
        first = [first_error(group, metric) for metric in (TPOT, TTFT)]
        if first[0] is not None:
            now = [figures[group.name][name].get("mean_absolute_error") for name in ("tpot", "ttft")]
            cells = (_percent(first[0]), _percent(now[0]), _percent(first[1]), _percent(now[1]))
            lines.append(f"| {group.about.title} | {' | '.join(cells)} |")
    return lines


def _by_concurrency(sets: Sequence[RunSet], found: Sequence[Comparison]) -> list[str]:
    levels = sorted({c.run.scenario.workload.size for c in found if c.run.scenario.workload.size.bit_count() == 1})
    lines = ["## By concurrency", "", "TPOT / TTFT error; other concurrencies are in the totals only.", ""]
    lines += [f"| runs | {' | '.join(map(str, levels))} |", "|---" * (len(levels) + 1) + "|"]
    for group in sets:
        cells = []
        for level in levels:
            rows = [c for c in found if c.runs == group.name and c.run.scenario.workload.size == level]
            cells.append(_pair(rows))
        lines.append(f"| {group.about.title} | {' | '.join(cells)} |")
    return lines


def _by_plan(sets: Sequence[RunSet], found: Sequence[Comparison]) -> list[str]:
    lines = [
        "## By plan and lengths",
        "",
        "| runs | plan | in / out | TPOT / TTFT error | bias |",
        "|---|---|---|---|---|",
    ]
    for group in sets:
        keys: dict[tuple[str, str], list[Comparison]] = {}
        for c in found:
            if c.runs == group.name:
                load = c.run.scenario.workload
                key = (_plan_words(c), f"{load.input_len} / {load.output_len}")
                keys.setdefault(key, []).append(c)
        for (plan, sizes), rows in keys.items():
            bias = " / ".join(_signed([c.error for c in _of(rows, m)]) for m in (TPOT, TTFT))
            lines.append(f"| {group.about.title} | {plan} | {sizes} | {_pair(rows)} | {bias} |")
    return lines


def _plan_words(c: Comparison) -> str:
    from moesim.models.plan import Plan

    return Plan.of(c.run.scenario.engine).describe()


def _of(rows: Sequence[Comparison], metric: str) -> list[Comparison]:
    return [c for c in rows if c.metric == metric and not (metric == TTFT and c.queued)]


def _pair(rows: Sequence[Comparison]) -> str:
    values = [[abs(c.error) for c in _of(rows, metric)] for metric in (TPOT, TTFT)]
    return " / ".join(_percent(float(np.mean(v)), 0) if v else "-" for v in values)


def _signed(errors: Sequence[float]) -> str:
    return f"{100 * float(np.mean(errors)):+.0f} %" if errors else "-"


def _doubts(sets: Sequence[RunSet]) -> list[str]:
    lines = ["## What is doubtful about the runs", ""]
    for group in sets:
        lines.append(f"- {group.about.title}: {group.about.source}.")
        lines += [f"    - {doubt}" for doubt in group.about.doubts]
    return lines


def _worst(found: Sequence[Comparison]) -> list[str]:
    unseen = [c for c in found if not (c.metric == TTFT and c.queued)]
    rows = sorted(unseen, key=lambda c: -abs(np.log(max(c.value, 1e-9) / c.measured)))[:WORST]
    lines = ["## The ten worst rows", ""]
    for c in rows:
        load = c.run.scenario.workload
        what = f"{_plan_words(c)}, {load.input_len}/{load.output_len}, concurrency {load.size}"
        lines += [
            f"### {c.runs}: {what}: {c.metric} measured {c.measured:.4g}, predicted {c.value:.4g} ({c.error:+.0%})",
            "",
            "```",
            explain_text(predict(c.run.scenario)).partition("\n\nformulas:")[0],
            "```",
            "",
        ]
    return lines


def _plot(sets: Sequence[RunSet], found: Sequence[Comparison], target: Path) -> Path:
    """Predicted against measured, log-log, with a band of 10 %."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.8), dpi=110)
    colours = plt.get_cmap("tab20")
    for axes, metric, title in zip(panels, (TPOT, TTFT), ("time per output token", "time to first token"), strict=True):
        for i, group in enumerate(sets):
            rows = [c for c in found if c.runs == group.name and c.metric == metric]
            marker = {"fit": "x", "control": "+", "validation": "o"}[group.about.role]
            axes.scatter(
                [c.measured for c in rows], [c.value for c in rows], s=14, marker=marker, alpha=0.7,
                color=colours(i % colours.N),
                linewidths=1 if marker != "o" else 0, label=f"{group.about.title}",
            )  # fmt: skip
        if not any(c.metric == metric for c in found):
            continue
        ends = [min(c.measured for c in found if c.metric == metric) / 1.3,
                max(c.measured for c in found if c.metric == metric) * 1.3]  # fmt: skip
        line = np.array(ends)
        axes.fill_between(line, line * 0.9, line * 1.1, color="grey", alpha=0.25, linewidth=0)
        axes.plot(line, line, color="black", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured [ms]", ylabel="predicted [ms]")
        axes.set_title(f"{title} (band: 10 %)", fontsize=10)
    figure.tight_layout()
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5),
                  frameon=False)  # fmt: skip
    return save(figure, target, metadata={"Software": None}, bbox_inches="tight")


def drifted(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Errors that grew beyond what the page allows, as sentences."""
    grown = []
    for group, data in now.items():
        for name in ("tpot", "ttft"):
            before = stored.get(group, {}).get(name, {}).get("mean_absolute_error")
            after = data[name].get("mean_absolute_error")
            if before is not None and after is not None and after > before + GROWTH:
                grown.append(f"{group}: {name} error grew from {before:.1%} to {after:.1%}")
    return grown


def docs() -> Path:
    return paths.ROOT / "docs"
