"""``moesim models``: what the catalogue holds, which architectures are read, and what was understood of a folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from moesim.cli.codes import BAD_INPUT
from moesim.errors import Problem, SpecError


def models_command(commands: Any) -> None:
    about = "list the models of the catalogue, or say what is understood of others"
    command = commands.add_parser("models", help=about, description=about)
    command.add_argument("--architectures", action="store_true", help="list the values of model_type that are read")
    command.add_argument(
        "--check", type=Path, metavar="FOLDER", help="read every config.json of a folder and say what each means"
    )
    command.add_argument("--json", action="store_true", help="print the list as JSON, in SI units")
    command.add_argument("--page", type=Path, metavar="FILE", help="write the page of models (docs/models.md)")
    command.set_defaults(run=_models)


def _models(options: argparse.Namespace, rest: list[str]) -> int:
    if options.json and (options.check or options.page or options.architectures):
        raise SpecError([Problem("is of the list of models alone", "--json")])
    if options.check is not None:
        return _check(options.check)
    if options.page is not None:
        from moesim.report.models_page import write_models_page

        print(write_models_page(options.page))
        return 0
    if options.architectures:
        from moesim.models.hub import readers

        print("\n".join(sorted(readers())))
        return 0
    from moesim.models.catalogue import catalogue, load_model

    found = []
    for name in catalogue():
        model = load_model(name)
        kv = model.kv_bytes_per_token() + model.source_bytes_per_token()
        found.append({"name": name, "parameters": model.parameters, "active_parameters": model.active_parameters,
                      "flop_per_token": model.flop_per_token, "architecture": model.architecture,
                      "kv_bytes_per_token": float(kv)})  # fmt: skip
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{'model':38}{'parameters':>18}{'active':>17}{'GFLOP/token':>13}  {'architecture':20}{'KV B/token':>11}")
    for one in found:
        print(
            f"{one['name']:38}{one['parameters']:>18,}{one['active_parameters']:>17,}"
            f"{one['flop_per_token'] / 1e9:>13,.1f}  {one['architecture']:20}{one['kv_bytes_per_token']:>11,.0f}"
        )
    return 0


def _check(folder: Path) -> int:
    """What each config of a folder means; 2 where one is refused."""
    from moesim.models.catalogue import load_model
    from moesim.report.models_page import understood

    files = sorted(folder.rglob("*config.json")) if folder.is_dir() else [folder]
    files = [file for file in files if not file.name.endswith(("quant_config.json", "generation_config.json"))]
    if not files or not files[0].is_file():
        raise SpecError([Problem("holds no config.json", str(folder))])
    refused = 0
    for file in files:
        name = file.parent.name if file.name == "config.json" else file.name.removesuffix("_config.json")
        try:
            print(f"{name}: {understood(load_model(str(file)))}")
        except SpecError as error:
            refused += 1
            print(f"{name}: refused: {'; '.join(problem.message for problem in error.problems)}")
    print(f"{len(files) - refused} of {len(files)} read")
    return BAD_INPUT if refused else 0
