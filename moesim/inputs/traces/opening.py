"""A file of requests as text, and what keeps it from being read as a sentence."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moesim.files.json import require_small
from moesim.files.reading import GZIP, MIB, refused, require_file
from moesim.units import bytes_text

_MAGIC = {b"PAR1": "a Parquet file", b"PK\x03\x04": "a zip archive", b"(\xb5/\xfd": "compressed by zstd",
          b"ARRO": "an Arrow file"}  # fmt: skip
_LONGEST_LINE = 16 * MIB
_LARGEST_DOCUMENT = 32 * MIB
"""Of JSON that is no line for each request, and is held whole."""
_MOST_PACKED = 200
"""Times that a file may grow as it is unpacked, beyond the first of it."""


class Lines:
    """Text by the line, as a file has it; no line, and nothing that is packed, can fill the memory."""

    def __init__(self, path: str, file: Any, most_letters: float):
        self._path, self._file, self._most = path, file, most_letters

    def __iter__(self) -> Iterator[str]:
        left = self._most
        while line := self._file.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise refused(self._path, f"has a line of more than {bytes_text(_LONGEST_LINE)}")
            left -= len(line)
            if left < 0:
                raise refused(self._path, f"unpacks to more than {_MOST_PACKED} times its size")
            yield line

    def read(self) -> str:
        """All that is left."""
        text = self._file.read(_LARGEST_DOCUMENT + 1)
        if len(text) > _LARGEST_DOCUMENT:
            raise refused(
                self._path, f"is one document of more than {bytes_text(_LARGEST_DOCUMENT)}; JSON lines are read"
            )
        require_small(text, self._path)
        return text


@contextmanager
def opened(path: str) -> Iterator[tuple[Lines, bool]]:
    """(text, whether it is JSON), unpacked where it is gzip's. Raises SpecError, within as well."""
    size = require_file(Path(path)).stat().st_size
    try:
        file, packed = _text(path)
        with file:
            start = file.read(1)
            while start and start.isspace():
                start = file.read(1)
            file.seek(0)
            yield Lines(path, file, max(64 * MIB, _MOST_PACKED * size) if packed else float("inf")), start in {"{", "["}
    except UnicodeDecodeError as error:
        raise refused(path, f"is not UTF-8 text: {error.reason}") from None
    except csv.Error as error:
        raise refused(path, f"is no CSV table: {error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise refused(path, f"cannot be decompressed: {error}") from None
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror or error}") from None


def _text(path: str) -> tuple[Any, bool]:
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic in _MAGIC:
        raise refused(path, f"is {_MAGIC[magic]}; a CSV table or JSON lines are read")
    packed = magic[:2] == GZIP
    opener: Any = gzip.open if packed else open
    return opener(path, "rt", encoding="utf-8-sig", newline=""), packed
