"""Every command that writes, small; what can happen to one while it does; and what must hold then."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from moesim import paths
from moesim.campaign.file import Campaign

ENDS = (0, 2, 3, 4, 5, 130)
_BENCH = {
    "backend": "vllm", "model_id": "Qwen/Qwen1.5-MoE-A2.7B", "num_prompts": 10, "request_rate": "inf",
    "max_concurrency": 4, "duration": 12.5, "completed": 10, "total_input_tokens": 5120, "total_output_tokens": 1280,
    "request_throughput": 0.8, "output_throughput": 102.4, "mean_ttft_ms": 50.1, "mean_tpot_ms": 9.5,
}  # fmt: skip
_NV = {"nvbandwidth": {"version": "v0.7", "testcases": [
    {"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["55.1"]]}]}}  # fmt: skip
_SERVED = (
    "model: Qwen1.5-MoE-A2.7B\nhardware: h100-sxm\nworkload: {max_concurrency: 4, input_len: 512, output_len: 128}\n"
)
_CAMPAIGN = (
    "vllm: '0.25.1'\ncalls:\n  a:\n    - engine: {model: OLMoE-1B-7B-0924, batches: ['1,2:16:4'], max_model_len: 512}\n"
)
_DIGEST = Campaign.model_validate(yaml.safe_load(_CAMPAIGN)).digest[:8]


@dataclass(frozen=True)
class Command:
    """A command and what it writes, in a folder of its own."""

    words: tuple[str, ...]
    writes: tuple[str, ...]
    needs: dict[str, str] = field(default_factory=dict)
    """Files it reads -> their text."""

    @property
    def name(self) -> str:
        return " ".join(self.words)[:60]

    def prepare(self, folder: Path) -> None:
        for name, text in self.needs.items():
            (folder / name).write_text(text, encoding="utf-8")

    def started(self, folder: Path, *before: str, **more: object) -> subprocess.Popen[str]:
        """The command as a process of a session of its own, in ``folder``."""
        words = [*before, sys.executable, "-m", "moesim", *self.words]
        environment = {**os.environ, "PYTHONPATH": str(paths.ROOT), "MPLBACKEND": "agg"}
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, start_new_session=True, **more)  # fmt: skip


_SHORT = ("--osl", "4", "--isl", "64")
COMMANDS = (
    Command(("predict", "mixtral_tp4", "--conc", "4", "--num-prompts", "20", *_SHORT, "--timeline", "t.json"),
            ("t.json",)),
    Command(("predict", "fiddler_rtx_4090", "--osl", "4", "--lanes", "lanes.svg"), ("lanes.svg",)),
    Command(("sweep", "mixtral_tp4", "--axis", "batch_size=1:300", *_SHORT, "-o", "x.csv"), ("x.csv",)),
    Command(("sweep", "mixtral_tp4", "--axis", "batch_size=1:40", *_SHORT, "--jobs", "2", "-o", "x.parquet"),
            ("x.parquet",)),
    Command(("report", "mixtral_tp4", *_SHORT, "-o", "r.html"), ("r.html",)),
    Command(("compare", "mixtral_tp4", "--b", "tp=8", *_SHORT, "-o", "c.csv"), ("c.csv",)),
    Command(("tornado", "mixtral_tp4", *_SHORT, "-o", "t.csv", "--picture", "t.png"), ("t.csv", "t.png")),
    Command(("plan", "mixtral_tp4", "--gpus", "4", "--set", "output_len=4", "-o", "p.parquet", "--picture", "p.svg"),
            ("p.parquet", "p.svg")),
    Command(("recommend", "mixtral_tp4", "--users", "8", *_SHORT, "--gpus", "1-4", "-o", "best.yaml"), ("best.yaml",)),
    Command(("import-bench", "b.json", "--scenario", "s.yaml", "-o", "runs.yaml"), ("runs.yaml", "runs.csv"),
            {"b.json": json.dumps(_BENCH), "s.yaml": _SERVED}),
    Command(("calibrate", "--from", "nv.json", "--hardware", "h100-sxm", "-o", "d"), ("d/meta.yaml", "d/copy.parquet"),
            {"nv.json": json.dumps(_NV)}),
    Command(("campaign", "preregister", "h100-sxm", "-o", "r", "--campaign", "c.yaml"),
            tuple(f"r/{time.strftime('%Y-%m-%d', time.gmtime())}-nvidia-h100-sxm5-80gb-{_DIGEST}/{name}"
                  for name in ("registered.yaml", "engine_batch.csv")), {"c.yaml": _CAMPAIGN}),
    Command(("campaign", "compare", "-o", "page.md"), ("page.md",)),
    Command(("search", "fiddler_rtx_4090", "--osl", "4", "--systems", "fiddler", "-o", "s.csv"), ("s.csv",)),
)  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def session_of(leader: int) -> list[int]:
    """Processes still there of the session that a process led."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def whole(command: Command, folder: Path, reference: dict[str, bytes], killed: bool) -> list[str]:
    """What is wrong with what a command that was ended has left."""
    left, wrong = files(folder), []
    for name in command.writes:
        if name in left and _timeless(left[name]) != _timeless(reference[name]) and not _picture(name, left[name]):
            wrong.append(f"{name} is half written: {len(left[name])} bytes of {len(reference[name])}")
    if not killed:
        wrong += [f"{name} is left" for name in left if name.endswith(".part")]
    return wrong


def _timeless(data: bytes) -> bytes:
    """Without when it was written."""
    return re.sub(rb"registered_at: '[^'\n]*'", b"", data)


def _picture(name: str, data: bytes) -> bool:
    """A whole SVG, which names its parts anew each time."""
    return name.endswith(".svg") and data.endswith(b"</svg>\n")


def ended(
    command: Command, folder: Path, how: signal.Signals, after_s: float, reference: dict[str, bytes]
) -> list[str]:
    """End a command after a while; what is wrong then."""
    command.prepare(folder)
    process = command.started(folder)
    time.sleep(after_s)
    process.send_signal(how)
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return [f"still there a minute after {how.name}"]
    wrong = whole(command, folder, reference, how == signal.SIGKILL)
    # A shell calls the end by SIGINT 130, as Python ends itself where the signal meets some of its own code.
    accepted = (*ENDS, -how, -signal.SIGINT)
    if process.returncode not in accepted:
        wrong.append(f"exit code {process.returncode}: {said[-300:]}")
    if "Traceback" in said and "moesim" in said:
        wrong.append(f"a traceback: {said[-600:]}")
    for _ in range(50):
        if not (left := session_of(process.pid)):
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        wrong.append(f"{len(left)} processes left")
    return wrong


def undisturbed(command: Command, folder: Path) -> tuple[float, dict[str, bytes]]:
    """(seconds it takes, what it leaves)."""
    command.prepare(folder)
    began = time.perf_counter()
    process = command.started(folder)
    _, said = process.communicate(timeout=300)
    assert process.returncode in (0, 3), (command.name, process.returncode, said[-2000:])
    found = files(folder)
    assert set(command.writes) <= set(found), (command.name, sorted(found))
    return time.perf_counter() - began, found


def moments(seconds: float, many: int, rng: random.Random) -> list[float]:
    """When to end a command: half of them in the last third of its time, where files are written."""
    return [seconds * (rng.uniform(0.05, 1) if i % 2 else rng.uniform(0.66, 1.02)) for i in range(many)]
