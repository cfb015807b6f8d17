"""Traces that are JSON: lines, objects that follow each other, or one list.

Mooncake (github.com/kvcache-ai/Mooncake, FAST25 traces) counts milliseconds and hashes 512 tokens at a time, as
does what AIPerf replays. The Qwen traces (github.com/alibaba-edu/qwen-bailian-usagetraces-anon) count seconds and hash
16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from moesim.inputs.traces.row import Manner, Row, moment_s, refused, whole

_MOONCAKE_BLOCK, _QWEN_BLOCK = 512, 16
_BLOCKS = (_MOONCAKE_BLOCK, 256, 128, 64, 32, _QWEN_BLOCK)
"""Tokens that one hash may stand for; the largest that fits every prompt does."""
_LOOKED_AT = 64
_EPOCH_S = (1e9, 1e10)
_EPOCH_US = 1e14
_WANTED = "a JSON object with timestamp (ms), input_length and output_length"
_TEXTS = ("messages", "text_input", "payload", "conversations", "prompt", "text", "body")


def read(path: str, file: Any) -> tuple[Manner, Iterator[Row]]:
    """How to take the requests, and the requests. Raises SpecError."""
    found = objects(path, file)
    first = list(islice(found, _LOOKED_AT))
    qwen = any(isinstance(data, dict) and "chat_id" in data for _, data in first)
    block = _QWEN_BLOCK if qwen else _block_of(first)
    unit_s = 1.0 if block == _QWEN_BLOCK or _counts_seconds(first) else 1e-3
    rows = (_row(path, where, data, unit_s, block) for where, data in chain(first, found))
    return Manner(recorded=True, prompt="input_length", output="output_length"), rows


def _block_of(first: list[tuple[str, Any]]) -> int:
    """Tokens of a hash: the largest block that could give no prompt fewer hashes than it has, nor a whole one more."""
    try:
        hashed = [(len(data["hash_ids"]), data["input_length"]) for _, data in first if data.get("hash_ids")]
        fit = [b for b in _BLOCKS if all((count - 2) * b <= length <= (count + 1) * b for count, length in hashed)]
        exact = [b for b in _BLOCKS if all(count == -(-length // b) for count, length in hashed)]
        return next(iter([*exact, *fit]), _MOONCAKE_BLOCK)
    except (KeyError, TypeError, AttributeError):
        return _MOONCAKE_BLOCK


def _counts_seconds(first: list[tuple[str, Any]]) -> bool:
    """Whether timestamps are seconds since 1970: as milliseconds they would be days from the trace's beginning."""
    low, high = _EPOCH_S
    times = [data.get("timestamp") if isinstance(data, dict) else None for _, data in first]
    return bool(times) and all(isinstance(time, (int, float)) and low <= time < high for time in times)


def _row(path: str, where: str, data: Any, unit_s: float, block: int) -> Row:
    if not isinstance(data, dict):
        raise refused(path, where, f"is not a request: {_WANTED}")
    text = next((name for name in _TEXTS if name in data), None)
    if "input_length" not in data and text:
        message = f"holds text ('{text}'), which has no length before a tokenizer read it; give {_WANTED}"
        raise refused(path, where, message)
    turn = data.get("session_id") is not None or data.get("parent_chat_id", -1) not in (-1, None)
    if data.get("timestamp") is None and "input_length" in data:
        raise refused(path, where, _no_time(turn))
    try:
        prompt, answer = whole(data["input_length"]), whole(data["output_length"])
        segments = tuple(
            (whole(text), min(block, prompt - i * block))
            for i, text in enumerate(_listed(data.get("hash_ids")))
            if prompt > i * block
        )
        return Row(where, _arrival_s(data["timestamp"], unit_s), prompt, answer, segments, turn=turn)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise refused(path, where, f"is not a request: {_WANTED}") from None


def _listed(value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise TypeError
    return value or []


def _arrival_s(value: Any, unit_s: float) -> float:
    try:
        # Epochs of more digits than milliseconds have say their unit themselves.
        return moment_s(value) if abs(float(value)) >= _EPOCH_US else float(value) * unit_s
    except ValueError:
        return moment_s(value)


def _no_time(turn: bool) -> str:
    what = "this turn of a session" if turn else "the request"
    waits = ", and none waits for the answer before it ('delay')" if turn else ""
    return (
        f"{what} has no timestamp: requests of a trace come at times of their own{waits}; give it one (ms), or take "
        "its lengths alone: lengths: {kind: file, file: ...} with max_concurrency or request_rate"
    )


def objects(path: str, file: Any) -> Iterator[tuple[str, Any]]:
    """(where, value) of every object: of lines, several on a line among them, of a list, or over many lines."""
    decoder = json.JSONDecoder()
    for number, line in enumerate(file, 1):
        text, at = line.lstrip(), number
        if text[:1] == "[" or text.strip() == "{":
            # Not a line for each: the rest of the file goes with it.
            text += file.read()
        while text:
            try:
                value, end = decoder.raw_decode(text)
            except (ValueError, RecursionError) as error:
                last = at + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else at
                raise refused(path, f":{last}", f"is not a request: {_WANTED}") from None
            if isinstance(value, list):
                yield from ((f" entry {i}", item) for i, item in enumerate(value, 1))
            else:
                yield f":{at}", value
            at += text[:end].count("\n")
            text = text[end:].lstrip().removeprefix(",").lstrip()
