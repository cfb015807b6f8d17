"""Every reader of what others wrote: seeds it accepts, and how it is called. What it may raise is a sentence."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from moesim import DoesNotFit, load, paths, predict
from moesim.bench.point import Point
from moesim.campaign.comparison import compare
from moesim.campaign.file import load_campaign
from moesim.campaign.predicted import Predicted, Value
from moesim.campaign.registration import register, registrations
from moesim.cli import main
from moesim.cost.fit_file import load_fits
from moesim.errors import MoesimError
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.host import load_host
from moesim.inputs.bench.records import records
from moesim.inputs.claims_file import read_claims
from moesim.inputs.gguf_file import header
from moesim.inputs.prices_file import read_prices
from moesim.inputs.quality_file import quality_of
from moesim.inputs.run_file import load_runs
from moesim.inputs.system_file import load_system
from moesim.report.campaign_page import campaign_page
from tests.oracle import violations

CODES = {0, 2, 3, 4, 5}
SCENARIO = "model: Qwen1.5-MoE-A2.7B\nhardware: h100-sxm\nworkload: {batch_size: 2, input_len: 64, output_len: 4}\n"


MODELS = ("Mixtral-8x7B-v0.1", "DeepSeek-V3", "Qwen3-30B-A3B", "gpt-oss-20b", "GLM-5", "Qwen3-Next-80B-A3B-Instruct",
          "OLMoE-1B-7B-0924", "MiniMax-M2.5", "gemma-3-1b-it", "gpt2")  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A kind of input, and who reads it."""

    name: str
    suffix: str
    seeds: tuple[str, ...]
    read: Callable[[Path], Any]
    """Raises MoesimError for what it refuses."""


def called(words: list[str]) -> None:
    """A command as a user types it; any end but a documented one is an error."""
    said, told = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(told):
        try:
            code = main(words)
        except SystemExit as stopped:
            code = stopped.code
    assert code in CODES, f"exit code {code} of moesim {' '.join(words)[:200]}"
    assert "Traceback" not in told.getvalue()
    if code == 2:
        assert told.getvalue().strip(), "refused without a word"
        assert len(told.getvalue().splitlines()) <= 40, told.getvalue()[:2000]
    assert not any(ord(c) < 32 and c not in "\n\t" for c in told.getvalue()), "control characters on the terminal"
    if code == 2:
        raise MoesimError(told.getvalue())


def priced(path: Path) -> None:
    """A scenario file: what is accepted breaks no law."""
    scenario = load(path)
    if scenario.workload.num_prompts is None and scenario.workload.arrivals != "batch":
        scenario = scenario.with_(num_prompts=20)
    work = scenario.workload
    if work.arrivals != "batch" and (work.num_prompts or 0) * (work.output_len or 1) > 100_000:
        return
    found = predict(scenario)
    broken = violations(found)
    assert not broken, broken


def _with(**settings: Any) -> Callable[[Path], None]:
    """A scenario that names the file as one of its own, by the setting whose value is ``None``."""

    def read(path: Path) -> None:
        scenario = path.with_name("with.yaml")
        scenario.write_text(SCENARIO, encoding="utf-8")
        named = {key: str(path) if value is None else value for key, value in settings.items()}
        if "workload.lengths" in named:
            named["workload.lengths"] = {"kind": "file", "file": str(path)}
        predict(load(scenario, named))

    return read


def _texts(*files: Path) -> tuple[str, ...]:
    return tuple(file.read_text(encoding="utf-8") for file in files)


def _command(*words: str) -> Callable[[Path], None]:
    return lambda path: called([word.replace("{}", str(path)) for word in words])


def _typed(before: str) -> Callable[[Path], None]:
    return lambda path: called([before, *path.read_text(encoding="utf-8", errors="replace").split("\n")])


