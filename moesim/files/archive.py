"""Members of zip archives (wheels): read, never unpacked, none larger than asked for."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from moesim.errors import SpecError
from moesim.files.parquet import read_parquet
from moesim.files.reading import MIB, refused, require_file
from moesim.units import bytes_text

if TYPE_CHECKING:
    import pandas as pd

_MOST_BYTES = 64 * MIB
_MOST_NAMES = 200_000


class Archive:
    """An open archive. Raises SpecError for whatever keeps it, or a member, from being read."""

    def __init__(self, path: Path):
        self.path = require_file(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise refused(path, f"is not a wheel file: {error}") from None
        self.names = self._zip.namelist()
        if len(self.names) > _MOST_NAMES:
            raise refused(path, f"has {len(self.names):,} members; {_MOST_NAMES:,} at most are read")

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        """A member whole."""
        try:
            with self._zip.open(name) as member:
                data = member.read(_MOST_BYTES + 1)
        except KeyError:
            raise refused(self.path, f"has no member {name}") from None
        except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise self._refused(name, f"cannot be read: {error}") from None
        if len(data) > _MOST_BYTES:
            raise self._refused(name, f"unpacks to more than {bytes_text(_MOST_BYTES)}, which is the most that is read")
        return data

    def text(self, name: str) -> str:
        """A member of text."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError:
            raise self._refused(name, "is not UTF-8 text") from None

    def parquet(self, name: str) -> pd.DataFrame:
        """A member that is a table."""
        return read_parquet(self.read(name), f"{self.path}: {name}")

    def _refused(self, name: str, message: str) -> SpecError:
        return refused(f"{self.path}: {name}", message)
