"""The part of the accuracy page about offloading: hit rates, published runs, memory, caches against closed forms."""

from __future__ import annotations

import numpy as np

from moesim.calibrate import offload_compared
from moesim.calibrate.offload_compared import Compared
from moesim.calibrate.offload_left_out import MACHINES, left_out
from moesim.inputs.offload_fits import offload_fits

HIT_RATE_TARGET, ABLATION_TARGET, MEMORY_TARGET, CLOSED_TARGET, JUDGED_TARGET = 0.02, 0.20, 0.03, 0.01, 0.15


def section() -> list[str]:
    """Lines of the page."""
    token, first, memory = offload_compared.compared_runs()
    return [
        "## Offloading",
        "",
        "Fitted: two numbers a model on LRU hit rates; one bandwidth a system and GPU, one rate of unpacking",
        "and one of a CPU thread on the runs marked so; no number else. What is assumed of software was revised after",
        "the runs were compared first (docs/offload/runtime.md); first looks are in `calibration/first-looks/`.",
        "",
        *_summary(token, memory),
        "",
        "### Judged runs",
        "",
        "Nothing was fitted on them. The naive guess is the median of the fitted runs of that system and machine.",
        "",
        f"| system and machine | runs | error, target {JUDGED_TARGET:.0%} | naive guess | 90 % interval holds |",
        "|---|---|---|---|---|",
        *(_judged(token, *entry) for entry in judged_errors(token)),
        "",
        "### Each machine left out",
        "",
        "Bandwidths, fixed times, unpacking and CPU rates fitted without a machine's runs, and what they say of it.",
        "",
        "| machine | runs | mean error, target 30% over machines | 90 % interval holds |",
        "|---|---|---|---|",
        *_left_out(),
        "",
        "### Runs",
        "",
        "Prompt lengths, hosts and routing are not stated by the sources; `calibration/offload/runs.yaml` says what",
        "was assumed.",
        "",
        "| run | measured s a token | predicted | error | 90 % interval |",
        "|---|---|---|---|---|",
        *(_run(row) for row in token),
        "",
        "| run | measured s to the first token | predicted | error | 90 % interval |",
        "|---|---|---|---|---|",
        *(_run(row) for row in first),
        "",
        *_expert(),
        "",
        "### Memory",
        "",
        "| what | measured GiB | predicted | error |",
        "|---|---|---|---|",
        *(_size(row) for row in [*memory, *offload_compared.compared_sizes()]),
        "",
        "### Bandwidths",
        "",
        *_bandwidths(),
        "",
        "### Caches",
        "",
        *_caches(),
        "",
        *_closed(),
    ]


def left_out_errors() -> dict[str, tuple[int, float, float]]:
    """Machine -> (runs, mean error, share inside the interval), fitted without it."""
    found = {}
    for machine in MACHINES:
        rows = list(left_out(machine))
        held = float(np.mean([row.low <= row.measured <= row.high for row in rows]))
        found[machine] = (len(rows), mean_error(rows), held)
    return found


def _left_out() -> list[str]:
    errors = left_out_errors()
    lines = [f"| {name} | {many} | {error:.1%} | {held:.0%} |" for name, (many, error, held) in errors.items()]
    many = sum(many for many, *_ in errors.values())
    held = sum(many * held for many, _, held in errors.values()) / many
    return [
        *lines,
        f"| mean over machines; all runs | {many} | {np.mean([e for _, e, _ in errors.values()]):.1%} | {held:.0%} |",
    ]


def ablations(token: list[Compared]) -> list[Compared]:
    """The four ablations on T4 at two precisions, the one left out that its bandwidth is fitted on."""
    return [row for row in token if row.gpu == "nvidia-t4-16gb" and row.fits != "bandwidth"]


def judged_errors(rows: list[Compared]) -> list[tuple[str, str, float, float | None, float]]:
    """(system, GPU, mean error of its judged rows, that of the median of its fitted rows as a guess, share held)."""
    found = []
    for system, gpu in dict.fromkeys((row.system, row.gpu) for row in rows if row.judged):
        own = [row for row in rows if (row.system, row.gpu) == (system, gpu)]
        judged, fitted = [row for row in own if row.judged], [row for row in own if row.fits]
        guess = float(np.median([row.measured for row in fitted])) if fitted else None
        naive = None if guess is None else float(np.mean([abs(guess / row.measured - 1) for row in judged]))
        held = float(np.mean([row.low <= row.measured <= row.high for row in judged]))
        found.append((system, gpu, mean_error(judged), naive, held))
    return found


def mean_error(rows: list[Compared]) -> float:
    """Mean absolute relative error."""
    return float(np.mean([abs(row.error) for row in rows]))


