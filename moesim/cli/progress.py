"""Progress bars on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from moesim.inputs.scenario import Scenario

_WORTH_A_BAR = 5000


@contextmanager
def progress_of(scenario: Scenario) -> Iterator[Callable[[int], None] | None]:
    """A callback told of answered requests; None where a bar would only flicker, or nobody looks."""
    load = scenario.workload
    if load.arrivals == "batch" or not sys.stderr.isatty():
        yield None
        return
    from moesim.serving.requests import request_count

    count = request_count(load)
    if count is not None and count < _WORTH_A_BAR:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("requests", total=count)
        yield lambda answered: bar.update(task, completed=answered)


@contextmanager
def counted() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for work that is told as (what, done, of how many); silent where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda what, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def told(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of)
            bar.update(tasks[what], completed=done, total=of)

        yield told
