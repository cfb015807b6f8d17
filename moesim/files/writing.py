"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moesim.errors import Problem, SpecError
from moesim.locks import lock

HALF = ".part"
"""Ends the name of what is being written, and of what a kill has left of it."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` to write into; it takes the place of ``path`` once the block ends well.

    Nobody else has its name, so that writers never meet in it, and it is gone where the block fails. A link stays one:
    what it points at is replaced.

    Raises
    ------
    OSError
        Of ``path`` and not of the new file: no folder can be made, the disk is full, or the name is taken by what is no
        file.
    """
    target = Path(os.path.realpath(path))
    with _said_of(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(target)
    half = half_of(target)
    with _said_of(path, half):
        try:
            os.close(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            yield half
            with half.open("rb+") as file:
                os.fsync(file.fileno())
            if mode is not None:
                half.chmod(mode)
            half.replace(target)
        finally:
            half.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path, target: Path) -> Iterator[None]:
    """Keep other processes from writing ``target`` by way of ``folder`` for the length of a block.

    Where a system has no such locks (Windows), nothing keeps them.

    Raises
    ------
    SpecError
        Another process writes it now.
    """
    if os.name == "nt":
        # A folder cannot be opened there.
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            lock(held)
        except BlockingIOError:
            raise SpecError([Problem("another process writes it now", str(target))]) from None
        yield
    finally:
        os.close(held)


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole(path) as half, half.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def half_of(target: Path) -> Path:
    """Where something stands beside its target while it is written, hidden and under a name of its own."""
    return target.with_name(f".moesim-{secrets.token_hex(8)}{HALF}")


def _mode(target: Path) -> int | None:
    """Permissions of the file that is replaced; None where there is none."""
    try:
        found = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OSError(None, "is no file that can be replaced")
    return stat.S_IMODE(found.st_mode)


@contextmanager
def _said_of(path: Path, half: Path | None = None) -> Iterator[None]:
    """Errors name the file that was asked for, not the one that is written first."""
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(half), half) or half is None:
            raise type(error)(error.errno, error.strerror or str(error), str(path)) from None
        raise
