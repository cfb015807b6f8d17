"""The closed form beside the simulation over 200 shipped plans and loads: python benchmarks/steady_grid.py [JOBS].

Takes minutes. The bounds are 5 % a token and 10 % to the first one, or a refusal that says why.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import moesim
from moesim.paths import SCENARIOS

PLANS = (
    "mixtral_tp4", "mixtral_tp4_ep4", "mixtral_tp2_pp2", "mixtral_fp8_one_h100", "mixtral_zipf", "olmoe", "olmoe_a100",
    "qwen3_30b_a3b", "qwen3_235b_fp8", "qwen3_235b_dp8_ep8", "deepseek_v2_lite", "deepseek_v3_h200", "gpt_oss_120b",
    "gpt_oss_20b_l40s", "llama31_70b", "qwen3_32b_dense", "llama4_scout", "phi35_moe", "minimax_m25", "glm45_air",
)  # fmt: skip
LOADS = tuple((c, r) for c, r in ((1, 0.2), (4, 0.5), (16, 1.5), (64, 4.0), (256, 10.0)))
"""(clients, requests a second)."""
LENGTHS = ((512, 128), (2048, 512))
BOUNDS = (0.05, 0.10)


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Every fourth case has arrivals at a rate."""
    found = []
    for name in PLANS:
        for clients, rate in LOADS:
            for prompt, output in LENGTHS:
                load: dict[str, Any] = {"max_concurrency": clients}
                if len(found) % 4 == 3:
                    load = {"request_rate": rate}
                lengths = {"kind": "uniform", "low": 0.8, "high": 1.0}
                found.append((name, {**load, "isl": prompt, "osl": output, "workload.lengths": lengths}))
    return found


def compared(case: tuple[str, dict[str, Any]]) -> tuple[float, float] | str:
    """(error a token, error to the first one), or why the closed form refuses."""
    name, load = case
    scenario = moesim.load(SCENARIOS / f"{name}.yaml", load)
    try:
        form = moesim.predict_steady(scenario)
    except moesim.SpecError as error:
        return error.problems[0].message
    run = moesim.predict(scenario)
    token, first = (form[metric] / run[metric] - 1.0 for metric in ("mean_tpot_ms", "mean_ttft_ms"))
    return token, first


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with ProcessPoolExecutor(jobs) as pool:
        results = list(pool.map(compared, cases(), chunksize=4))
    within = 0
    for (name, load), found in zip(cases(), results, strict=True):
        shown = {key: value for key, value in load.items() if key != "workload.lengths"}
        if isinstance(found, str):
            print(f"refused  {name:22} {shown}: {found}")
            continue
        good = all(abs(error) <= bound for error, bound in zip(found, BOUNDS, strict=True))
        within += good
        print(f"{'within ' if good else 'OUTSIDE'}  {name:22} {shown}: TPOT {found[0]:+.1%}, TTFT {found[1]:+.1%}")
    refused = sum(isinstance(found, str) for found in results)
    print(f"{within} within, {refused} refused, {len(results) - within - refused} outside, of {len(results)}")


if __name__ == "__main__":
    main()
