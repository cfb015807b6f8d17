"""Work spread over processes of this machine, or over a cluster that joblib reaches."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar

from moesim.errors import Problem, SpecError
from moesim.process import as_usual

In = TypeVar("In")
Out = TypeVar("Out")
BACKENDS = ("processes", "loky", "threading", "dask", "ray")
"""concurrent.futures, which needs nothing, and joblib's."""


class Pool(Protocol):
    """Workers."""

    jobs: int

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """What ``function`` makes of every item, in their order, as it comes."""
        ...


class _Here:
    """This process alone."""

    jobs = 1

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        return map(function, items)


class _Processes:
    def __init__(self, jobs: int, executor: ProcessPoolExecutor):
        self.jobs, self._executor = jobs, executor

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        # A few ahead of what is taken, so that any number of items takes little memory.
        waiting: list[Any] = []
        for item in items:
            waiting.append(self._executor.submit(function, item))
            if len(waiting) > 4 * self.jobs:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


class _Joblib:
    def __init__(self, jobs: int, parallel: Any, delayed: Callable[..., Any]):
        self.jobs, self._parallel, self._delayed = jobs, parallel, delayed

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        return self._parallel(self._delayed(function)(item) for item in items)


def _left_alone() -> None:
    """A worker leaves the keyboard's interrupt to the one who asks, and does not outlive it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    as_usual()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def usual_jobs() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def pool(jobs: int = 1, backend: str = "processes", scheduler: str | None = None) -> Iterator[Pool]:
    """Workers for the length of a block.

    Parameters
    ----------
    jobs : int
        How many; 0 is as many as there are processors. A cluster has its own number.
    backend : str
        One of ``BACKENDS``.
    scheduler : str, optional
        Address of a dask scheduler or a ray cluster; null starts one here.

    Raises
    ------
    SpecError
        An unknown backend, or an address that no backend takes.
    ModuleNotFoundError
        The backend's package is not installed.
    """
    check_pool(jobs, backend, scheduler)
    jobs = jobs or usual_jobs()
    if backend == "processes":
        if jobs == 1:
            yield _Here()
            return
        with ProcessPoolExecutor(jobs, initializer=_left_alone) as executor:
            try:
                yield _Processes(jobs, executor)
            except BaseException:
                # What a worker has begun it ends, so that no file of its own is left half written.
                executor.shutdown(wait=False, cancel_futures=True)
                raise
        return
    with _cluster(backend, scheduler, jobs):
        import joblib

        with joblib.parallel_config(backend=backend, n_jobs=-1 if backend in _CLUSTERS else jobs):
            yield _Joblib(jobs, joblib.Parallel(return_as="generator"), joblib.delayed)


_CLUSTERS = ("dask", "ray")


def check_pool(jobs: int, backend: str, scheduler: str | None) -> None:
    """Raise SpecError or ModuleNotFoundError before any work."""
    import importlib

    if backend not in BACKENDS:
        raise SpecError([Problem(f"'{backend}' is not a backend; {', '.join(BACKENDS)} are", "--backend")])
    if not 0 <= jobs <= 4096:
        raise SpecError(
            [Problem(f"{jobs} is no number of processes; 0 (all processors) to 4096 is accepted", "--jobs")]
        )
    if scheduler is not None and backend not in _CLUSTERS:
        raise SpecError([Problem("an address is of a dask or ray cluster; give --backend too", "--scheduler")])
    if backend != "processes":
        importlib.import_module("joblib")
    if backend in _CLUSTERS:
        importlib.import_module("distributed" if backend == "dask" else "ray")


@contextmanager
def _cluster(backend: str, scheduler: str | None, jobs: int) -> Iterator[None]:
    if backend == "dask":
        from distributed import Client

        def client() -> Any:
            if scheduler is not None:
                return Client(scheduler)
            return Client(n_workers=jobs, threads_per_worker=1, dashboard_address=None)

        try:
            found = client()
        except OSError as error:
            raise SpecError([Problem(f"no scheduler answers at '{scheduler}' ({error})", "--scheduler")]) from None
        with found:
            yield
    elif backend == "ray":
        import ray  # pyright: ignore[reportMissingImports]
        from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]

        ray.init(address=scheduler, num_cpus=None if scheduler else jobs, log_to_driver=False)
        register_ray()
        try:
            yield
        finally:
            ray.shutdown()
    else:
        yield
