"""Models by catalogue name, hub id, folder or config.json."""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.errors import Problem, SpecError
from moesim.files.json import read as read_json
from moesim.files.quantities import path_text
from moesim.files.reading import expanded
from moesim.models.hub import model_from_config
from moesim.models.model import Model
from moesim.models.names import Resolved, cached_name, catalogue_names, resolve

CONFIG = "Hugging Face's config.json"
_SIDECAR = "hf_quant_config.json"
_MAY_BE_ADDED = frozenset(
    {"rope_scaling", "rope_parameters", "max_position_embeddings", "quantization_config", "sliding_window", "head_dim",
     "num_nextn_predict_layers", "index_topk", "use_index_cache", "index_topk_freq"}
)  # fmt: skip
"""Fields that ``hf_overrides`` may give a config that lacks them."""


def catalogue() -> list[str]:
    """Names of the models that ship."""
    return sorted(catalogue_names().values())


def load_model(name: str, overrides: dict[str, Any] | None = None) -> Model:
    """A model by catalogue name (any case), hub id, folder or config.json file.

    A hub id finds the architecture it shares, in the format its suffix says, and the model carries a note of that.

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
    path, found = _config_path(name)
    changes = json.dumps({**found.overrides, **(overrides or {})}, sort_keys=True, default=str)
    beside = _sidecar_path(path)
    stamps = tuple(file.stat().st_mtime_ns for file in (path, beside) if file)
    return _load_model(path, beside, stamps, changes, found.quantization, found.note)


def config_of(name: str, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """The fields of a model's config.json, of its text model where it has several. Raises as ``load_model``."""
    load_model(name, overrides)
    path, found = _config_path(name)
    config = read_json(path, CONFIG).data
    _override(config, {**found.overrides, **(overrides or {})}, str(path))
    inner = next((config[n] for n in ("text_config", "language_config") if isinstance(config.get(n), dict)), {})
    return {**config, **inner}


def _config_path(name: str) -> tuple[Path, Resolved]:
    try:
        path_text(name)
    except ValueError as error:
        raise SpecError(f"the model '{name[:80]}' {error}") from None
    path = _snapshot(expanded(name))
    if path.is_dir() and (path / "config.json").is_file():
        path = path / "config.json"
    if path.is_file():
        return path, Resolved(name, {})
    if path.is_dir() and name.rstrip("/").lower() not in catalogue_names():
        raise SpecError([Problem("the folder holds no config.json", str(path))])
    found = resolve(name)
    return paths.MODELS / found.model / "config.json", found


def _snapshot(path: Path) -> Path:
    """Of a hub's cache of a model the newest snapshot; any other path as it is."""
    snapshots = [file.parent for file in path.glob("snapshots/*/config.json")] if path.is_dir() else []
    return max(snapshots, key=lambda folder: folder.stat().st_mtime_ns, default=path)


@lru_cache(maxsize=256)
def _load_model(
    path: Path, beside: Path | None, _stamps: tuple[int, ...], overrides: str, quantization: str | None, note: str
) -> Model:
    config = read_json(path, CONFIG).data
    problems = _override(config, json.loads(overrides), str(path))
    if problems:
        raise SpecError(problems)
    quantized = read_json(beside, _SIDECAR).data if beside else None
    model = model_from_config(config, _title(path), str(path), quantized)
    if quantization:
        model = model.stored_as(quantization)
    return replace(model, notes=(*model.notes, note)) if note else model


def _title(path: Path) -> str:
    """The model's name where a folder, a hub's cache or the file says it."""
    if path.name != "config.json":
        return path.stem.removesuffix("_config")
    return cached_name(str(path)) or path.absolute().parent.name


def _sidecar_path(path: Path) -> Path | None:
    """The quantisation that NVIDIA's Model Optimizer writes beside a config.json."""
    beside = path.with_name(path.name.removesuffix("config.json") + _SIDECAR)
    return beside if path.name.endswith("config.json") and beside.is_file() else None


def _override(config: dict[str, Any], overrides: dict[str, Any], source: str) -> list[Problem]:
    """Replace fields where they stand, inside a nested text model too. Fields that do not exist are problems."""
    places = [config, *(config[n] for n in ("text_config", "language_config") if isinstance(config.get(n), dict))]
    problems: list[Problem] = []
    for key, value in overrides.items():
        found = [place for place in places if key in place]
        if not found and key in _MAY_BE_ADDED:
            found = [places[-1]]
        if not found:
            near = difflib.get_close_matches(key, [k for place in places for k in place], 1)
            hint = f"did you mean '{near[0]}'?" if near else "only fields it has can be replaced"
            problems.append(Problem(f"hf_overrides: '{key}' is not a field; {hint}", source))
        for place in found:
            if isinstance(value, dict) and isinstance(place.get(key), dict):
                place[key] = {**place[key], **value}
            else:
                place[key] = value
    return problems
