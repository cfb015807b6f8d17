"""recommend's first choice beside a simulation of all it could choose: python benchmarks/recommend_agreement.py [JOBS].

Ten small questions; every deployment that is legal and fits is simulated. The first choice is right where it is the
best of them, or where the best lies within its 90 % interval.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, NamedTuple

import moesim
from moesim.explore.pool import pool
from moesim.explore.recommend import recommend
from moesim.explore.recommend.measures import higher
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.simulate import Simulated, broken, simulated
from moesim.explore.recommend.space import Deployment, deployments, engines


class Case(NamedTuple):
    """A question with a small space."""

    model: str
    load: dict[str, Any]
    asked: dict[str, Any]


CASES = (
    Case("Qwen3-30B-A3B", {"max_concurrency": 16}, {"hardware": ["h100-sxm", "l40s"], "gpus": (1, 4)}),
    Case("Qwen3-30B-A3B", {"max_concurrency": 64},
         {"hardware": ["h100-sxm"], "gpus": (1, 4), "where": ["p99_ttft <= 1 s"]}),
    Case("Qwen3-30B-A3B", {"request_rate": 4.0},
         {"hardware": ["h100-sxm", "a100-sxm"], "gpus": (1, 4), "minimize": "tpot"}),
    Case("OLMoE-1B-7B-0924", {"max_concurrency": 32},
         {"hardware": ["l40s", "h100-sxm"], "gpus": (1, 4), "where": ["tpot <= 8 ms"]}),
    Case("OLMoE-1B-7B-0924", {"request_rate": 10.0},
         {"hardware": ["l40s"], "gpus": (1, 4), "minimize": "e2el"}),
    Case("Mixtral-8x7B-v0.1", {"max_concurrency": 32},
         {"hardware": ["h100-sxm", "h200-sxm"], "gpus": (1, 4), "minimize": "usd_per_million_tokens"}),
    Case("Mixtral-8x7B-v0.1", {"max_concurrency": 8}, {"hardware": ["h200-sxm"], "gpus": (1, 4), "minimize": "ttft"}),
    Case("gpt-oss-120b", {"max_concurrency": 32},
         {"hardware": ["h100-sxm", "h200-sxm"], "gpus": (1, 4), "maximize": "output_throughput_per_gpu"}),
    Case("gpt-oss-20b", {"max_concurrency": 64},
         {"hardware": ["h100-sxm"], "gpus": (1, 4), "maximize": "throughput", "where": ["watts <= 1.5 kW"]}),
    Case("Phi-3.5-MoE-instruct", {"request_rate": 2.0},
         {"hardware": ["h100-sxm", "a100-sxm"], "gpus": (1, 3), "minimize": "energy"}),
)  # fmt: skip


def scenario_of(case: Case) -> moesim.Scenario:
    lengths = {"input_len": 512, "output_len": 64, "num_prompts": 200}
    return moesim.Scenario.model_validate(
        {"model": case.model, "hardware": "h100-sxm", "workload": {**lengths, **case.load}}
    )


def everything(question: Question) -> list[Deployment]:
    return [d for e in engines(question.space, question.scenario) for d in deployments(question.space, e)]


def best_of(question: Question, runs: list[Simulated]) -> Simulated | None:
    sign = -1.0 if higher(question.objective) else 1.0
    kept = [run for run in runs if not run.problem and not broken(run.values, question.limits)]
    return min(kept, key=lambda run: sign * run.values[question.objective].value, default=None)


def agrees(case: Case, jobs: int) -> tuple[bool, str]:
    """(whether the first choice is the best or within its interval, what was found)."""
    found = recommend(scenario_of(case), jobs=jobs, **case.asked)
    question, first = found.question, found.best
    with pool(jobs) as workers:
        runs = list(workers.map(partial(simulated, question), everything(question)))
    best = best_of(question, runs)
    if best is None or first is None:
        return best is None and first is None, f"{len(runs)} simulated, none keeps every limit: {first is None}"
    best_value, mine = best.values[question.objective], first.values[question.objective]
    right = abs(mine.value / best_value.value - 1.0) < 1e-9
    within = mine.low <= best_value.value <= mine.high
    told = f"{question.objective} {mine.value:.6g} ({first.deployment.describe()}), best {best_value.value:.6g}"
    said = "best" if right else f"within its interval {mine.low:.4g} to {mine.high:.4g}" if within else "MISSED"
    return right or within, f"{told} ({best.deployment.describe()}) of {len(runs)}: {said}"


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    held = 0
    for case in CASES:
        right, said = agrees(case, jobs)
        held += right
        print(f"{case.model} {case.load}: {said}", flush=True)
    print(f"{held} of {len(CASES)} agree")


if __name__ == "__main__":
    main()
