"""The page of the campaign: what was said before anybody measured, what was measured, how close that was."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.bench.engine.settings import EngineSettings
from moesim.bench.environment import vllm_of
from moesim.bench.point import Point
from moesim.campaign.comparison import Campaigned, Compared, Quality
from moesim.campaign.contrasts import Figure, Ratio, ratios
from moesim.campaign.file import Campaign, Contrast
from moesim.campaign.kernels import kind
from moesim.campaign.predicted import EDGE, MEMORY, Predicted, Value
from moesim.campaign.registration import Registration
from moesim.campaign.sheet import COMPARED, SHEET, digest_of, machine_of
from moesim.files.writing import write_whole
from moesim.units import bytes_text

_WORST = 10
_SHOWN = ("mean_ttft_ms", "mean_tpot_ms", "output_throughput", "mean_power_w")
_TITLES = {
    "mean_ttft_ms": "TTFT [ms]", "mean_tpot_ms": "TPOT [ms]", "output_throughput": "tokens/s", "mean_power_w": "W",
    "seconds": "time",
}  # fmt: skip
_USUAL = {k: v for k, v in EngineSettings(Path()).columns().items() if k != "model"}
"""Settings that go without saying on the page."""
_HEAD = """# The campaign

Predictions of runs that nobody had made when they were written, and what came of them. Written by `moesim campaign
compare`; the tables are under `calibration/preregistered/`, with the time and the commit, and the commit that brought
them bears witness. They are never changed: a better model registers anew, and a campaign is held against what it began
with.
"""
_NOTHING = """**No row has been measured yet.** One rented H100 and an hour do it
([calibrate](calibrate.md#the-campaign)):

    pip install -e '.[calibrate,bench]' 'vllm==0.25.1'
    moesim campaign run
    moesim campaign compare campaign
"""


def campaign_page(campaign: Campaign, registrations: Sequence[Registration], campaigns: Sequence[Campaigned]) -> str:
    """The page as Markdown."""
    lines = [_HEAD]
    if not campaigns:
        lines.append(_NOTHING)
    for found in campaigns:
        lines += [*_of_campaign(campaign, found), ""]
    lines += _registered(registrations)
    compared = {found.registration.folder for found in campaigns}
    # The newest of each GPU, in the order of their first ones.
    for registration in {r.sheet.hardware: r for r in registrations if r.folder not in compared}.values():
        lines += [*_beforehand(campaign, registration), ""]
    return "\n".join(lines).rstrip() + "\n"


def returned() -> list[Path]:
    """Campaigns that came back and are kept."""
    return sorted(sheet.parent for sheet in (paths.CALIBRATION / "campaigns").glob(f"*/{SHEET}"))


def page_path() -> Path:
    """Where the page stands in a checkout; beside the caller elsewhere."""
    docs = paths.ROOT / "docs"
    return (docs if docs.is_dir() else Path()) / "campaign.md"


def write_rows(folder: Path, found: Campaigned) -> Path:
    """Write every compared row into the campaign's folder; from then on its kernels may be fitted."""
    target = folder / COMPARED
    write_whole(target, f"# {digest_of(folder)}\n{rows_csv(found)}")
    return target


def rows_csv(found: Campaigned) -> str:
    """Every compared row: what it is of, prediction, interval, measurement, error, whether the interval held."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "point", "metric", "predicted", "low", "high", "measured", "error", "held", "source"])
    for row in found.rows:
        said = " ".join(f"{name}={value}" for name, value in row.point.columns.items())
        held = str(row.held).lower() if row.ranged else ""
        numbers = (*row.predicted, row.measured, row.error)
        writer.writerow([row.point.table, said, row.metric, *(f"{x:.5g}" for x in numbers), held, row.source])
    return out.getvalue()


def _registered(registrations: Sequence[Registration]) -> Iterator[str]:
    yield "## What is registered"
    yield ""
    yield "| predictions | GPU | engine | written, UTC | moesim | commit | points | not predicted |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in registrations:
        sheet = one.sheet
        points, known = (sum(getattr(t, name) for t in sheet.tables.values()) for name in ("points", "predicted"))
        commit = (sheet.commit or "none")[:10] + (" and changes" if sheet.changed else "")
        yield (
            f"| {one.name} | {sheet.hardware} | {sheet.engine} | {sheet.registered_at} | {sheet.moesim} | {commit} "
            f"| {points:,} | {points - known:,} |"
        )
    yield ""


def _beforehand(campaign: Campaign, registration: Registration) -> Iterator[str]:
    """What is predicted, before there is anything to hold it against."""
    predicted = list(registration.predicted.values())
    yield f"## What is predicted for {registration.sheet.hardware}"
    yield ""
    yield from _contrasts(campaign, predicted, [])
    yield from _runs_head("90 % intervals in brackets.")
    for one in predicted:
        if one.point.table in {"engine_batch", "engine_load"}:
            cells = [_value(one.values.get(metric)) for metric in _SHOWN] if one.values else [one.source, "", "", ""]
            yield f"| {_engine(one.point)} | {_load(one.point)} | {' | '.join(cells)} |"
    yield ""
    yield "### Memory"
    yield ""
    yield "| engine | weights | activations | CUDA graphs | KV cache | blocks | starts from a share of |"
    yield "|---|---|---|---|---|---|---|"
    for one in predicted:
        if one.point.table == "engine_memory" and not one.values:
            yield f"| {_engine(one.point)} | {one.source} | | | | | |"
        elif one.point.table == "engine_memory":
            sizes = [_bytes(one.values[metric]) for metric in MEMORY[:4]]
            blocks, edge = one.values[MEMORY[4]], one.values[EDGE]
            yield f"| {_engine(one.point)} | {' | '.join(sizes)} | {_value(blocks)} | {_value(edge)} |"


def _of_campaign(campaign: Campaign, found: Campaigned) -> Iterator[str]:
    sheet = found.registration.sheet
    here = found.sessions[-1]
    yield f"## {found.name}: {machine_of(here)}"
    yield ""
    held = f"{found.registration.name} ({sheet.registered_at} UTC)"
    yield f"Measured {found.begun} to {found.ended} UTC, held against {held}; every row is in its `{COMPARED}`."
    if not found.registered_before:
        yield ""
        yield "**These predictions were written after the first row was measured: they are no predictions beforehand.**"
    yield ""
    yield from _machine(found)
    yield from _quality(found)
    yield from _contrasts(campaign, found.registration.predicted.values(), found.rows)
    yield from _runs(found)
    yield from _memory(found)
    yield from _worst(found)
    yield from _missing(found)


def _machine(found: Campaigned) -> Iterator[str]:
    here = found.sessions[-1]
    versions = here["versions"]
    facts = {
        "driver": here.get("driver"), "CUDA": here.get("cuda"), "power limit": _unit(here.get("power_limit_w"), "W"),
        "memory clock": _unit(here.get("memory_clock_most_hz", 0) / 1e6 or None, "MHz"), "ECC": here.get("ecc"),
        "cores": here.get("cores"), **versions,
    }  # fmt: skip
    yield ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None) + "."
    predicted, measured = found.registration.sheet.engine, vllm_of(versions)
    # A wheel's version says after a plus what it was built for.
    if measured and predicted.split()[-1] != str(measured).partition("+")[0]:
        yield f"Predicted was {predicted}; {measured} ran."
    if "gpu" not in here:
        yield "**No GPU: a processor was held against predictions of one, to try the way. The errors mean nothing.**"
    yield ""


def _quality(found: Campaigned) -> Iterator[str]:
    yield "### How close"
    yield ""
    yield "| what | rows | median error | mean | p90 | bias | interval held | half-width |"
    yield "|---|---|---|---|---|---|---|---|"
    groups: dict[str, list[Compared]] = {}
    for row in found.rows:
        groups.setdefault(_family(row), []).append(row)
    for name, rows in sorted(groups.items()):
        q = Quality.of(rows)
        held = "-" if q.held is None else f"{q.held:.0%}"
        width = "-" if q.width is None else f"{q.width:.0%}"
        yield (
            f"| {name} | {q.rows:,} | {q.median:.1%} | {q.mean:.1%} | {q.p90:.1%} | {q.bias:+.1%} | {held} | {width} |"
        )
    yield ""


def _family(row: Compared) -> str:
    """What a row is counted with: its table and kernel, of an engine its metric."""
    if row.point.table.startswith("engine_"):
        return f"{row.point.table} {row.metric}"
    return " ".join((row.point.table, *(word.partition("=")[2] for word in kind(row.point)[1:])))


def _contrasts(campaign: Campaign, predicted: Iterable[Predicted], rows: Sequence[Compared]) -> Iterator[str]:
    said, predicted = {(row.point.key, row.metric): row.measured for row in rows}, list(predicted)
    yield "### What it asks"
    yield ""
    yield "Each as a ratio to a row that differs in nothing else; without an interval, for both share most errors."
    yield ""
    for contrast in campaign.contrasts:
        figures = [
            Figure(p.point, p.values[contrast.metric].value, said.get((p.point.key, contrast.metric)))
            for p in predicted
            if contrast.metric in p.values
        ]
        found = ratios(contrast, figures)
        if rows:
            found = [ratio for ratio in found if ratio.measured is not None]
        if found:
            yield from _contrast(contrast, found)


def _contrast(contrast: Contrast, found: Sequence[Ratio]) -> Iterator[str]:
    metric = _TITLES.get(contrast.metric, contrast.metric)
    yield f"**{contrast.question}** {metric} over that of {_words(contrast.base)}:"
    yield ""
    yield "| rows | what | predicted | measured |"
    yield "|---|---|---|---|"
    said = [*contrast.over, *(name for name, values in contrast.where.items() if len(values) == 1)]
    for ratio in found:
        differing = {name: _cell(ratio.point, name) for name in contrast.over}
        base = {name: _cell(ratio.base, name) for name in contrast.over}
        changed = {name: value for name, value in differing.items() if value != base[name]}
        cells = (_ratio(ratio.predicted), _ratio(ratio.measured))
        yield f"| {_about(ratio.point, said)} | {_words(changed)} | {' | '.join(cells)} |"
    yield ""


def _about(point: Point, left_out: Sequence[str]) -> str:
    """A row but for the columns that a contrast is over."""
    rest = Point(point.table, {k: v for k, v in point.columns.items() if k not in left_out})
    if point.table.startswith("engine_"):
        return ", ".join(filter(None, (_engine(rest), _load(rest))))
    return _words(rest.columns)


def _runs_head(about: str) -> Iterator[str]:
    yield "### Runs"
    yield ""
    yield about
    yield ""
    yield "| engine | load | " + " | ".join(_TITLES[m] for m in _SHOWN) + " |"
    yield "|---|---|" + "---|" * len(_SHOWN)


def _runs(found: Campaigned) -> Iterator[str]:
    rows: dict[str, dict[str, Compared]] = {}
    for row in found.rows:
        if row.point.table in {"engine_batch", "engine_load"}:
            rows.setdefault(row.point.key, {})[row.metric] = row
    if not rows:
        return
    yield from _runs_head("Predicted, its 90 % interval, measured, error; **bold** where the interval did not hold.")
    for metrics in rows.values():
        point = next(iter(metrics.values())).point
        cells = [_compared(metrics.get(metric)) for metric in _SHOWN]
        yield f"| {_engine(point)} | {_load(point)} | {' | '.join(cells)} |"
    yield ""


def _memory(found: Campaigned) -> Iterator[str]:
    rows = [row for row in found.rows if row.point.table == "engine_memory"]
    if rows:
        yield "### Memory"
        yield ""
        yield "| engine | what | predicted | measured | error |"
        yield "|---|---|---|---|---|"
        for row in rows:
            shown = _bytes if row.metric.endswith("_bytes") else _value
            measured = bytes_text(row.measured) if row.metric.endswith("_bytes") else f"{row.measured:,.0f}"
            error = f"{row.error:+.1%}" if row.held or not row.ranged else f"**{row.error:+.1%}**"
            yield f"| {_engine(row.point)} | {row.metric} | {shown(row.predicted)} | {measured} | {error} |"
        yield ""
    if found.starts:
        yield "| engine | share of memory | started | predicted to start from | as predicted |"
        yield "|---|---|---|---|---|"
        for start in found.starts:
            words = [f"{start.share:g}", "yes" if start.started else "no", _value(start.predicted)]
            yield f"| {_engine(start.point)} | {' | '.join(words)} | {'yes' if start.held else '**no**'} |"
        yield ""


def _worst(found: Campaigned) -> Iterator[str]:
    rows = sorted(found.rows, key=lambda row: -abs(math.log(row.predicted.value / row.measured)))[:_WORST]
    if rows:
        yield f"### The {len(rows)} worst rows"
        yield ""
    for row in rows:
        said = _about(row.point, ())
        figures = f"{row.metric} {_value(row.predicted)}, measured {row.measured:.4g} ({row.error:+.0%})"
        yield f"- {row.point.table}, {said}: {figures}; {row.source}"
    yield ""


def _missing(found: Campaigned) -> Iterator[str]:
    """What was registered and not measured, what failed, what was measured and not registered."""
    measured, tables = found.measured, dict[str, list[int]]()
    for said in found.registration.predicted.values():
        counts = tables.setdefault(said.point.table, [0, 0])
        counts[0] += 1
        counts[1] += said.point.key in measured
    yield "### Not measured"
    yield ""
    yield "| table | registered | measured |"
    yield "|---|---|---|"
    for table, (registered, done) in tables.items():
        yield f"| {table} | {registered:,} | {done:,} |"
    yield ""
    for (table, why), count in found.failed.most_common():
        yield f"- {table}: {count:,} without a figure: {why}"
    for (table, why), count in found.silent.most_common():
        yield f"- {table}: {count:,} measured, of which nothing was predicted: {why}"
    for table, count in found.unregistered.most_common():
        yield f"- {table}: {count:,} measured that were not registered"


def _engine(point: Point) -> str:
    """An engine by what is not usual of it."""
    said = [f"{k}={v}" for k, v in point.columns.items() if k in _USUAL and v != _USUAL[k]]
    name = point.columns.get("model", "")
    return ", ".join([*([str(name)] if name else []), *said])


def _load(point: Point) -> str:
    c = point.columns
    parts = []
    if "batch" in c:
        parts.append(f"batch {c['batch']}")
    if "request_rate" in c:
        parts.append(f"{c['requests']} requests at {c['request_rate']:g}/s")
    lengths = [str(c[name]) for name in ("input_len", "output_len") if name in c]
    return ", ".join([*parts, *([" / ".join(lengths)] if lengths else [])])


def _cell(point: Point, name: str) -> Any:
    return point.table if name == "table" else point.columns.get(name)


def _words(columns: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in columns.items())


def _value(value: Value | None) -> str:
    if value is None:
        return "-"
    shown = f"{_number(value.value)}"
    return f"{shown} ({_number(value.low)} .. {_number(value.high)})" if value.low < value.high else shown


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def _bytes(value: Value) -> str:
    shown = bytes_text(value.value)
    ends = " .. ".join(bytes_text(end) for end in value[1:])
    return f"{shown} ({ends})" if value.low < value.high else shown


def _compared(row: Compared | None) -> str:
    if row is None:
        return "-"
    error = f"{row.error:+.0%}" if row.held or not row.ranged else f"**{row.error:+.0%}**"
    return f"{_value(row.predicted)}, {_number(row.measured)}, {error}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:,.0f} {unit}"
