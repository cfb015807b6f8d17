"""What the command line says of settings: overrides and axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moesim.engines.settings import SWITCHES
from moesim.errors import Problem, SpecError
from moesim.metrics import STATIC_METRICS, THROUGHPUTS

_FLAGS = {"ep", "ignore_eos", *SWITCHES}
"""Settings that are true when named without a value, as in vLLM."""
_VERSION = "engine.version"
_MOST_VALUES = 1_000_000
EPILOG = (
    "any setting can be overridden: --batch-size 8, --tensor-parallel-size 8, --tp 8, --users 50, --gpu h100-sxm, "
    "--dtype fp8, --set routing.kind=zipf. Metrics of a static batch: "
    f"{', '.join(STATIC_METRICS)}; under load: {{mean,median,std,p90,p99}}_{{ttft,tpot,itl,e2el}}_ms and "
    f"{', '.join(THROUGHPUTS)}. Exit codes: 0 done, 2 bad input, 3 does not fit, 4 outside the fits under --strict, "
    "130 stopped."
)


def overrides(sets: list[str], rest: list[str]) -> dict[str, Any]:
    """``--set a.b=c`` and ``--batch-size 8`` as {name: value}."""
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not name:
            problems.append(Problem(f"'{text}' is not NAME=VALUE", "--set"))
        else:
            found[name] = _value(value, name)
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            problems.append(Problem(f"'{word}' is not expected here", "command line"))
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and (not words or words[0].startswith("--")):
            if name.replace("-", "_") in _FLAGS:
                found[name] = True
            else:
                problems.append(Problem(f"'{word}' needs a value", "command line"))
            continue
        text = value if equals else words.pop(0)
        if name in found:
            problems.append(Problem(f"'--{name}' is given twice; keep one", "command line"))
        found[name] = _value(text, name)
    if problems:
        raise SpecError(problems)
    return found


def positional(rest: list[str]) -> tuple[list[str], list[str]]:
    """(words that are no setting and no setting's value, the others)."""
    alone: list[str] = []
    others: list[str] = []
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            alone.append(word)
            continue
        others.append(word)
        flag = word[2:].replace("-", "_") in _FLAGS and not (words and words[0].lower() in {"true", "false"})
        if "=" not in word and words and not words[0].startswith("--") and not flag:
            others.append(words.pop(0))
    return alone, others


def _value(text: str, name: str = "") -> Any:
    """A YAML scalar, list or map, as it would stand in a file; a version is text."""
    from moesim.inputs.scenario import dotted_fields

    if dotted_fields().get(name.replace("-", "_"), name) == _VERSION:
        return text
    from moesim.files import yaml

    return yaml.parse(f"value: {text}", "override").data["value"]


_SLO_NAMES = ("ttft", "tpot", "e2el")


def slo_of(text: str) -> Any:
    """``ttft:300 tpot:20`` (milliseconds, vLLM bench's --goodput) as an Slo."""
    from moesim.serving.report import Slo

    limits: dict[str, float] = {}
    for word in text.split():
        name, colon, value = word.partition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        if not colon or name not in _SLO_NAMES or not 0 < limit < 1e9:
            message = f"'{word}' is not NAME:MILLISECONDS; names are {', '.join(_SLO_NAMES)}"
            raise SpecError([Problem(message, "--slo")])
        limits[f"{name}_s"] = limit / 1e3
    return Slo(**limits)


def axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Settings and their values as ``--axis`` gives them. Raises SpecError."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, values = axis(text)
        if name in found:
            raise SpecError([Problem(f"'{name}' is given twice; put its values into one axis", "--axis")])
        found[name] = values
    return found


def axis(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise SpecError([Problem(f"'{text}' is not NAME=VALUES, like batch_size=1,2,4", "--axis")])
    bounds = values.split(":")
    if len(bounds) in (2, 3) and all(b.lstrip("-").isdigit() for b in bounds):
        first, last, step = int(bounds[0]), int(bounds[1]), int(bounds[2]) if len(bounds) == 3 else 1
        if step < 1 or last < first:
            raise SpecError([Problem(f"'{text}' is empty; first:last:step with last not below first", "--axis")])
        if (last - first) // step >= _MOST_VALUES:
            raise SpecError([Problem(f"'{text}' has more than {_MOST_VALUES:,} values", "--axis")])
        return name, list(range(first, last + 1, step))
    return name, [_value(v, name) for v in values.split(",")]
