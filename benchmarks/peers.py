"""A peer beside moesim on the same measured runs: errors of both over the rows that both answer, and seconds a run.

    pip install aiconfigurator        # in this environment: asked in this process
    python benchmarks/peers.py aiconfigurator [--runs NAME ...] [--every N]

    pip install aisimulate            # in an environment of its own: asked as a process, whose start is in its seconds
    python benchmarks/peers.py PATH/bin/aisimulate [--runs NAME ...] [--every N]

Both are NVIDIA's own packages, asked through their own command line's entry; nothing of them is part of moesim.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.inputs.run_file import Run, load_runs, run_sets
from moesim.prediction import predict

SYSTEMS = {
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "a100-sxm": "a100_sxm",
    "l40s": "l40s",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
}
MODELS = {
    "gpt-oss-120b": "openai/gpt-oss-120b", "MiniMax-M2.5": "MiniMaxAI/MiniMax-M2.5",
    "Kimi-K2.5": "moonshotai/Kimi-K2.5", "Qwen3-235B-A22B": "Qwen/Qwen3-235B-A22B-FP8", "Qwen3-32B": "Qwen/Qwen3-32B",
    "Meta-Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
}  # fmt: skip
DENSE = ("Qwen3-32B", "Meta-Llama-3.1-70B")


def aiconfigurator(run: Run) -> tuple[float, float]:
    """(time to first token, time per token) as aiconfigurator's estimate gives them. [ms]"""
    api: Any = importlib.import_module("aiconfigurator.cli.api")
    engine, load = run.scenario.engine, run.scenario.workload
    tp, dp = engine.tensor_parallel_size, engine.data_parallel_size
    experts = tp * dp
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = api.cli_estimate(
            model_path=MODELS[run.scenario.model], system_name=SYSTEMS[run.scenario.hardware], backend_name="vllm",
            mode="agg", isl=round(load.mean_input_len), osl=round(load.mean_output_len),
            batch_size=-(-load.size // dp), tp_size=tp,
            attention_dp_size=dp, moe_tp_size=1 if engine.enable_expert_parallel else experts,
            moe_ep_size=experts if engine.enable_expert_parallel else 1,
        )  # fmt: skip
    return float(found.ttft), float(found.tpot)


def aisimulate(program: str, run: Run) -> tuple[float, float]:
    """The same as aisimulate's replay of the closed loop gives them: ten requests a client, as the runs were made."""
    engine, load = run.scenario.engine, run.scenario.workload
    tp, dp = engine.tensor_parallel_size, engine.data_parallel_size
    experts = {"moe_expert": tp * dp} if engine.enable_expert_parallel else {"moe_tensor": tp * dp}
    experts = {"moe_tensor": 1} if run.scenario.model in DENSE else experts
    lengths = {"input_tokens": round(load.mean_input_len), "output_tokens": round(load.mean_output_len)}
    worker: dict[str, Any] = {"parallelism": {"tensor": tp, "attention_data": dp, **experts}}
    if engine.max_num_batched_tokens:
        worker["scheduler"] = {"max_batched_tokens": engine.max_num_batched_tokens}
    asked = {
        "engine": {"model": MODELS[run.scenario.model], "hardware": SYSTEMS[run.scenario.hardware], "backend": "vllm",
                   "workers": {"aggregated": worker}},
        "traffic": {"source": {"type": "synthetic", **lengths}, "stop": {"requests": 10 * load.size},
                    "load": {"type": "concurrency", "concurrency": load.size}},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "run.yaml"
        config.write_text(json.dumps(asked))
        said = subprocess.run(
            [Path(program).resolve(), "predict", "-c", config, "--format", "json"],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
        )
    if said.returncode:
        raise RuntimeError((said.stderr or said.stdout).strip().splitlines()[-1])
    found = json.loads(said.stdout.strip().splitlines()[-1])
    return found["mean_ttft_ms"], found["mean_tpot_ms"]


def ours(run: Run) -> tuple[float, float]:
    found = predict(run.scenario)
    return found["mean_ttft_ms"], found["mean_tpot_ms"]


def timed(answer: Any, run: Run) -> tuple[tuple[float, float] | None, float]:
    start = time.perf_counter()
    try:
        return answer(run), time.perf_counter() - start
    except Exception as error:  # a peer's own failures are a result here
        print(f"    {type(error).__name__}: {str(error)[:120]}")
        return None, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", help="aiconfigurator, or the program aisimulate")
    parser.add_argument("--runs", nargs="*", help="run sets by name; default: all")
    parser.add_argument("--every", type=int, default=1, help="take one run in so many")
    options = parser.parse_args()
    peer = aiconfigurator if options.peer == "aiconfigurator" else partial(aisimulate, options.peer)
    print(f"{'runs':28}{'rows':>6}{'TPOT error':>24}{'TTFT error':>24}{'seconds a run':>22}")
    print(f"{'':34}{'moesim':>14}{'peer':>10}{'moesim':>14}{'peer':>10}{'moesim':>12}{'peer':>10}")
    for path in run_sets(paths.CALIBRATION / "runs"):
        if options.runs and path.stem not in options.runs:
            continue
        rows = []
        for run in [run for run in load_runs(path).runs if not run.fitted][:: options.every]:
            (mine, t_mine), (theirs, t_theirs) = timed(ours, run), timed(peer, run)
            if mine and theirs:
                measured = run.measured["mean_ttft_ms"], run.measured["mean_tpot_ms"]
                rows.append([*(abs(a[i] / measured[i] - 1) for i in (1, 0) for a in (mine, theirs)), t_mine, t_theirs])
        if rows:
            means = [statistics.mean(column) for column in zip(*rows, strict=True)]
            shown = "".join(
                f"{100 * x:>12.1f} %" if i % 2 == 0 else f"{100 * x:>8.1f} %" for i, x in enumerate(means[:4])
            )
            print(f"{path.stem:28}{len(rows):>6}{shown}{means[4]:>12.3f}{means[5]:>10.3f}")


if __name__ == "__main__":
    main()
