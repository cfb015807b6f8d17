"""``moesim recommend``."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from moesim.cli.checks import check_output, gpu_range
from moesim.cli.codes import DOES_NOT_FIT
from moesim.cli.parallel import parallel_arguments
from moesim.cli.progress import counted
from moesim.cli.scenarios import scenario_arguments, scenario_of
from moesim.cli.values import axes, positional
from moesim.errors import Problem, SpecError


def recommend_command(commands: Any) -> None:
    about = "what to rent for a load: models, formats, GPUs and plans, priced or excluded, the best simulated"
    command = commands.add_parser("recommend", help=about, description=about)
    scenario_arguments(command)
    command.add_argument("--model", help="names to choose from, like Qwen3-235B-A22B,gpt-oss-120b")
    command.add_argument("--hardware", "--gpu", help="GPUs to choose from, like h100-sxm,l40s; default: all priced")
    command.add_argument("--gpus", default="1-8", help="how many GPUs in all: at most 8, or from 4 to 16 as 4-16")
    command.add_argument("--formats", default="", help="weight formats; default: published,fp8,int4")
    command.add_argument("--drafts", default="", help="drafted tokens to try, where the scenario speculates: 0,2,4")
    command.add_argument(
        "--axis", action="append", default=[], metavar="NAME=VALUES",
        help="another setting of the engine to choose, like kv_cache_dtype=auto,fp8",
    )  # fmt: skip
    command.add_argument("--minimize", help="cost, usd_per_million_tokens, gpus, ttft, tpot, e2el, energy, watts, ...")
    command.add_argument("--maximize", help="throughput, output_throughput_per_gpu, or a metric of the quality table")
    command.add_argument(
        "--where", action="append", default=[], metavar="LIMIT", help="a limit: 'p99_ttft <= 1 s', 'watts <= 3 kW'"
    )
    command.add_argument("--quality", type=Path, help="a CSV of quality by model and format, with sources")
    command.add_argument("--prices", type=Path, help="a table of prices, instead of hwspecs/prices.csv")
    command.add_argument("--price-per-gpu-hour", type=float, help="dollars, for every GPU, instead of a table")
    command.add_argument(
        "--shared-instances", action="store_true", help="rent GPUs one by one, at an instance's price over its GPUs"
    )
    command.add_argument("--no-disaggregation", action="store_true", help="leave out prefill engines beside decode's")
    command.add_argument("--simulate", type=int, default=20, help="how many of the best are simulated")
    command.add_argument("--top", type=int, default=10, help="how many to print")
    command.add_argument("--no-flags", action="store_true", help="leave out which engine flags matter")
    command.add_argument("-o", "--output", type=Path, help="the first as a scenario file (.yaml)")
    command.add_argument("--table", type=Path, help="every finalist as .csv or .parquet")
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    parallel_arguments(command)
    command.set_defaults(run=_recommend)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _recommend(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.pool import check_pool, pool
    from moesim.explore.recommend import recommend
    from moesim.explore.recommend.flags import flag_effects
    from moesim.files.writing import write_whole
    from moesim.inputs.scenario_file import scenario_text
    from moesim.report.recommend_text import deployed, recommendation_data, recommendation_text

    if options.output:
        check_output(options.output, {".yaml"}, "--output")
    if options.table:
        check_output(options.table, {".csv", ".parquet"}, "--table")
    if options.top < 1:
        raise SpecError([Problem(f"{options.top} is not a number of rows; 1 or more is accepted", "--top")])
    if options.price_per_gpu_hour is not None and not 0 < options.price_per_gpu_hour < 1e6:
        message = f"{options.price_per_gpu_hour:g} is no price; dollars above 0, up to 1e6, are accepted"
        raise SpecError([Problem(message, "--price-per-gpu-hour")])
    check_pool(options.jobs, options.backend, options.scheduler)
    models, cards, gpus = _names(options.model), _names(options.hardware), gpu_range(options.gpus)
    scenario = scenario_of(options, [*rest, *_base(models, cards, rest)], load=True)
    with counted() as told:
        found = recommend(
            scenario, minimize=options.minimize, maximize=options.maximize, where=options.where, models=models,
            hardware=cards, gpus=gpus, formats=_names(options.formats), drafts=_numbers(options.drafts),
            settings=axes(options.axis),
            apart=not options.no_disaggregation, prices=options.prices, usd_per_gpu_hour=options.price_per_gpu_hour,
            whole_instances=not options.shared_instances,
            quality=options.quality, finalists=options.simulate, jobs=options.jobs, backend=options.backend,
            scheduler=options.scheduler, told=told,
        )  # fmt: skip
        best, flags = found.best, []
        if best is not None and not options.no_flags and not best.deployment.prefill:
            told("flags tried", 0, 1)
            with pool(options.jobs, options.backend, options.scheduler) as workers:
                flags = flag_effects(best.scenario, workers)
    if options.table:
        from moesim.explore.frames import write_table

        write_table(found.to_frame(), options.table)
    if options.output and best is not None:
        write_whole(options.output, scenario_text(best.scenario, f"{deployed(best)}\nby moesim recommend"))
    if options.json:
        print(json.dumps(recommendation_data(found, flags), indent=1))
    else:
        print(recommendation_text(found, options.top, flags))
    return DOES_NOT_FIT if best is None else 0


def _base(models: list[str], cards: list[str], rest: list[str]) -> list[str]:
    """What a scenario must name, of which each configuration has its own."""
    if models and not cards and not positional(rest)[0]:
        from moesim.inputs.prices_file import SHIPPED, read_prices

        cards = [read_prices(SHIPPED)[0].gpu]
    return [*(["--model", models[0]] if models else []), *(["--hardware", cards[0]] if cards else [])]


def _numbers(text: str) -> list[int]:
    if not re.fullmatch(r"(\s*\d+\s*(,\s*\d+\s*)*)?", text):
        raise SpecError([Problem(f"'{text}' is not a list of numbers, like 0,2,4", "--drafts")])
    return [int(number) for number in _names(text)]
