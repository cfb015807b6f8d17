"""``moesim hardware``, ``scenarios``, ``systems`` and ``schema``: what ships."""

from __future__ import annotations

import argparse
import json
from typing import Any


def catalogue_commands(commands: Any) -> None:
    for name, about, run in (
        ("hardware", "list the GPUs, clusters and hosts that ship", _hardware),
        ("scenarios", "list the scenarios that ship, each one idea", _scenarios),
        ("systems", "list the offloading systems and their knobs", _systems),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--json", action="store_true", help="print the list as JSON, in SI units")
        command.set_defaults(run=run)
    about = "print the JSON Schema of scenario files, for editors"
    commands.add_parser("schema", help=about, description=about).set_defaults(run=_schema)


def _hardware(options: argparse.Namespace, rest: list[str]) -> int:
    found = {"gpus": _gpus(), "clusters": _clusters(), "hosts": _hosts()}
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{'GPU':26}{'bf16 TFLOP/s':>13}{'TB/s':>7}{'GiB':>8}  calibration")
    for gpu in found["gpus"]:
        own = ", ".join(gpu["calibration"]) or "none of its own: the nearest GPU's, intervals widened"
        flop, hbm, memory = gpu["dense_bf16"] / 1e12, gpu["hbm_bandwidth"] / 1e12, gpu["memory"] / 2**30
        print(f"{gpu['name']:26}{flop:>13.1f}{hbm:>7.2f}{memory:>8.1f}  {own}")
    print(f"\n{'cluster':26}{'nodes':>6}{'GPUs':>6}  GPU")
    for cluster in found["clusters"]:
        print(f"{cluster['name']:26}{cluster['nodes']:>6}{cluster['gpus']:>6}  {cluster['gpu']}")
    print(f"\n{'host':26}{'DRAM GB/s':>10}{'GiB':>7}{'cores':>7}")
    for host in found["hosts"]:
        dram, memory = host["dram_bandwidth"] / 1e9, host["dram"] / 2**30
        print(f"{host['name']:26}{dram:>10.1f}{memory:>7.0f}{host['cores']:>7.0f}")
    return 0


def _gpus() -> list[dict[str, Any]]:
    from moesim import paths
    from moesim.cost.sources import stacks_of
    from moesim.hardware.catalogue import load_hardware

    names = [path.stem for path in sorted(paths.HWSPECS.glob("*.yaml"))]
    cards = {name: load_hardware(name).gpu for name in names}
    return [
        {"name": name, "dense_bf16": gpu.dense_bf16.value, "hbm_bandwidth": gpu.hbm_bandwidth.value,
         "memory": gpu.memory.value, "power": gpu.power.value, "calibration": list(stacks_of(name))}
        for name, gpu in cards.items()
    ]  # fmt: skip


def _clusters() -> list[dict[str, Any]]:
    from moesim import paths
    from moesim.hardware.catalogue import load_hardware

    found = {path.stem: load_hardware(path.stem) for path in sorted(paths.CLUSTERS.glob("*.yaml"))}
    return [
        {"name": name, "nodes": one.gpus // one.gpus_per_node, "gpus": one.gpus, "gpu": one.name}
        for name, one in found.items()
    ]


def _hosts() -> list[dict[str, Any]]:
    from moesim import paths
    from moesim.hardware.host import load_host

    found = {path.stem: load_host(path.stem) for path in sorted(paths.HOSTS.glob("*.yaml"))}
    return [
        {"name": name, "dram_bandwidth": host.dram.bandwidth.value, "dram": host.dram.capacity.value,
         "cores": host.cpu.cores.value}
        for name, host in found.items()
    ]  # fmt: skip


def _scenarios(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim import paths

    found = []
    for path in paths.shipped_scenarios():
        # Each file begins with what it shows.
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        about = first.removeprefix("#").strip() if first.startswith("#") else ""
        found.append({"name": path.stem, "about": about})
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{one['name']:34}{one['about']}".rstrip() for one in found))
    return 0


def _systems(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.inputs.system_file import load_system, systems

    found = []
    for name in systems():
        system = load_system(name)
        policy = system.policy
        found.append({"name": name, "unit": policy.unit, "cache": policy.cache, "prefetch": policy.prefetch,
                      "missing": policy.missing, "knobs": list(system.knobs)})  # fmt: skip
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{'system':20}{'moves':8}{'cache':8}{'guesses':14}{'missing':9}knobs")
    for one in found:
        words = (one[key] or "none" for key in ("unit", "cache", "prefetch", "missing"))
        unit, cache, prefetch, missing = words
        print(f"{one['name']:20}{unit:8}{cache:8}{prefetch:14}{missing:9}{', '.join(one['knobs'])}")
    return 0


def _schema(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.report.schema import schema_text

    print(schema_text(), end="")
    return 0
