"""A file of requests as text, and what keeps it from being read as a sentence."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moesim.errors import Problem, SpecError

_MAGIC = {b"PAR1": "a Parquet file", b"PK\x03\x04": "a zip archive", b"(\xb5/\xfd": "compressed by zstd",
          b"ARRO": "an Arrow file"}  # fmt: skip


@contextmanager
def opened(path: str) -> Iterator[tuple[Any, bool]]:
    """(text, whether it is JSON), unpacked where it is gzip's. Raises SpecError, within as well."""
    try:
        with _text(path) as file:
            start = file.read(1)
            while start and start.isspace():
                start = file.read(1)
            file.seek(0)
            yield file, start in {"{", "["}
    except UnicodeDecodeError as error:
        raise SpecError([Problem(f"is not UTF-8 text: {error.reason}", path)]) from None
    except csv.Error as error:
        raise SpecError([Problem(f"is no CSV table: {error}", path)]) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SpecError([Problem(f"cannot be decompressed: {error}", path)]) from None
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror or error}", path)]) from None


def _text(path: str) -> Any:
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic in _MAGIC:
        raise SpecError([Problem(f"is {_MAGIC[magic]}; a CSV table or JSON lines are read", path)])
    opener: Any = gzip.open if magic[:2] == b"\x1f\x8b" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")
