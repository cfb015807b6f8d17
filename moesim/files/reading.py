"""The door for files that others wrote: regular ones alone, none larger than asked for, and text that is text."""

from __future__ import annotations

import gzip
import io
import stat
import zlib
from pathlib import Path

from moesim.errors import Problem, SpecError
from moesim.units import bytes_text

MIB = 1 << 20
GZIP = b"\x1f\x8b"


def require_file(path: Path, most_bytes: float = float("inf")) -> Path:
    """The path of a regular file that is there and not too large. Raises SpecError.

    Devices and pipes may never end, and cannot be read twice.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise refused(path, "there is no such file") from None
    except OSError as error:
        raise refused(path, f"cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise refused(path, "no file has a NUL in its name") from None
    if stat.S_ISDIR(found.st_mode):
        raise refused(path, "is a folder; a file is expected")
    if not stat.S_ISREG(found.st_mode):
        raise refused(path, "is a device, a pipe or a socket; regular files alone are read")
    if found.st_size > most_bytes:
        raise refused(path, f"is {bytes_text(found.st_size)}; {bytes_text(most_bytes)} at most are read")
    return path


def expanded(name: str) -> Path:
    """A path with ``~`` replaced by a home, where there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def bytes_of(path: Path, most_bytes: int) -> bytes:
    """All of a file. Raises SpecError."""
    try:
        with require_file(path, most_bytes).open("rb") as file:
            return file.read(most_bytes)
    except OSError as error:
        raise refused(path, f"cannot be read ({error.strerror or error})") from None


def text_of(path: Path, what: str, most_bytes: int = MIB) -> str:
    """All of a text file, a byte order mark left out.

    Parameters
    ----------
    what : str
        What is expected, for the message: ``"a YAML file"``.

    Raises
    ------
    SpecError
        No regular file, too large, not UTF-8.
    """
    return _text(path, bytes_of(path, most_bytes), what)


def unpacked_text_of(path: Path, what: str, most_bytes: int) -> str:
    """The same of a file that gzip may have packed; ``most_bytes`` unpacked. Raises SpecError."""
    data = bytes_of(path, most_bytes)
    if data[:2] == GZIP:
        try:
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(most_bytes + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise refused(path, f"cannot be decompressed: {error}") from None
        if len(data) > most_bytes:
            raise refused(path, f"unpacks to more than {bytes_text(most_bytes)}, which is the most that is read")
    return _text(path, data, what)


def refused(path: Path | str, message: str) -> SpecError:
    """The error of one file."""
    return SpecError([Problem(message, str(path))])


def _text(path: Path, data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise refused(path, f"is not UTF-8 text; {what} is expected") from None
