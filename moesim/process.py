"""What a process of the command line owes its terminal, and whoever stops it."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from typing import Any

from moesim.errors import harmless

_PLAIN = {"█": "#", "▒": "+", "·": ".", "±": "+-", "µ": "u", "×": "x", "…": "...", "━": "-"}
"""What we print, where a terminal's characters (ASCII, a Windows code page) lack it."""
_ENDS = ("SIGTERM", "SIGHUP")


class _Shown(io.TextIOWrapper):
    """Text out, in which nothing that a file or a folder is called acts on a terminal."""

    def write(self, text: str) -> int:
        super().write(harmless(text))
        return len(text)


def settle() -> None:
    """Text that any terminal takes; whoever ends the process is answered as the keyboard's interrupt is."""
    codecs.register_error("moesim", _plain)
    if isinstance(sys.stdout, io.TextIOWrapper):
        lines = sys.stdout.line_buffering
        told, encoding, at_once = sys.stdout, sys.stdout.encoding, sys.stdout.write_through
        sys.stdout = sys.__stdout__ = _Shown(
            told.detach(), encoding, "moesim", line_buffering=lines, write_through=at_once
        )
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="moesim")
    for number in _signals():
        # What was told to be left alone (nohup) is.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stopped)


def as_usual() -> None:
    """A worker is ended by what ends a process."""
    for number in _signals():
        signal.signal(number, signal.SIG_DFL)


def leave(code: int) -> int:
    """Say the last of what is said, and nothing stops a process that is about to end: the code it ends with."""
    for number in (signal.SIGINT, *_signals()):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdout is None:
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        # What cannot be said is not tried again as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"moesim: standard output: {error.strerror or error}", file=sys.stderr)
            return 2
    return code


def _signals() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _ENDS if hasattr(signal, name)]


def _stopped(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end
