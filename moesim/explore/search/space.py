"""Everything a search tries: systems, formats, amounts on the GPU, and each system's other knobs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from moesim.hardware.hardware import Hardware
from moesim.inputs.offload import AMOUNTS
from moesim.inputs.system_file import System, load_system, systems
from moesim.models.model import Model

_MOST_AMOUNTS = 25


def space(model: Model, hardware: Hardware, names: tuple[str, ...] = (), gpus: int = 1) -> Iterator[dict[str, Any]]:
    """Settings of ``offload`` on so many GPUs, one configuration each; all systems that ship where none is named."""
    for name in names or systems():
        system = load_system(name)
        by_layer = system.policy.unit == "layer" or "n_gpu_layers" in system.knobs
        if model.moe is not None or by_layer:
            yield from _of_system(name, system, model, hardware, gpus)


def _of_system(name: str, system: System, model: Model, hardware: Hardware, gpus: int) -> Iterator[dict[str, Any]]:
    searched, dense = system.search, model.moe is None
    amount_name = "n_gpu_layers" if dense and system.policy.unit != "layer" else searched.amount
    # What experts' knobs do, a dense model does not have.
    keys = [] if dense else list(searched.others)
    for (experts, attention), others in itertools.product(
        searched.formats, itertools.product(*(searched.others[key] for key in keys))
    ):
        for amount in amounts(amount_name, model, hardware, gpus):
            yield {
                "system": name, "experts_format": experts, "attention_format": attention,
                amount_name: amount, **dict(zip(keys, others, strict=True)),
            }  # fmt: skip


def ways_of(tried: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Numbers of GPUs and settings, those that follow each other and differ in their amount alone put together."""

    def way(item: tuple[int, dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        gpus, settings = item
        return gpus, {key: None if key in AMOUNTS else value for key, value in settings.items()}

    for (gpus, _), items in itertools.groupby(tried, way):
        yield gpus, [settings for _, settings in items]


def amounts(name: str, model: Model, hardware: Hardware, gpus: int = 1) -> list[Any]:
    """The range of a setting that says how much stays on the GPU, at most 25 values."""
    if name == "device_memory_ratio":
        return [round(x, 2) for x in np.arange(0.1, 1.0, 0.05).tolist()]
    if name == "gpu_memory":
        total = hardware.gpu.memory.value
        return [total * share for share in np.linspace(0.1, 1.0, _MOST_AMOUNTS).tolist()]
    if name == "cpu_offload_gb":
        return [round(total) for total in (np.linspace(0, 1, _MOST_AMOUNTS) * 2.0 * model.parameters / gpus).tolist()]
    ffns = [g.routed for g in model.layers for _ in range(g.count) if g.routed is not None]
    experts = ffns[0].num_experts if ffns else 0
    most = {
        "experts_on_gpu": experts, "offload_per_layer": experts, "n_cpu_moe": model.num_hidden_layers,
        "resident_experts": sum(f.num_experts for f in ffns), "n_gpu_layers": model.num_hidden_layers,
    }[name]  # fmt: skip
    if name == "experts_on_gpu":
        # A fraction is a mean over layers.
        return np.round(np.linspace(0, most, _MOST_AMOUNTS), 2).tolist()
    values = np.unique(np.linspace(0, most, min(most + 1, _MOST_AMOUNTS)).round().astype(int))
    return values.tolist()