def _summary(token: list[Compared], memory: list[Compared]) -> list[str]:
    errors = offload_compared.hit_rate_errors()
    rmse = float(np.mean([error for error, _ in errors.values()]))
    worst = max(errors, key=lambda name: errors[name][0])
    seven = ablations(token)
    held = sum(row.low <= row.measured <= row.high for row in seven)
    gap = max(gap for *_, gap in offload_compared.simulated_against_closed())
    lines = ["| what | target | reached |", "|---|---|---|"]
    lines.append(
        f"| LRU hit rate, {len(errors)} models, all cache sizes: RMSE, mean over models | <= {HIT_RATE_TARGET} | "
        f"{rmse:.4f} (worst {worst} {errors[worst][0]:.4f}) |"
    )
    lines.append(
        f"| Mixtral-offloading on T4, {len(seven)} ablations after one bandwidth on the eighth, one rate on six | <= "
        f"{ABLATION_TARGET:.0%} | {mean_error(seven):.1%} (worst {max(abs(r.error) for r in seven):.1%}); "
        f"90 % interval holds {held} of {len(seven)} |"
    )
    lines.append(
        f"| GPU memory of the runs | <= {MEMORY_TARGET:.0%} | {mean_error(memory):.1%} "
        f"(worst {max(abs(r.error) for r in memory):.1%}) |"
    )
    lines.append(f"| simulated cache against closed form, independent requests | <= {CLOSED_TARGET} | {gap:.4f} |")
    return lines


def _run(row: Compared) -> str:
    note = f", {row.fits} fitted" if row.fits else ", judged" if row.judged else ""
    if row.predicted == float("inf"):
        return f"| {row.name}{note} | {row.measured:.3f} | does not fit, we say | - | - |"
    return (
        f"| {row.name}{note} | {row.measured:.3f} | {row.predicted:.3f} | {row.error:+.1%} "
        f"| {row.low:.3f} .. {row.high:.3f} |"
    )


def _judged(rows: list[Compared], system: str, gpu: str, error: float, naive: float | None, held: float) -> str:
    many = sum((row.system, row.gpu, row.judged) == (system, gpu, True) for row in rows)
    guess = "-" if naive is None else f"{naive:.0%}"
    return f"| {system} on {gpu} | {many} | {error:.1%} | {guess} | {held:.0%} |"


def _size(row: Compared) -> str:
    return f"| {row.name} | {row.measured / 2**30:.2f} | {row.predicted / 2**30:.2f} | {row.error:+.1%} |"


def _expert() -> list[str]:
    lines = ["| one 16-bit expert of Mixtral, RTX 4090 | measured ms | predicted | error |", "|---|---|---|---|"]
    for row in offload_compared.compared_expert():
        lines.append(f"| {row.name} | {1e3 * row.measured:.2f} | {1e3 * row.predicted:.2f} | {row.error:+.1%} |")
    return lines


def _bandwidths() -> list[str]:
    fits = offload_fits()
    lines = ["| copies to the GPU | GB/s | share of the link |", "|---|---|---|"]
    for kind, entry in fits["copies"].items():
        lines.append(f"| {kind}, any system | - | {entry['share']:.1%} |")
    for system, gpus in fits["systems"].items():
        for gpu, entry in gpus.items():
            mark = " (at the link's bound)" if entry["at_bound"] else ""
            lines.append(f"| {system} on {gpu}{mark} | {entry['bytes_per_s'] / 1e9:.2f} | {entry['share']:.1%} |")
    return lines


def _caches() -> list[str]:
    errors, fits = offload_compared.hit_rate_errors(), offload_fits()["locality"]
    below = offload_compared.lfu_below_lru()
    rates = {name: offload_compared.other_policies(name) for name in fits}
    right = sum((rates[name]["lfu"] < rates[name]["lru"]) == said for name, said in below.items())
    lines = [
        "Persistence and skew with standard errors, drift, and what they give other policies with two tokens' worth of",
        "slots. Static is a set chosen with the same text's popularity. Drift, redraws of a popularity for each pick",
        "that repeats, is one assumed number of all models: LRU's curves leave it open, and without it LFU beats LRU",
        f"everywhere. It was chosen with the published signs in sight: that {right} of {len(below)} come out",
        "describes, and tests nothing.",
        "",
        "| model | persistence | skew | drift | LRU RMSE | LRU | LFU | LFU published below | FIFO | static | Belady |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in fits.items():
        own = rates[name]
        others = " | ".join(f"{own[policy]:.2f}" for policy in ("fifo", "static", "belady"))
        lines.append(
            f"| {name} | {entry['persistence']:.3f} ± {entry['persistence_error']:.3f} | {entry['skew']:.2f} ± "
            f"{entry['skew_error']:.2f} | {entry['drift']:.4f} | {errors[name][0]:.4f} | {own['lru']:.3f} | "
            f"{own['lfu']:.3f} | {'yes' if below[name] else 'no'} | {others} |"
        )
    return lines


def _closed() -> list[str]:
    lines = ["| independent requests | policy | largest difference, simulated against closed form |", "|---|---|---|"]
    gaps = offload_compared.simulated_against_closed()
    return [*lines, *(f"| {what} | {policy} | {gap:.4f} |" for what, policy, gap in gaps)]
