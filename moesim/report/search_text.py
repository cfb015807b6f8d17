"""What a search found, as text and as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from moesim.explore.constraints import value_text
from moesim.explore.search import Configuration, SearchResult, why_lost
from moesim.explore.search.evaluate import METRICS
from moesim.files.writing import whole
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.offload import AMOUNTS
from moesim.inputs.scenario import Scenario
from moesim.report.text import model_words
from moesim.units import bytes_text

_UNIT = {"s": "_s", "B": "_bytes"}
_HIDDEN = {"system", "experts_format", "attention_format"}


def knobs_text(settings: dict[str, object]) -> str:
    """A configuration's settings beyond system and formats."""
    return ", ".join(f"{key} {_shown(key, value)}" for key, value in settings.items() if key not in _HIDDEN)


def _shown(key: str, value: object) -> str:
    if key in {"gpu_memory", "cpu_offload_gb"} and isinstance(value, (int, float)):
        return bytes_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def search_text(scenario: Scenario, found: SearchResult, top: int) -> str:
    """The best configurations, or what to relax."""
    hardware = load_hardware(scenario.hardware)
    asked = f", {' and '.join(map(str, found.constraints))}" if found.constraints else ""
    load = scenario.workload
    lines = [
        f"{model_words(scenario)} on {hardware.title} with {scenario.host or hardware.host}: batch {load.size}, "
        f"{load.input_len} in, {load.output_len} out; {found.minimized} at its best{asked}",
        f"{len(found.configurations):,} configurations, {found.kept:,} fit and keep every constraint",
        "",
    ]
    if not found.best:
        return "\n".join([*lines[:2], *(f"  {text}" for text in found.advice)])
    quality = found.quality or "quality"
    head = (
        f"{'system':19}{'experts, others':24}{'TPOT ms':>9}{'TTFT ms':>10}{'GPU':>11}{'main memory':>13}{quality:>12}"
    )
    lines.append(f"{head}  knobs")
    shown: dict[tuple[object, ...], str] = {}
    for c in found.configurations[: found.kept]:
        # Knobs that change nothing, with everything on the GPU say, are shown once.
        shown.setdefault((*_way(c), *c.values.values()), _row(c, found.quality))
        if len(shown) == top:
            break
    lines += shown.values()
    lost = runner_up(scenario, found)
    lines += ["", f"the next best way is {lost['way']}: {lost['why']}"] if lost else [""]
    lines += [_bound_text(found)] if found.minimized in METRICS else []
    lines += [f"not tried: {why}" for why in found.refused]
    lines += ["* on the front: no other fits and is as good in time a token, GPU memory and quality"]
    return "\n".join(lines)


def runner_up(scenario: Scenario, found: SearchResult) -> dict[str, str] | None:
    """The best of another system, number of GPUs or format, and why it is not the first; None where there is none."""
    first = found.best
    others = (c for c in found.configurations[: found.kept] if first is not None and _way(c) != _way(first))
    other = next(others, None)
    if first is None or other is None:
        return None
    return {"way": _way_text(other), "why": why_lost(scenario, other, first, found.minimized)}


def _way(c: Configuration) -> tuple[object, ...]:
    return c.gpus, *(c.settings[key] for key in sorted(_HIDDEN))


def _way_text(c: Configuration) -> str:
    where = f" on {c.gpus} GPUs" if c.gpus > 1 else ""
    knobs = knobs_text(c.settings)
    formats = f"{c.settings['experts_format']} experts"
    return f"{c.settings['system']}{where}, {formats}{', ' + knobs if knobs else ''}"


def _bound_text(found: SearchResult) -> str:
    if found.at_best is None:
        return "amounts between those tried could gain 1 % at most"
    return f"amounts between those tried could reach {value_text(found.at_best, METRICS[found.minimized])} at best"


def _row(c: Configuration, quality: str | None) -> str:
    formats = f"{c.settings['experts_format']}, {c.settings['attention_format']}"
    value = c.values[quality] if quality else None
    shown = "-" if value is None else f"{value:.4g}"
    tpot, ttft, gpu, dram = (c.values[name] or 0.0 for name in ("tpot", "ttft", "gpu_memory", "main_memory"))
    mark = "*" if c.on_front else " "
    name = f"{c.settings['system']} x{c.gpus}" if c.gpus > 1 else c.settings["system"]
    return (
        f"{name:18}{mark}{formats:24}{1e3 * tpot:>9.4g}{1e3 * ttft:>10,.0f}{bytes_text(gpu):>11}"
        f"{bytes_text(dram):>13}{shown:>12}  {knobs_text(c.settings)}"
    )


def write_csv(found: SearchResult, target: Path) -> Path:
    """Every configuration: settings, values in SI units, whether it fits and keeps the constraints."""
    knobs = list(dict.fromkeys(key for c in found.configurations for key in c.settings if key not in _HIDDEN))
    knobs.sort(key=lambda key: (key not in AMOUNTS, key))
    values = list(found.configurations[0].values)
    with whole(target) as half, half.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        columns = [f"{name}{_UNIT.get(METRICS.get(name, ''), '')}" for name in values]
        writer.writerow(
            ["system", "gpus", "experts_format", "attention_format", *knobs, *columns, "fits", "kept", "on_front"]
        )
        for i, c in enumerate(found.configurations):
            formats = (c.settings["system"], c.gpus, c.settings["experts_format"], c.settings["attention_format"])
            shown = ["" if v is None else v for v in (*(c.settings.get(k) for k in knobs), *c.values.values())]
            writer.writerow([*formats, *shown, c.fits, i < found.kept, c.on_front])
    return target
