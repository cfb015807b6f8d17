"""GPUs and clusters by name, alias or file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.errors import Problem, SpecError
from moesim.files import yaml
from moesim.files.names import named_file, names_of
from moesim.files.validation import read_as
from moesim.hardware.hardware import Hardware


def hardware_files() -> list[Path]:
    """Every shipped file of a GPU or a cluster."""
    return [*sorted(paths.HWSPECS.glob("*.yaml")), *sorted(paths.CLUSTERS.glob("*.yaml"))]


@lru_cache(maxsize=1)
def _hardware_names() -> dict[str, Path]:
    return names_of(hardware_files())


def load_hardware(name: str) -> Hardware:
    """A GPU or a cluster of them by name, alias or file. Raises SpecError."""
    path = named_file(name, paths.HWSPECS, "hardware", _hardware_names())
    stamp = path.stat().st_mtime_ns
    return _load_cluster(path, stamp) if _is_cluster(path, stamp) else _load_hardware(path, stamp)


@lru_cache(maxsize=64)
def _is_cluster(path: Path, _stamp: int) -> bool:
    return any(line.startswith("node:") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())


@lru_cache(maxsize=64)
def _load_hardware(path: Path, _stamp: int) -> Hardware:
    return read_as(Hardware, path)[0]


def _load_cluster(path: Path, stamp: int) -> Hardware:
    """The GPU a cluster file names, in that cluster."""
    cluster, document = _parsed_cluster(path, stamp)
    beside = path.parent / cluster.gpu
    try:
        gpu = load_hardware(str(beside) if beside.is_file() else cluster.gpu)
    except SpecError as error:
        raise SpecError([Problem(p.message, p.where or document.where(("gpu",))) for p in error.problems]) from None
    if gpu.cluster:
        raise SpecError([Problem(f"'{cluster.gpu}' is a cluster; a GPU is expected", document.where(("gpu",)))])
    return _within(gpu, cluster)


@lru_cache(maxsize=64)
def _parsed_cluster(path: Path, _stamp: int) -> tuple[Any, yaml.Document]:
    from moesim.hardware.cluster import Cluster

    return read_as(Cluster, path)


@lru_cache(maxsize=64)
def _within(gpu: Hardware, cluster: Any) -> Hardware:
    return gpu.within(cluster)
