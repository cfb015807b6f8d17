"""Parquet tables, none larger than memory should hold."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.errors import Problem, SpecError
from moesim.files.reading import MIB, require_file
from moesim.units import bytes_text

if TYPE_CHECKING:
    import pandas as pd

_MOST_ROWS = 5_000_000
_MOST_BYTES = 400 * MIB


def read_parquet(source: Path | bytes, where: str) -> pd.DataFrame:
    """A table from a file, or from the bytes of one.

    Parameters
    ----------
    where : str
        What messages call it.

    Raises
    ------
    SpecError
        No Parquet table, or one too large.
    """
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(require_file(source) if isinstance(source, Path) else io.BytesIO(source))
        about = file.metadata
        size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        if about.num_rows > _MOST_ROWS or size > _MOST_BYTES:
            message = f"is a table of {about.num_rows:,} rows and {bytes_text(size)}, which is too large"
            raise SpecError([Problem(message, where)])
        return file.read().to_pandas()
    except SpecError:
        raise
    except Exception as error:
        # pyarrow raises what it likes at a broken file.
        raise SpecError([Problem(f"is no Parquet table: {str(error).partition(chr(10))[0]}", where)]) from None
