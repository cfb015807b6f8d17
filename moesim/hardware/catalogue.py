"""GPUs and clusters by name, alias, file, or count and card."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from moesim import paths
from moesim.errors import Problem, SpecError
from moesim.files.document import Document
from moesim.files.names import names_of, own_file, squeezed, unknown
from moesim.files.validation import read_as
from moesim.hardware.changed import changed, parted
from moesim.hardware.cluster import Cluster
from moesim.hardware.counted import cluster_of, readings
from moesim.hardware.hardware import Hardware

_BRANDS = ("nvidia", "amd", "google", "geforce", "tesla", "instinct")


def hardware_files() -> list[Path]:
    """Every shipped file of a GPU or a cluster."""
    return [*sorted(paths.HWSPECS.glob("*.yaml")), *sorted(paths.CLUSTERS.glob("*.yaml"))]


def bare(name: str) -> str:
    """A name without its maker and brand: what a driver, a shop and a user call alike."""
    found = squeezed(name)
    while brand := next((b for b in _BRANDS if found.startswith(b) and found != b), None):
        found = found.removeprefix(brand)
    return found


@lru_cache(maxsize=1)
def _hardware_names() -> dict[str, Path]:
    return {bare(name): path for name, path in names_of(hardware_files()).items()}


def _named(name: str) -> Path | None:
    """The shipped file a name means; "4090" is an RTX 4090, "80G" 80 GB."""
    names, found = _hardware_names(), bare(name)
    return names.get(found) or names.get(f"rtx{found}") or (names.get(f"{found}b") if found.endswith("g") else None)


def load_hardware(name: str) -> Hardware:
    """A GPU or a cluster of them by name, alias, file, or count and card ("8xH100"), changed as it says.

    Raises SpecError.
    """
    if name.endswith("]") or ("[" in name and not name.endswith((".yaml", ".yml"))):
        apart = parted(name)
        if apart is None:
            raise SpecError(f"'{name[:80]}' is no changed GPU; NAME[FIELD*FACTOR, ...], like h100[hbm_bandwidth*2], is")
        return _changed(load_hardware(apart[0]), tuple(apart[1].items()))
    path = _named(name)
    if path is None:
        for count, card in readings(name):
            if (gpu := _named(card)) is not None:
                return _counted(name, count, gpu)
        path = own_file(name, "hardware")
    if path is None:
        spelled = [bare(one) for one in (name, *(card for _, card in readings(name)))]
        raise unknown(name, spelled, _hardware_names(), "hardware")
    return _load(path)


@lru_cache(maxsize=256)
def _changed(hardware: Hardware, factors: tuple[tuple[str, float], ...]) -> Hardware:
    return changed(hardware, dict(factors))


def _load(path: Path) -> Hardware:
    stamp = path.stat().st_mtime_ns
    return _load_cluster(path, stamp) if _is_cluster(path, stamp) else _load_hardware(path, stamp)


def _counted(name: str, count: int, path: Path) -> Hardware:
    card = _load(path)
    if card.cluster:
        raise SpecError(f"'{name}' counts a cluster; a GPU is counted, as in {count * card.gpus}x{card.name}")
    shipped = [_load(file) for file in hardware_files() if _gpu_of(file, file.stat().st_mtime_ns) == path]
    return _within(card, cluster_of(card, count, [hardware.cluster for hardware in shipped]))


@lru_cache(maxsize=256)
def _gpu_of(path: Path, _stamp: int) -> Path | None:
    """The shipped GPU of a cluster file; None where it is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2] for line in lines if line.startswith("gpu: ")), "")
    return _named(name) if name else None


@lru_cache(maxsize=256)
def _is_cluster(path: Path, _stamp: int) -> bool:
    return any(line.startswith("node:") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())


@lru_cache(maxsize=256)
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


@lru_cache(maxsize=256)
def _parsed_cluster(path: Path, _stamp: int) -> tuple[Cluster, Document]:
    return read_as(Cluster, path)


@lru_cache(maxsize=256)
def _within(gpu: Hardware, cluster: Cluster) -> Hardware:
    return gpu.within(cluster)
