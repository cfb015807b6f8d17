"""Engine settings as the ``vllm serve`` command that asks for them: the reading, turned round."""

from __future__ import annotations

import json
import shlex
from typing import Any, NamedTuple

from moesim.engines.engine import load_engine
from moesim.engines.settings import EngineSettings
from moesim.errors import SpecError
from moesim.inputs.scenario import Scenario
from moesim.inputs.vllm_command.tables import tables
from moesim.models.catalogue import load_model

_WHILE_LOADING = frozenset({
    "fp8", "fp8_per_tensor", "fp8_per_block", "ptpc_fp8", "mxfp8", "experts_int8", "int8_per_channel_weight_only",
    "bitsandbytes", "torchao", "inc",
})  # fmt: skip
"""What vLLM makes of any checkpoint; other formats need one that is stored so."""
_IMAGE = "vllm/vllm-openai"


class Command(NamedTuple):
    """A command line, and what it cannot say."""

    words: tuple[str, ...]
    notes: tuple[str, ...]
    environment: dict[str, str]

    @property
    def text(self) -> str:
        variables = " ".join(f"{name}={value}" for name, value in self.environment.items())
        return f"{variables} {shlex.join(self.words)}".strip()


def serve_command(scenario: Scenario) -> Command:
    """``vllm serve MODEL --flags`` for a scenario's engine. Raises SpecError where the engine is another."""
    settings = scenario.engine
    if settings.name != "vllm":
        raise SpecError(f"a vllm command is of vLLM; the scenario's engine is {settings.name}")
    words, notes = ["vllm", "serve", scenario.model], []
    told = settings.model_dump(exclude_defaults=True, exclude_none=True)
    flags = _flags()
    for name, value in told.items():
        if name == "quantization":
            more, note = _format(scenario, str(value))
            words += more
            notes += [note] if note else []
        elif name == "speculative_config":
            words += ["--speculative-config", json.dumps(_drafts(value))]
        elif name in flags:
            words += _flag(flags[name], value)
        elif name not in {"name", "version", "nccl_algo"} and not name.startswith(_OF_OTHERS):
            notes.append(f"{name} {value} has no flag of vLLM's")
    environment = {"NCCL_ALGO": settings.nccl_algo.upper()} if settings.nccl_algo != "auto" else {}
    return Command(tuple(words), tuple(notes), environment)


_OF_OTHERS = ("moe_dispatch", "moe_capacity", "moe_loop", "moe_pipeline", "rank_order", "front_end", "expert_tensor",
              "pipeline_micro")  # fmt: skip
"""Settings of engines that vLLM is not."""


def docker_command(command: Command, settings: EngineSettings) -> str:
    """The same in vLLM's own container."""
    asked = load_engine(settings.name, settings.version).asked
    tag = "v" + asked + ".0" * (2 - asked.count("."))
    variables = "".join(f" -e {name}={value}" for name, value in command.environment.items())
    words = shlex.join(command.words[2:])
    return (
        f"docker run --gpus all --ipc=host -p 8000:8000 -v ~/.cache/huggingface:/hf -e HF_HOME=/hf{variables} "
        f"{_IMAGE}:{tag} --model {words}"
    )


def _flags() -> dict[str, tuple[str, str]]:
    """Setting -> (argument, how it is read); where several arguments are one setting, the one of its own name."""
    found: dict[str, tuple[str, str]] = {}
    for argument, read in tables().read.items():
        setting = read.setting or argument
        if setting not in found or setting == argument:
            found[setting] = (argument, read.kind)
    return found


def _flag(flag: tuple[str, str], value: Any) -> list[str]:
    argument, kind = flag
    head, dot, key = argument.partition(".")
    written = f"--{head.replace('_', '-')}"
    if dot:
        # A field of a JSON argument.
        fields: Any = value
        for name in reversed(key.split(".")):
            fields = {name: fields}
        return [written, json.dumps(fields)]
    if kind == "switch":
        return [written if value else f"--no-{written[2:]}"]
    return [written, json.dumps(value) if isinstance(value, dict) else str(value)]


def _format(scenario: Scenario, name: str) -> tuple[list[str], str]:
    """What asks for a weight format, and what a user must do for it."""
    model = load_model(scenario.model, scenario.engine.hf_overrides)
    if model.under(name) == model:
        return [], ""
    if name in _WHILE_LOADING:
        return ["--quantization", name], ""
    stored = "bfloat16" if name == "none" else name
    return [], f"vLLM takes {stored} from a checkpoint that is stored so: serve one in place of {scenario.model}"


def _drafts(value: dict[str, Any]) -> dict[str, Any]:
    """Speculation as vLLM reads it; how many drafts are accepted is not its to be told."""
    known = ("method", "model", "num_speculative_tokens", "draft_tensor_parallel_size", "prompt_lookup_max",
             "prompt_lookup_min", "parallel_drafting")  # fmt: skip
    return {name: value[name] for name in known if value.get(name) is not None and value[name] is not False}
