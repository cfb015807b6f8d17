"""Models by catalogue name, folder or config.json."""

from __future__ import annotations

import difflib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.errors import Problem, SpecError
from moesim.files import yaml
from moesim.models.hub import model_from_config
from moesim.models.model import Model


def catalogue() -> list[str]:
    """Names of the models that ship."""
    return sorted(p.stem if p.is_file() else p.name for p in paths.MODELS.glob("*"))


def load_model(name: str, overrides: dict[str, Any] | None = None) -> Model:
    """A model by catalogue name (any case), folder or config.json file.

    Parameters
    ----------
    name : str
    overrides : dict, optional
        Fields of config.json to replace, as vLLM's --hf-overrides; a nested text_config's fields too.

    Raises
    ------
    SpecError
        An unknown name, architecture or field, or values that do not hang together.
    """
    path = _config_path(name)
    return _load_model(path, path.stat().st_mtime_ns, json.dumps(overrides or {}, sort_keys=True, default=str))


@lru_cache(maxsize=1)
def _catalogue_names() -> dict[str, str]:
    return {known.lower(): known for known in catalogue()}


def _config_path(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return path
    by_name = _catalogue_names()
    known = by_name.get(name.lower().rsplit("/", 1)[-1])
    if known:
        return paths.MODELS / known / "config.json"
    near = difflib.get_close_matches(name.lower(), list(by_name), 3)
    hint = f"did you mean {' or '.join(by_name[n] for n in near)}?" if near else f"known: {', '.join(catalogue())}"
    raise SpecError(f"the model '{name}' is neither in the catalogue nor a config.json; {hint}")


@lru_cache(maxsize=256)
def _load_model(path: Path, _stamp: int, overrides: str) -> Model:
    config = yaml.read_json(path)
    problems = _override(config, json.loads(overrides), str(path))
    if problems:
        raise SpecError(problems)
    title = path.parent.name if path.name == "config.json" else path.stem
    return model_from_config(config, title, str(path))


def _override(config: dict[str, Any], overrides: dict[str, Any], source: str) -> list[Problem]:
    """Replace fields where they stand, inside a nested text model too. Fields that do not exist are problems."""
    places = [config, *(config[n] for n in ("text_config", "language_config") if isinstance(config.get(n), dict))]
    problems: list[Problem] = []
    for key, value in overrides.items():
        found = [place for place in places if key in place]
        if not found:
            near = difflib.get_close_matches(key, [k for place in places for k in place], 1)
            hint = f"did you mean '{near[0]}'?" if near else "only fields it has can be replaced"
            problems.append(Problem(f"hf_overrides: '{key}' is not a field; {hint}", source))
        for place in found:
            if isinstance(value, dict) and isinstance(place[key], dict):
                problems += _override(place[key], value, source)
            else:
                place[key] = value
    return problems
