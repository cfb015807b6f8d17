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
_MOST_BYTES = 200 * MIB
_AT_ONCE = 8192


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(require_file(source) if isinstance(source, Path) else io.BytesIO(source))
        if file.metadata.num_rows > _MOST_ROWS:
            raise SpecError([Problem(f"has {file.metadata.num_rows:,} rows; {_MOST_ROWS:,} at most are read", where)])
        batches, size = [], 0
        for batch in file.iter_batches(_AT_ONCE):
            size += batch.nbytes
            if size > _MOST_BYTES:
                raise SpecError([Problem(f"unpacks to more than {bytes_text(_MOST_BYTES)}", where)])
            batches.append(batch)
        return pa.Table.from_batches(batches, schema=file.schema_arrow).to_pandas()
    except SpecError:
        raise
    except Exception as error:
        # pyarrow raises what it likes at a broken file.
        raise SpecError([Problem(f"is no Parquet table: {str(error).partition(chr(10))[0]}", where)]) from None
