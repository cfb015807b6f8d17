"""How long recommend takes over more than 20,000 configurations: python benchmarks/recommend_speed.py [JOBS].

Five GPU types, 1 to 16 GPUs, four formats, every plan, engines apart, up to five drafts.
"""

from __future__ import annotations

import sys
import time

import moesim

FORMATS = ("published", "fp8", "int4", "int8")
GPUS = ("h100-sxm", "h200-sxm", "a100-sxm", "l40s", "b200")


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    drafting = {"method": "ngram", "num_speculative_tokens": 3, "acceptance_rate": 0.6, "acceptance_source": "assumed"}
    scenario = moesim.Scenario(
        model="Qwen3-235B-A22B", gpu="h100-sxm", workload={"users": 50, "isl": 2048, "osl": 512},
        engine={"speculative_config": drafting},
    )  # fmt: skip
    started, last = time.perf_counter(), {}

    def told(what: str, done: int, of: int) -> None:
        if what == "priced" and "simulated" not in last:
            last["priced"] = time.perf_counter() - started
        last.setdefault(what, done)

    found = moesim.recommend(
        scenario, hardware=GPUS, gpus=(1, 16), formats=FORMATS, where=["p99_ttft <= 2 s"], jobs=jobs, told=told
    )
    whole = time.perf_counter() - started
    print(
        f"{found.considered:,} considered, {found.priced:,} priced, {len(found.finalists)} simulated, {jobs} processes"
    )
    print(f"priced or excluded after {last['priced']:.1f} s, all after {whole:.1f} s")


if __name__ == "__main__":
    main()
