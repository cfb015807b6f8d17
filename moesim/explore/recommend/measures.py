"""What a deployment is measured by: names, units, and which way is better."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from moesim.errors import Problem, SpecError, nearest
from moesim.explore.constraints import Constraint, parsed
from moesim.inputs.quality_file import higher_is_better
from moesim.metrics import LATENCIES, THROUGHPUTS


class Measure(NamedTuple):
    """A number that every deployment has."""

    unit: str
    higher: bool
    about: str


_STATISTICS = ("mean", "median", "p90", "p99")
_WORDS = {"ttft": "time to first token", "tpot": "time per output token", "itl": "time between tokens",
          "e2el": "end-to-end latency"}  # fmt: skip
MEASURES: dict[str, Measure] = {
    "usd_per_hour": Measure("$", False, "rent of all GPUs"),
    "usd_per_million_tokens": Measure("$", False, "rent over tokens, input and output alike"),
    "usd_per_million_output_tokens": Measure("$", False, "rent over output tokens"),
    "gpus": Measure("", False, "GPUs in all"),
    **{f"{s}_{name}": Measure("s", False, f"{s} {_WORDS[name]}") for name in LATENCIES for s in _STATISTICS},
    **dict(zip(THROUGHPUTS, (
        Measure("req/s", True, "answers a second"), Measure("tok/s", True, "output tokens a second"),
        Measure("tok/s", True, "input and output tokens a second"),
    ), strict=True)),
    "output_throughput_per_gpu": Measure("tok/s", True, "output tokens a second of each GPU"),
    "watts": Measure("W", False, "what all GPUs draw"),
    "joules_per_output_token": Measure("", False, "energy of an output token"),
    "gpu_memory": Measure("B", False, "of each GPU, with the cache that the load takes"),
}  # fmt: skip
SHORT = {
    **{name: f"mean_{name}" for name in LATENCIES},
    "cost": "usd_per_hour", "throughput": "output_throughput", "energy": "joules_per_output_token",
    "goodput": "request_throughput", "memory": "gpu_memory", "power": "watts",
}  # fmt: skip
"""Short names. Goodput is the request throughput of what keeps the limits."""
OF_POWER = frozenset({"watts", "joules_per_output_token"})
_IN_MS = re.compile(r"^\s*(\w+)_ms\s*([<>]=?)\s*([\d.eE+-]+)\s*$")
_NAME = re.compile(r"^\s*([\w-]+)")


def canonical(name: str) -> str:
    """A measure's own name; milliseconds in a name, as vLLM bench has them, are left out."""
    name = name.strip().lower().replace("-", "_").removesuffix("_ms")
    return SHORT.get(name, name)


def objective(name: str, quality: Iterable[str], flag: str) -> tuple[str, bool]:
    """(the measure that a user wants at its best, whether that is its highest). Raises SpecError.

    Parameters
    ----------
    flag : str
        ``--minimize`` or ``--maximize``. Of a quality metric it says which way is better.
    """
    found, known, most = canonical(name), (*MEASURES, *quality), flag == "--maximize"
    named = {metric.lower(): metric for metric in known}
    if found == "quality" and most and (first := next(iter(quality), None)):
        return first, higher_is_better(first)
    if found not in named:
        what = ""
        if found == "quality":
            what = "no quality table says anything of these models; give --quality FILE"
            what = what if most else "'quality' is wanted at its best; give --maximize"
        message = f"'{name}' is not a measure; {nearest(name, (*SHORT, *known), 'moesim recommend --help')}"
        raise SpecError([Problem(what or message, flag)])
    measure = named[found]
    if measure in MEASURES and MEASURES[measure].higher != most:
        other = "--minimize" if most else "--maximize"
        raise SpecError([Problem(f"'{name}' is better the {'lower' if most else 'higher'} it is; give {other}", flag)])
    return measure, most


def limit(text: str, quality: Iterable[str]) -> Constraint:
    """A limit on a measure, like ``p99_ttft <= 1 s``, or ``p99_ttft_ms <= 1000``. Raises SpecError."""
    units = {name: measure.unit for name, measure in MEASURES.items()} | dict.fromkeys(quality, "")
    named = {metric.lower(): metric for metric in units}
    written = _IN_MS.sub(r"\1 \2 \3 ms", text)
    return parsed(_NAME.sub(lambda found: named.get(canonical(found[1]), found[1]), written), units)


def higher(measure: str) -> bool:
    return MEASURES[measure].higher if measure in MEASURES else higher_is_better(measure)


def unit_of(measure: str) -> str:
    return MEASURES[measure].unit if measure in MEASURES else ""
