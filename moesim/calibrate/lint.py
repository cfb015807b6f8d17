"""Whether a dataset can be built on: a whole data sheet, tables that match their hashes, rows that can be times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.calibrate.dataset import META, UNITS, Dataset, content_sha256
from moesim.calibrate.dataset_file import DatasetFile
from moesim.errors import Problem, SpecError
from moesim.files import yaml
from moesim.files.validation import validated

if TYPE_CHECKING:
    import pandas as pd

_MEASURED = {"copies", "seconds", "seconds_q1", "seconds_q3", "samples", "notify_seconds"}


def lint(dataset: Dataset) -> list[Problem]:
    """Everything wrong with a dataset, each where it is; empty where nothing is."""
    document = yaml.read(dataset.folder / META)
    sheet, problems = validated(DatasetFile, document.data, document)
    if sheet is None:
        return problems
    for name in sorted(set(sheet.tables) - set(dataset.tables)):
        where = document.where(("tables", name))
        problems.append(Problem(f"'{name}' has no file {name}.parquet beside the data sheet", where))
    for name in dataset.tables:
        path = str(dataset.path(name))
        if name not in sheet.tables:
            problems.append(Problem(f"is not in {META}; every table must be", path))
            continue
        try:
            table = dataset.table(name)
        except SpecError as error:
            problems += error.problems
            continue
        if content_sha256(table) != sheet.tables[name].sha256:
            problems.append(Problem(f"its rows are not those whose hash {META} has", path))
        problems += [Problem(message, path) for message in _wrong_rows(table, sheet.units)]
    return problems


def _wrong_rows(table: pd.DataFrame, units: dict[str, str]) -> list[str]:
    found = []
    import pandas as pd

    if "seconds" not in table:
        return ["has no column 'seconds'"]
    quartiles = {"seconds_q1", "seconds_q3"} & set(table.columns)
    words = [name for name in ("seconds", *sorted(quartiles)) if not pd.api.types.is_numeric_dtype(table[name])]
    if words:
        return [f"the column '{words[0]}' holds no numbers"]
    if len(quartiles) == 1:
        return ["has one of seconds_q1 and seconds_q3; both or neither are expected"]
    seconds = table["seconds"].to_numpy(float)
    bad = ~(np.isfinite(seconds) & (seconds > 0))
    if bad.any():
        found.append(f"{int(bad.sum())} rows hold no positive time, the first is row {int(np.argmax(bad))}")
    if "seconds_q1" in table and not (table["seconds_q1"] <= table["seconds_q3"]).all():
        found.append("quartiles are the wrong way round")
    missing = [column for column in table.columns if column in UNITS and column not in units]
    if missing:
        found.append(f"the column '{missing[0]}' has no unit in {META}; {UNITS[missing[0]]} is expected")
    keys = [column for column in table.columns if column not in _MEASURED]
    if not keys:
        return [*found, "has no column that says what was timed"]
    twice = int(table.duplicated(keys).sum())
    if twice:
        found.append(f"{twice} points stand there more than once")
    return found
