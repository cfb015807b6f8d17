"""``vllm serve ...`` as a scenario: the flags people already run, read into engine settings."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from typing import Any

from moesim.engines.settings import SWITCHES, EngineSettings
from moesim.errors import Problem, SpecError
from moesim.files import yaml

_WHERE = "--from-vllm"
_CONTAINERS = {"docker", "podman", "nerdctl", "sudo"}
_IMAGE = re.compile(r"(?:[\w.-]+(?::\d+)?/)*vllm[\w.-]*(?:/[\w.-]+)*([:@][\w.:-]+)?")
"""An image of vLLM, and its tag or digest: vllm/vllm-openai:v0.15.1."""
_VERSION = re.compile(r":v?(\d+(?:\.\d+)+|latest|nightly)")
_SHORT = {
    "tp": "tensor_parallel_size", "pp": "pipeline_parallel_size", "dp": "data_parallel_size", "q": "quantization",
    "ep": "enable_expert_parallel", "asc": "api_server_count",
}  # fmt: skip
_RENAMED = {"cudagraph_capture_sizes": "max_cudagraph_capture_size", "cuda_graph_sizes": "max_cudagraph_capture_size"}
_HARMLESS = {
    "host", "port", "trust_remote_code", "served_model_name", "api_key", "tokenizer", "tokenizer_mode", "chat_template",
    "enable_auto_tool_choice", "tool_call_parser", "reasoning_parser", "disable_log_requests", "disable_log_stats",
    "download_dir", "load_format", "revision", "seed", "uvicorn_log_level", "generation_config", "dtype",
    "distributed_executor_backend", "api_server_count", "enable_log_requests", "root_path", "ssl_keyfile",
    "ssl_certfile", "swap_space", "response_role", "max_log_len", "attention_backend", "safetensors_load_strategy",
}  # fmt: skip
"""Flags that change no time, or whose effect the tables hold already."""
_HARMLESS_SETTINGS = {"VLLM_USE_V1", "VLLM_API_KEY", "VLLM_LOGGING_LEVEL", "VLLM_HOST_IP", "VLLM_CACHE_ROOT"}


def scenario_from_vllm(command: str) -> tuple[dict[str, Any], list[str]]:
    """(the model and engine parts of a scenario, notes on flags that were left out).

    Parameters
    ----------
    command : str
        ``vllm serve MODEL --flag value ...``; environment assignments before it are skipped.

    Raises
    ------
    SpecError
        No vLLM command, no model, or a value that cannot be read.
    """
    try:
        words = shlex.split(command, comments=True)
    except ValueError as error:
        raise SpecError([Problem(f"cannot be read: {error}", _WHERE)]) from None
    words = [word for word in words if word.strip("\\\n ")]
    settings, words = _environment(words)
    version, found, words = _container(words)
    settings |= found
    if words[:2] == ["vllm", "serve"]:
        words = words[2:]
    elif words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]:
        words = words[3:]
    else:
        raise SpecError([Problem("is no vLLM command; 'vllm serve MODEL --flag value ...' is accepted", _WHERE)])
    model, flags, rest = _flags(words)
    if not model:
        raise SpecError([Problem("names no model; 'vllm serve MODEL ...' is accepted", _WHERE)])
    engine, notes = _engine(flags)
    if version:
        engine = {"version": version} | engine
    notes += [
        f"{name} is not used: its effect is not known here"
        for name in settings
        if name.startswith("VLLM_") and name not in _HARMLESS_SETTINGS
    ]
    notes += [f"'{' '.join(rest)}' is not used: it is no flag"] if rest else []
    return {"model": model, "engine": engine}, notes


def _environment(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """(assignments before a command, the command)."""
    settings: dict[str, str] = {}
    while words and "=" in words[0] and not words[0].startswith("-"):
        name, _, settings[name] = words[0].partition("=")
        words = words[1:]
    return settings, words


def _container(words: list[str]) -> tuple[str | None, dict[str, str], list[str]]:
    """(version that the image's tag names, variables given to it, the vLLM command that runs in it).

    What comes before the image is the container's, what comes after is vLLM's.
    """
    if not words or words[0] not in _CONTAINERS:
        return None, {}, words
    named = (i for i, word in enumerate(words) if _IMAGE.fullmatch(word) and words[i - 1] != "--entrypoint")
    place = next(named, None)
    if place is None:
        raise SpecError([Problem("runs no image of vLLM; 'docker run ... vllm/vllm-openai:v0.18.0 ...' is", _WHERE)])
    tag = _IMAGE.fullmatch(words[place])[1] or ":latest"  # type: ignore[index]
    version = _VERSION.match(tag)
    if version is None:
        known = "a tag like v0.18.0, latest or nightly does; or give the command inside and --engine-version"
        raise SpecError([Problem(f"the image's tag '{tag[1:]}' names no version; {known}", _WHERE)])
    given = [word for before, word in itertools.pairwise(words[:place]) if before in {"-e", "--env"}]
    inside = words[place + 1 :]
    inside = inside[1:] if inside[:1] == ["vllm"] else inside
    inside = inside[1:] if inside[:1] == ["serve"] else inside
    return version[1], _environment([word for word in given if "=" in word])[0], ["vllm", "serve", *inside]


def _flags(words: list[str]) -> tuple[str, dict[str, str | None], list[str]]:
    """(model, flag -> value or None, words that are neither) of a command's words."""
    model, flags, rest = "", {}, list[str]()
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            if model:
                rest.append(word)
            model = model or word
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        name = _SHORT.get(name, name)
        if not equals and words and not words[0].startswith("-") and not _is_switch(name):
            value, equals = words.pop(0), "="
            while words and words[0].isdigit() and _RENAMED.get(name):
                value += f",{words.pop(0)}"
        if name == "model":
            model = value
        else:
            flags[_RENAMED.get(name, name)] = value if equals else None
    return model, flags, rest


def _is_switch(name: str) -> bool:
    """Whether a flag stands without a value."""
    return name.removeprefix("no_") in SWITCHES or name.startswith(("no_", "disable_", "enable_", "trust_"))


def _engine(flags: dict[str, str | None]) -> tuple[dict[str, Any], list[str]]:
    engine: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in flags.items():
        bare = name.removeprefix("no_")
        if bare in EngineSettings.model_fields:
            if value is None and bare not in SWITCHES:
                raise SpecError([Problem(f"--{name.replace('_', '-')} needs a value", _WHERE)])
            engine[bare] = _value(name, bare, value)
        elif name == "speculative_config":
            raise SpecError([Problem("--speculative-config: speculative decoding is not predicted yet", _WHERE)])
        elif name == "cpu_offload_gb" and value not in {"0", None}:
            raise SpecError([Problem("--cpu-offload-gb: offloaded weights are not predicted yet", _WHERE)])
        elif bare not in _HARMLESS:
            notes.append(f"--{name.replace('_', '-')} is not used: its effect is not known here")
    return engine, notes


def _value(name: str, field: str, text: str | None) -> Any:
    if name.startswith("no_") or text is None:
        return not name.startswith("no_")
    if field == "max_cudagraph_capture_size":
        return max((int(n) for n in text.replace(",", " ").split() if n.isdigit()), default=0)
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            raise SpecError([Problem(f"--{field.replace('_', '-')}: '{text}' is not JSON", _WHERE)]) from None
    # vLLM's names for what the model's config.json says anyway, and for kinds of fp8.
    special = {("quantization", "compressed-tensors"): None, ("quantization", "modelopt"): "fp8"}
    if (field, text) in special:
        return special[field, text]
    if field == "kv_cache_dtype" and text.startswith("fp8"):
        return "fp8"
    if field == "max_model_len" and text[:-1].isdigit() and text[-1] in "kK":
        # vLLM's human-readable integers: k is 1000, K is 1024.
        return int(text[:-1]) * (1000 if text[-1] == "k" else 1024)
    return yaml.parse(f"value: {text}", _WHERE).data["value"]
