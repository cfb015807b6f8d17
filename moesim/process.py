"""What a process of the command line owes its terminal, and whoever stops it."""

from __future__ import annotations

import codecs
import io
import signal
import sys
from typing import Any

_PLAIN = {"█": "#", "▒": "+", "·": ".", "±": "+-", "µ": "u", "×": "x", "…": "...", "━": "-"}
"""What we print, where a terminal's characters (ASCII, a Windows code page) lack it."""
_ENDS = ("SIGTERM", "SIGHUP")


def settle() -> None:
    """Text that any terminal takes; whoever ends the process is answered as the keyboard's interrupt is."""
    codecs.register_error("moesim", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="moesim")
    for number in _signals():
        # What was told to be left alone (nohup) is.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stopped)


def leave() -> None:
    """Nothing stops a process that is about to end."""
    for number in (signal.SIGINT, *_signals()):
        signal.signal(number, signal.SIG_IGN)


def _signals() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _ENDS if hasattr(signal, name)]


def _stopped(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end
