"""Latency, memory and quality of a model under every offloading system: the table and the picture of a study."""

from __future__ import annotations

from pathlib import Path

from moesim.explore.search import Configuration, SearchResult, search
from moesim.files.writing import write_whole
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.scenario import Scenario
from moesim.outcome import Prediction
from moesim.prediction import predict
from moesim.report.front_picture import draw_front
from moesim.report.search_text import knobs_text
from moesim.report.text import number
from moesim.units import bytes_text

_BUDGETS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the GPU's memory for which each system's fastest way is shown."""


def write_offload_study(scenario: Scenario, folder: Path) -> list[Path]:
    """Write offload_study.md and plots/offload_study.png."""
    found = search(scenario, "tpot")
    picture = draw_front(found, folder / "plots" / "offload_study.png")
    page = folder / "offload_study.md"
    write_whole(page, study_text(scenario, found))
    return [page, picture]


def study_text(scenario: Scenario, found: SearchResult) -> str:
    """The page: for each system and share of the GPU's memory the fastest configuration, predicted in full."""
    hardware = load_hardware(scenario.hardware)
    load, quality = scenario.workload, found.quality or "quality"
    lines = [
        f"# {scenario.model} on one {hardware.title}",
        "",
        f"Written by `moesim offload-study`. Batch {load.size}, {load.input_len} prompt tokens, {load.output_len} new "
        f"ones, host {scenario.host or hardware.host}, {scenario.routing.kind} routing. "
        f"{len(found.configurations):,} configurations tried; the fastest of each system within a share of the GPU's "
        "memory, with 90 % intervals.",
        "",
        f"| system | within | TPOT ms | TTFT ms | GPU memory | main memory | {quality} | experts, others | knobs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    names = sorted({c.settings["system"] for c in found.configurations})
    for name in names:
        seen = set()
        for share in _BUDGETS:
            best = _fastest(found, name, share * hardware.gpu.memory.value)
            if best is None or str(best.settings) in seen:
                continue
            seen.add(str(best.settings))
            lines.append(_row(best, predict(scenario.with_(offload=best.settings)), share, found.quality))
    missing = [name for name in names if not any(c.fits for c in found.configurations if c.settings["system"] == name)]
    lines += ["", "![time against memory and quality](plots/offload_study.png)", ""]
    if missing:
        lines += [f"Does not fit on this machine in any way tried: {', '.join(missing)}.", ""]
    lines += [
        "Quality is an input (`calibration/quality/`), with a source on every row; a dash is a format it does not "
        "hold. The custom system is what vLLM's kernels would give with that policy, whoever wrote the engine.",
        "",
    ]
    return "\n".join(lines)


def _fastest(found: SearchResult, system: str, budget: float) -> Configuration | None:
    mine = (c for c in found.configurations if c.settings["system"] == system and c.fits)
    within = [c for c in mine if (c.values["gpu_memory"] or 0.0) <= budget]
    return min(within, key=lambda c: c.values["tpot"] or 0.0) if within else None


def _row(c: Configuration, full: Prediction, share: float, quality: str | None) -> str:
    value = c.values[quality] if quality else None
    shown = "-" if value is None else f"{value:.4g}"
    tpot, ttft = (full.metrics[name] for name in ("mean_tpot_ms", "mean_ttft_ms"))
    assert tpot is not None and ttft is not None
    return (
        f"| {c.settings['system']} | {share:.0%} | {number(tpot.value)} ({number(tpot.low)} .. {number(tpot.high)}) "
        f"| {ttft.value:,.0f} | {bytes_text(c.values['gpu_memory'] or 0.0)} "
        f"| {bytes_text(c.values['main_memory'] or 0.0)} | {shown} "
        f"| {c.settings['experts_format']}, {c.settings['attention_format']} | {knobs_text(c.settings)} |"
    )
