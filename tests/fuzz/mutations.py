"""Files a little, or quite, wrong: hypothesis draws what is done to a seed."""

from __future__ import annotations

import json
import re

from hypothesis import strategies as st

NASTY = (
    "0", "-1", "1", "2", "7", "1e3", "1e-300", "1e300", "-0.0", "nan", ".nan", "NaN", ".inf", "-.inf", "Infinity",
    "99999999999", str(2**63), str(2**64), "9" * 400, "0x10", "1_000", "1e5", "0.1", "true", "null", "~", "yes", "''",
    '""', "[]", "{}", "[1, 2]", "{a: 1}", "[[[[]]]]", "text", "h100", "../../x", "/etc/passwd", "/dev/zero", "/", ".",
    "*a", "&a 1", "!!python/name:os.system", "!x y", "<<", "80 GiB", "3.35 TB/s", "1 ms", "-5 s", "10 PB/s",
    '"a\\0b"', '"\\e[31m"', "\x00", "\x1b[2J", "\u202e", "\ufeff", "é", "名", "\U0001f600", "a" * 300, "#", ":", "- ",
    "2024-01-01", "'", '"', "{", "}", "%", "\\", "auto", "uniform", "zipf", "trace",
)  # fmt: skip
"""Values that some reader, somewhere, was not written for."""

_TOKEN = re.compile(r"[\w.+-]+")


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[str, ...]) -> bytes:
    """One of the seeds with one to four things done to it."""
    text = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        text = draw(st.sampled_from(_WAYS))(draw, text)
    data = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 11)) == 0:
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + draw(st.integers(0, 2)) :]
    return data


def _value(draw: st.DrawFn, text: str) -> str:
    """Another word or number in the place of one."""
    found = list(_TOKEN.finditer(text))
    if not found:
        return text
    one = found[draw(st.integers(0, len(found) - 1))]
    return text[: one.start()] + draw(_nasty) + text[one.end() :]


def _number(draw: st.DrawFn, text: str) -> str:
    """Another number in the place of one: where it hurts most, and is most often accepted."""
    found = list(re.finditer(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", text))
    if not found:
        return text
    one = found[draw(st.integers(0, len(found) - 1))]
    new = draw(st.one_of(st.integers(-2, 10_000).map(str), st.floats(-1e6, 1e6).map(lambda x: f"{x:.4g}"), _nasty))
    return text[: one.start()] + new + text[one.end() :]


def _line(draw: st.DrawFn, text: str) -> str:
    """A line away, twice, or somewhere else."""
    lines = text.split("\n")
    at, to = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    way = draw(st.integers(0, 3))
    if way == 0:
        del lines[at]
    elif way == 1:
        lines.insert(to, lines[at])
    elif way == 2:
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = " " * draw(st.integers(0, 4)) + lines[at].strip()
    return "\n".join(lines)


def _cut(draw: st.DrawFn, text: str) -> str:
    """The end, or a piece, away."""
    at = draw(st.integers(0, len(text)))
    return text[:at] + text[at + draw(st.sampled_from((1, 2, 10, len(text)))) :]


def _put(draw: st.DrawFn, text: str) -> str:
    """Something between."""
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(_nasty) + text[at:]


def _leaf(draw: st.DrawFn, text: str) -> str:
    """Of JSON, a value of another kind somewhere inside."""
    try:
        data = json.loads(text)
    except ValueError:
        return _value(draw, text)
    at = data
    while isinstance(at, (dict, list)) and at:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = keys[draw(st.integers(0, len(keys) - 1))]
        if isinstance(at[key], (dict, list)) and at[key] and draw(st.integers(0, 4)):
            at = at[key]
            continue
        if isinstance(at, dict) and draw(st.integers(0, 3)) == 0:
            del at[key]
        else:
            at[key] = draw(_PLAIN)
        break
    return json.dumps(data, indent=1)


_nasty = st.sampled_from(NASTY)
_PLAIN = st.one_of(
    st.sampled_from((None, True, False, 0, -1, 1, 2**63, 10**30, 1e-300, 1e300, float("nan"), float("inf"), "", "x",
                     "\0", "fp8", "0", [], {}, [1], [[]], {"a": 1}, ["linear", "dynamic"])),
    st.integers(-3, 100_000), st.floats(-10, 10),
)  # fmt: skip
_WAYS = (_value, _value, _number, _number, _line, _cut, _put, _leaf)
