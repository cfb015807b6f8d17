"""What is asked of a served engine: how it is started, and the batches and arrivals that are measured on it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from moesim import paths
from moesim.bench.engine.plan import batch_points, load_points
from moesim.bench.engine.settings import MODES, EngineSettings
from moesim.bench.point import Point
from moesim.errors import Problem, SpecError
from moesim.files.json import read as read_json
from moesim.files.names import squeezed
from moesim.files.quantities import NO_SWITCH, PathText, Strict, Whole
from moesim.files.writing import write_whole
from moesim.inputs.routing import routing_named
from moesim.models.catalogue import CONFIG

QUANTIZATION = {
    "fp8": {"quant_method": "fp8", "activation_scheme": "static"},
    "fp8_block": {
        "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128],
    },
}  # fmt: skip
"""Format -> what config.json says of weights that are stored so."""


def _batches(text: str) -> str:
    """``1,8,64:128:33``: requests at once, tokens in, tokens out. Raises ValueError."""
    try:
        found = [int(x) for part in text.split(":") for x in part.split(",")]
        _grid(text)
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"'{text}' is not batches, tokens in, tokens out; 1,8,64:128:33 is accepted")
    return text


def _grid(text: str) -> list[tuple[int, int, int]]:
    batches, tokens_in, tokens_out = text.split(":")
    return [(int(b), int(tokens_in), int(tokens_out)) for b in batches.split(",")]


def _rates(text: str) -> str:
    """``4,16:48:256:64``: arrivals a second, requests, mean tokens in and out. Raises ValueError."""
    try:
        rates, *others = text.split(":")
        found = [*(float(rate) for rate in rates.split(",")), *(int(x) for x in others)]
    except ValueError:
        found = []
    if len(text.split(":")) != 4 or not found or not all(0 < x < math.inf for x in found):
        raise ValueError(f"'{text}' is not rates, requests, tokens in, tokens out; 4,16:48:256:64 is accepted")
    return text


def _routing(text: str) -> str:
    if text != "natural":
        routing_named(text)
    return text


class EngineAsk(Strict):
    """One engine and what is measured on it; the options of ``moesim bench-engine``."""

    model: PathText
    """A model of the catalogue, or a folder with config.json."""
    batches: list[Annotated[str, AfterValidator(_batches)]] = []
    """Requests at once, tokens in, tokens out, like 1,8,64:128:33."""
    rates: Annotated[str, AfterValidator(_rates)] | None = None
    """Poisson arrivals a second, requests, mean tokens in and out, like 4,16:48:256:64."""
    repetitions: Whole = 2
    minutes: Annotated[float, Field(gt=0)] = 10.0
    quantization: Literal["fp8", "fp8_block"] | None = None
    """Start in another weight format."""
    mode: Literal["eager", "graph", "compile"] = "graph"
    """Graph starts faster than vLLM's default, compile."""
    routing: Annotated[str, AfterValidator(_routing)] = "natural"
    hf_overrides: dict[str, Annotated[int, NO_SWITCH]] = {}
    """Fields of config.json to replace."""
    moe_backend: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")] = "auto"
    """vLLM's name of the experts' kernel."""
    async_scheduling: bool | None = None
    disable_shared_experts_stream: bool = False
    draft_model: PathText | None = None
    num_speculative_tokens: Annotated[int, Field(ge=0, le=16), NO_SWITCH] = 0
    acceptance_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Chance that a draft is kept where all before it are; vLLM is told to keep so many."""
    tensor_parallel_size: Whole = 1
    max_model_len: Whole = 4096
    max_num_seqs: Whole = 256
    max_num_batched_tokens: Whole = 8192
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8"] = "auto"
    edge: Annotated[int, Field(ge=0, le=20), NO_SWITCH] = 0
    """More starts, to find the least share of memory it starts with."""

    @model_validator(mode="after")
    def _whole(self) -> EngineAsk:
        if (self.draft_model is None) != (self.num_speculative_tokens == 0):
            raise ValueError("draft_model and num_speculative_tokens go together; give both, or neither")
        if self.acceptance_rate and self.draft_model is None:
            raise ValueError("acceptance_rate is of a draft_model's tokens; give one, or leave it out")
        return self

    def settings(self, folder: Path) -> EngineSettings:
        """How the engine is started; a config.json that is changed is written below ``folder``. Raises SpecError."""
        return EngineSettings(
            model_folder(self.model, self.quantization, folder), self.mode, self.routing, self.tensor_parallel_size,
            self.max_model_len, self.max_num_seqs, self.max_num_batched_tokens, self.gpu_memory_utilization,
            self.kv_cache_dtype, dict(self.hf_overrides), self.moe_backend, self.async_scheduling,
            self.disable_shared_experts_stream,
            model_folder(self.draft_model, None, folder) if self.draft_model else None,
            self.num_speculative_tokens, self.acceptance_rate,
        )  # fmt: skip

    def points(self, settings: EngineSettings) -> list[Point]:
        """Everything to measure. Raises SpecError where nothing fits the engine's limits."""
        grid = [point for text in self.batches or _USUAL_BATCHES for point in _grid(text)]
        points = batch_points(settings, grid, self.repetitions)
        if self.rates:
            rates, requests, tokens_in, tokens_out = self.rates.split(":")
            lengths = (int(tokens_in), int(tokens_out))
            points += load_points(settings, [float(rate) for rate in rates.split(",")], int(requests), lengths)
        if not points:
            message = "nothing of it fits max_num_seqs and max_model_len"
            raise SpecError([Problem(message, f"batches of {self.model}")])
        return points


_USUAL_BATCHES: Sequence[str] = ("1,8,64:128:33",)
assert set(MODES) == {"eager", "graph", "compile"}


def model_folder(name: str, quantization: str | None, folder: Path) -> Path:
    """A folder with the config.json to start vLLM on: the catalogue's or the user's, in another format on request.

    Raises
    ------
    SpecError
        There is no such model.
    """
    known = {squeezed(p.parent.name): p.parent for p in paths.MODELS.glob("*/config.json")}
    source = known.get(squeezed(name)) or Path(name)
    if not (source / "config.json").is_file():
        message = f"'{name}' is neither in the catalogue (moesim models) nor a folder with config.json"
        raise SpecError([Problem(message)])
    if quantization is None and source.parent == paths.MODELS:
        return source
    config: dict[str, Any] = read_json(source / "config.json", CONFIG).data
    name = source.resolve().name
    if quantization is not None:
        config, name = config | {"quantization_config": QUANTIZATION[quantization]}, f"{name}-{quantization}"
    target = folder / "models" / name
    write_whole(target / "config.json", json.dumps(config, indent=1) + "\n")
    return target
