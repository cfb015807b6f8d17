"""What would fit: the nearest changes of a scenario that leave room, or that keep an offloaded one in its tiers."""

from __future__ import annotations

from typing import Any

from moesim.assembly import assemble, room_of
from moesim.errors import SpecError
from moesim.inputs.model_of import model_of
from moesim.inputs.offload import AMOUNTS
from moesim.inputs.scenario import Scenario
from moesim.memory import Room


def ways_out(scenario: Scenario) -> tuple[str, ...]:
    """The nearest changes that fit: more TP, another precision, a smaller batch, fewer tokens."""
    tp, load = scenario.engine.tensor_parallel_size, scenario.workload
    found: list[str] = []
    for name, changes in (
        *((f"tensor_parallel_size {n}", {"tensor_parallel_size": n}) for n in (2 * tp, 4 * tp, 8 * tp)),
        *((f"quantization {q}", {"quantization": q}) for q in ("fp8", "int4")),
        ("kv_cache_dtype fp8", {"kv_cache_dtype": "fp8"}),
        *((f"tensor_parallel_size {n} with quantization {q}", {"tensor_parallel_size": n, "quantization": q})
          for n in (2 * tp, 4 * tp, 8 * tp) for q in ("fp8", "int4")),
    ):  # fmt: skip
        if " with " in name and found:
            break
        room = _room_if(scenario, changes)
        if room and room.fits and not (name.startswith("tensor") and any(f.startswith("tensor") for f in found)):
            found.append(name)
    here = _room_if(scenario, {})
    if here and here.largest_batch >= 1 and load.arrivals == "batch":
        found.append(f"batch_size {here.largest_batch}")
    output = load.longest()[1]
    if here and here.longest_context > output + 1 and not model_of(scenario).has_encoder:
        found.append(f"input_len {here.longest_context - output}")
    return tuple(found)


def offload_ways_out(scenario: Scenario) -> tuple[str, ...]:
    """The nearest changes under which an offloaded scenario fits: fewer experts on the GPU, narrower ones, a host."""
    from moesim.inputs.system_file import load_system

    offload, found = scenario.offload, []
    if offload is None:
        return ()
    amount = next((name for name in AMOUNTS if getattr(offload, name) is not None), None)
    changes: list[tuple[str, dict[str, Any]]] = []
    if amount is not None:
        changes.append((f"without offload.{amount} (as much on the GPU as fits)", {f"offload.{amount}": None}))
    formats = dict.fromkeys(experts for experts, _ in load_system(offload.system).search.formats)
    changes += [(f"offload.experts_format {name}", {"offload.experts_format": name}) for name in formats]
    changes += [(f"host {name}", {"host": name}) for name in ("workstation-ddr4", "server-sapphire-rapids")]
    load = scenario.workload
    for name, value in (("input_len", load.input_len or 1), ("batch_size", load.size)):
        changes += [(f"{name} {value >> n}", {name: value >> n}) for n in range(1, 12) if value >> n]
    for text, change in changes:
        if any(text.split()[0] == other.split()[0] and text[:5] in ("input", "batch") for other in found):
            continue
        try:
            parts = assemble(scenario.with_(**change))
        except SpecError:
            continue
        if parts.offload is not None and parts.offload.tiers.fits:
            found.append(text)
    return tuple(found)


def _room_if(scenario: Scenario, changes: dict[str, Any]) -> Room | None:
    try:
        changed = scenario.with_(**changes) if changes else scenario
    except SpecError:
        return None
    return room_of(changed, assemble(changed))