_TRACES = (
    "arrival_s,input_len,output_len\n0,100,5\n0.5,200,6\n1.25,50,1\n",
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.95,396,19\n",
    '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n'
    '{"timestamp": 300, "input_length": 700, "output_length": 5, "hash_ids": [1, 3]}\n',
    '[{"timestamp": 0, "input_length": 60, "output_length": 5}]',
)
_BENCH = json.dumps({
    "backend": "vllm", "model_id": "Qwen/Qwen1.5-MoE-A2.7B", "num_prompts": 10, "request_rate": "inf",
    "max_concurrency": 4, "duration": 12.5, "completed": 10, "total_input_tokens": 5120, "total_output_tokens": 1280,
    "request_throughput": 0.8, "output_throughput": 102.4, "mean_ttft_ms": 50.1, "median_ttft_ms": 48.0,
    "mean_tpot_ms": 9.5, "median_tpot_ms": 9.4, "mean_itl_ms": 9.5, "p99_ttft_ms": 90.0,
})  # fmt: skip
_NCCL = """# nThread 1 nGpus 8 minBytes 1024 maxBytes 4096 step: 2(factor) warmup iters: 5 iters: 20
# Rank  0 Group  0 Pid  1 on host device  0 [0x1b] NVIDIA H100 80GB HBM3
# Rank  1 Group  0 Pid  1 on host device  1 [0x43] NVIDIA H100 80GB HBM3
#       size         count      type   redop    root     time   algbw   busbw #wrong
        1024           512      half     sum      -1    12.34    0.08    0.15      0    12.5    0.1    0.2      0
        2048          1024      half     sum      -1    12.90    0.16    0.28      0    12.5    0.1    0.2      0
        4096          2048      half     sum      -1    13.10    0.31    0.55      0    12.5    0.1    0.2      0
# Collective test starting: all_reduce_perf
"""
_NVBANDWIDTH = json.dumps({
    "nvbandwidth": {"version": "v0.7", "Driver Version": "550.54", "testcases": [
        {"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["55.1", "55.2"]]},
        {"name": "device_to_host_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["54.9"]]},
    ]}
})  # fmt: skip
_GEMM = "gemm_dtype,m,n,k,latency\n" + "".join(
    f"bfloat16,{m},4096,{k},{0.01 * (1 + m * k / 1e6):.4f}\n" for m in (1, 16, 256, 4096) for k in (1024, 4096)
)
_COUNTS = "layer,expert,count\n" + "".join(f"0,{e},{e + 1}\n" for e in range(60))


_RUNS = paths.CALIBRATION / "runs" / "h100-vllm-minimax-m2.5.yaml"
_AIPERF = "Metric,avg,p50,p99\nTime to First Token (ms),50.1,49,90\nRequest Count,10\nOutput Sequence Length,100\n"
_QUESTIONS = """source: s
questions:
  ttft_olmoe_vs_dsv2lite: {ask: formula, formula: speculation_speed_up, values: {rate: 0.5, drafts: 4, cost: 0.1}}
  itl_spread: {ask: formula, formula: slots_over_tokens, values: {experts: 8, top_k: 2, tokens: 64, factor: 1.25}}
"""


def _asked(path: Path) -> None:
    """Questions beside two claims."""
    claims = (paths.CALIBRATION / "claims" / "published-claims.csv").read_text(encoding="utf-8").splitlines()
    folder = path.with_name("claims")
    folder.mkdir(exist_ok=True)
    (folder / "claims.csv").write_text("\n".join(claims[:3]) + "\n", encoding="utf-8")
    (folder / "questions.yaml").write_bytes(path.read_bytes())
    called(["claims", str(folder / "claims.csv")])


def _run_set(path: Path) -> None:
    path.with_suffix(".csv").write_text(_RUNS.with_suffix(".csv").read_text(encoding="utf-8"), encoding="utf-8")
    load_runs(path)


def _run_table(path: Path) -> None:
    path.with_suffix(".yaml").write_text(_RUNS.read_text(encoding="utf-8"), encoding="utf-8")
    load_runs(path.with_suffix(".yaml"))


def _wheel(path: Path) -> None:
    """A table as a member of a wheel: Parquet where the text is a table, the bytes as they are where not."""
    import pandas as pd

    data = path.read_bytes()
    try:
        told = io.BytesIO()
        pd.read_csv(io.BytesIO(data)).to_parquet(told)
        data = told.getvalue()
    except Exception:
        told.close()
    wheel = path.with_suffix(".whl")
    member = "aiconfigurator_core/systems/data/h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data)
    words = ["calibrate", "--from", str(wheel), "--hardware", "h100-sxm", "--stack", "vllm-0.24.0"]
    called([*words, "-o", str(path.with_name("out"))])


def _import(*more: str) -> Callable[[Path], None]:
    return lambda path: called(["calibrate", "--from", str(path), "-o", str(path.with_name("out")), *more])


_CAMPAIGN = """vllm: "0.25.1"
calls:
  kernels:
    - kernels: {minutes: 1, models: [OLMoE-1B-7B-0924], tables: [gemm, stream]}
  engines:
    - engine: {model: OLMoE-1B-7B-0924, minutes: 1, batches: ["1,2:16:4"], rates: "4:6:16:8", max_model_len: 512}
    - engine: {model: Qwen3-30B-A3B, draft_model: Qwen3-0.6B, num_speculative_tokens: 4, acceptance_rate: 0.5}
contrasts:
  - {question: q, table: engine_batch, metric: mean_tpot_ms, over: [batch], base: {batch: 1}, where: {mode: [graph]}}
"""
_POINT = {"table": "gemm", "gemm_dtype": "bfloat16", "m": 1, "n": 2, "k": 3}
_MEMORY = {"table": "engine_memory", "model": "m", "gpu_memory_utilization": 0.9}
_LOG = "".join(json.dumps(row) + "\n" for row in (
    {"session": {"device": "cuda", "gpu": "NVIDIA H100 80GB HBM3", "cpu": "Xeon", "versions": {"vllm": "0.25.1"}}},
    {"key": "a", "point": _POINT, "seconds": 1e-5, "seconds_q1": 1e-5, "seconds_q3": 1e-5, "copies": 1, "samples": 9,
     "kernel_source": "torch", "unstable": [], "at": 2e9},
    {"key": "b", "point": {**_MEMORY, "table": "engine_batch", "batch": 1}, "mean_tpot_s": 0.01, "unstable": [],
     "at": 2e9},
    {"key": "c", "point": _MEMORY, "memory": {"kv_blocks": 1000}, "unstable": [], "at": 2e9},
))  # fmt: skip


def _predictions() -> Iterator[Predicted]:
    value = Value(2.0, 1.0, 3.0)
    yield Predicted(Point.of(_POINT), {"seconds": value}, "fitted")
    yield Predicted(Point.of({**_MEMORY, "table": "engine_batch", "batch": 1}), {"mean_tpot_ms": value}, "fitted")
    yield Predicted(Point.of(_MEMORY), {"kv_blocks": value, "starts_at": Value(0.5, 0.4, 0.6)}, "counted")


@cache
def _registered() -> tuple[str, str]:
    """A registration's sheet, and its table of products."""
    with tempfile.TemporaryDirectory() as folder:
        found = register(_predictions(), Path(folder) / "now", "nvidia-h100-sxm5-80gb", "vllm 0.25.1", "0" * 64)
        return _texts(found.folder / "registered.yaml", found.folder / "gemm.csv")[:2]  # type: ignore[return-value]


def _campaign(path: Path) -> None:
    found = load_campaign(path)
    for ask in found.engines:
        ask.points(ask.settings(path.with_name("out")))
    found.kernel_points(load_hardware("h100-sxm"))


def _written(path: Path) -> Path:
    """A registration of the usual predictions."""
    folder = path.with_name("out") / "shipped" / "now"
    register(_predictions(), folder, "nvidia-h100-sxm5-80gb", "vllm 0.25.1", "0" * 64)
    return folder


def _registration(path: Path) -> None:
    folder = _written(path)
    (folder / "registered.yaml").write_bytes(path.read_bytes())
    _ = [found.predicted for found in registrations(folder.parent)]


def _registered_table(path: Path) -> None:
    """One whose sheet names the table as it is."""
    folder = _written(path)
    sheet, data = (folder / "registered.yaml").read_text(encoding="utf-8"), path.read_bytes()
    before = hashlib.sha256((folder / "gemm.csv").read_bytes()).hexdigest()
    text = data.decode(errors="replace").encode()
    (folder / "registered.yaml").write_text(sheet.replace(before, hashlib.sha256(text).hexdigest()), encoding="utf-8")
    (folder / "gemm.csv").write_bytes(text)
    _ = [found.predicted for found in registrations(folder.parent)]


def _campaign_log(path: Path) -> None:
    shipped = _written(path).parent
    for part in ("kernels", "runs"):
        (shipped.parent / part).mkdir()
        (shipped.parent / part / "points.jsonl").write_bytes(path.read_bytes())
    campaign_page(load_campaign(), registrations(shipped), [compare(shipped.parent, shipped)])


def _readers() -> tuple[Reader, ...]:
    fit = json.loads((paths.FITS / "nvidia-h100-sxm5-80gb/vllm-0.25.0.json").read_text(encoding="utf-8"))
    few = fit | {"families": dict(list(fit["families"].items())[:2])}
    scenarios = [paths.SCENARIOS / f"{name}.yaml" for name in
                 ("mixtral_tp4", "qwen3_30b_a3b", "mixtral_closed_loop", "mixtral_zipf", "glm5_h200")]  # fmt: skip
    offloads = sorted((paths.SCENARIOS / "offload").glob("*offloading*.yaml"))[:3]
    models = [paths.MODELS / name / "config.json" for name in MODELS]
    lines = (
        "mixtral_tp4\n--osl\n4\n--isl\n64\n--batch-size\n2", "--model\nOLMoE-1B-7B-0924\n--gpu\nh100\n--osl\n4",
        "mixtral_tp4\n--set\nrouting={kind: zipf, s: 1.1}\n--tp\n8\n--economy\n--json",
        "mixtral_tp4\n--conc\n4\n--num-prompts\n8\n--osl\n4\n--slo\nttft:300 tpot:20",
    )  # fmt: skip
    swept = ("mixtral_tp4\n--axis\nbatch_size=1,2\n--osl\n4\n-o\nout.csv",
             "mixtral_tp4\n--axis\ntp=2,4\n-o\nout.parquet")  # fmt: skip
    served = (
        "vllm serve mistralai/Mixtral-8x7B-v0.1 --tensor-parallel-size 4 --max-model-len 8192 --max-num-seqs 64",
        "vllm serve Qwen/Qwen3-30B-A3B -tp 2 --enable-expert-parallel --hf-overrides '{\"num_experts_per_tok\": 4}'",
        "VLLM_USE_V1=1 python -m vllm.entrypoints.openai.api_server --model openai/gpt-oss-20b --kv-cache-dtype fp8",
    )
    llama = ("llama-server -m Qwen3-30B-A3B-Q4_K_M.gguf -ngl 99 --n-cpu-moe 20 -c 4096 -np 1",
             "llama-bench -m mixtral-8x7b-Q4_K_M.gguf -ngl 10 -p 128 -n 16")  # fmt: skip
    return (
        Reader("scenario", ".yaml", _texts(*scenarios), priced),
        Reader("offload scenario", ".yaml", _texts(*offloads), priced),
        Reader("config", ".json", _texts(*models), _with(model=None, hardware="h100-sxm[memory*1000]")),
        Reader("hardware", ".yaml", _texts(paths.HWSPECS / "nvidia-h100-sxm5-80gb.yaml"), _with(hardware=None)),
        Reader("cluster", ".yaml", _texts(*sorted(paths.CLUSTERS.glob("*.yaml"))[:3]), lambda p: load_hardware(str(p))),
        Reader("host", ".yaml", _texts(*sorted(paths.HOSTS.glob("*.yaml"))[:2]), lambda p: load_host(str(p))),
        Reader("system", ".yaml", _texts(*sorted(paths.SYSTEMS.glob("*.yaml"))[:3]), lambda p: load_system(str(p))),
        Reader("fit", ".json", (json.dumps(few, indent=1),), lambda p: load_fits(str(p))),
        Reader("priced fit", ".json", (json.dumps(few, indent=1),), _with(calibration=None)),
        Reader("trace", ".csv", _TRACES, _with(**{"workload.trace_file": None})),
        Reader("lengths", ".csv", _TRACES,
               _with(**{"workload.lengths": None, "max_concurrency": 2, "num_prompts": 4})),
        Reader("routing trace", ".csv", ("0,1,2,3\n4,5,6,7\n8,9,10,11\n",),
               _with(**{"routing.kind": "trace", "routing.file": None})),
        Reader("counts", ".csv", (_COUNTS,), _command("routing", "{}")),
        Reader("bench", ".json", (_BENCH,), _bench),
        Reader("nccl-tests", ".log", (_NCCL,), _import("--hardware", "h100-sxm")),
        Reader("nvbandwidth", ".json", (_NVBANDWIDTH,), _import("--hardware", "h100-sxm")),
        Reader("wheel", ".parquet", (_GEMM,), _wheel),
        Reader("quality", ".csv", _texts(*sorted(paths.QUALITY.glob("*.csv"))),
               lambda p: quality_of("Mixtral-8x7B-v0.1", p)),
        Reader("claims", ".csv", _texts(paths.CALIBRATION / "claims" / "published-claims.csv"), read_claims),
        Reader("questions", ".yaml", (_QUESTIONS,), _asked),
        Reader("run set", ".yaml", _texts(_RUNS), _run_set),
        Reader("run table", ".csv", _texts(_RUNS.with_suffix(".csv")), _run_table),
        Reader("AIPerf", ".csv", (_AIPERF,), records),
        Reader("GGUF", ".gguf", ("GGUF\x03\x00\x00\x00" + "\x00" * 16, "GGUF"), header),
        Reader("campaign", ".yaml", (_CAMPAIGN,), _campaign),
        Reader("registration", ".yaml", _registered()[:1], _registration),
        Reader("registered table", ".csv", _registered()[1:], _registered_table),
        Reader("campaign log", ".jsonl", (_LOG,), _campaign_log),
        Reader("prices", ".csv", _texts(paths.HWSPECS / "prices.csv"), read_prices),
        Reader("command line", ".txt", lines, _typed("predict")),
        Reader("sweep line", ".txt", swept, _typed("sweep")),
        Reader("vllm command", ".txt", served, lambda p: called(
            ["predict", "--from-vllm", _line(p), "--gpu", "h100-sxm", "--isl", "64", "--osl", "4"])),
        Reader("llama command", ".txt", llama, lambda p: called(
            ["predict", "--from-llama-cpp", _line(p), "--gpu", "rtx-4090", "--osl", "4"])),
        Reader("web request", ".txt", ("a.model=OLMoE-1B-7B-0924&a.gpu=h100&users=2&isl=64&osl=4",
                                       "a.model=Qwen3-30B-A3B&b=1&b.tp=2&b.ep=on&users=4&osl=8"), _web),
    )  # fmt: skip


def _line(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _bench(path: Path) -> None:
    scenario = path.with_name("served.yaml")
    scenario.write_text(SCENARIO, encoding="utf-8")
    _import("--scenario", str(scenario))(path)


def _web(path: Path) -> None:
    from urllib.parse import parse_qsl

    from moesim.web.asked import asked

    asked(dict(parse_qsl(_line(path), keep_blank_values=True)))


READERS = {reader.name: reader for reader in _readers()}


def tried(reader: Reader, data: bytes, folder: Path) -> str:
    """How a reader took bytes: ``accepted`` or ``refused``. Anything but a sentence comes through."""
    # What is read is remembered by name and time: every case is a file of its own.
    path = folder / f"case{next(_NUMBERS)}{reader.suffix}"
    path.write_bytes(data)
    shutil.rmtree(folder / "out", ignore_errors=True)
    try:
        reader.read(path)
    except (MoesimError, DoesNotFit) as error:
        text = str(error)
        assert text and len(text) < 20_000, text[:500]
        return "refused"
    finally:
        path.unlink(missing_ok=True)
    return "accepted"


_NUMBERS = count()
