"""A vLLM command as a scenario: its arguments and variables as engine settings, with notes on what differs."""

from __future__ import annotations

import difflib
from typing import Any

from moesim.engines.engine import load_engine
from moesim.errors import MoesimError, Problem, SpecError
from moesim.inputs.vllm_command.arguments import WORKLOAD, Arguments, arguments_of, flag_of
from moesim.inputs.vllm_command.program import Program, program_of
from moesim.inputs.vllm_command.shell import WHERE, unresolved
from moesim.inputs.vllm_command.tables import Effect, Read, tables
from moesim.inputs.vllm_command.values import as_map, number, sizes, switch, whole
from moesim.models.catalogue import load_model

_OURS = ("VLLM_", "NCCL_", "CUDA_")
"""Variables that may change what an engine does."""
_OFFLOAD = "vllm-offload"
_NCCL = {"ring", "tree", "nvls"}


def scenario_from_vllm(command: str) -> tuple[dict[str, Any], list[str]]:
    """(the model, engine and, of an offline benchmark, workload of a scenario; notes on what a prediction leaves out).

    Parameters
    ----------
    command : str
        ``vllm serve MODEL --flag value ...`` as it is typed or published: in a container, after variables, sudo,
        nohup or uv run, over several lines, with redirections.

    Raises
    ------
    SpecError
        No vLLM command, no model, or values that cannot be read: all problems at once.
    """
    program = program_of(command)
    reading = _Reading(program, arguments_of(program.words, program.kind == "serve"))
    reading.run()
    if reading.problems:
        raise SpecError([Problem(message, WHERE) for message in reading.problems])
    found: dict[str, Any] = {"model": reading.arguments.model, "engine": reading.engine}
    if reading.offload:
        found["offload"] = {"system": _OFFLOAD, **reading.offload}
    if program.kind != "serve":
        found["workload"] = reading.workload()
    return found, list(dict.fromkeys(reading.notes))


class _Reading:
    def __init__(self, program: Program, arguments: Arguments) -> None:
        self.program, self.arguments, self.tables = program, arguments, tables()
        self.engine: dict[str, Any] = {}
        self.load: dict[str, int] = {}
        self.offload: dict[str, Any] = {}
        self.notes: list[str] = [*program.notes, *arguments.notes]
        self.problems: list[str] = list(arguments.problems)

    def run(self) -> None:
        model = self.arguments.model
        if not model:
            self.problems.append("names no model; 'vllm serve MODEL ...' is accepted")
        elif unresolved(model):
            self.problems.append(f"the model '{model}' has no value here; write its name")
        if self.program.version:
            self.engine["version"] = self.program.version
        if self.program.front_end:
            self.engine["front_end"] = self.program.front_end
        self._variables()
        for name, value in self.arguments.given.items():
            self._argument(name, value, self.arguments.written[name])
        self._together()
        lost = [word for word in self.arguments.rest if unresolved(word)]
        self.notes += [f"'{word}' has no value here: what it adds to the command is not used" for word in lost]
        other = " ".join(word for word in self.arguments.rest if word not in lost)
        self.notes += [f"'{other}' is not used: it is no flag"] if other else []

    def _argument(self, name: str, value: Any, written: str) -> None:
        if self.program.kind != "serve" and name in WORKLOAD:
            self._read(Read.model_validate({"as": "whole"}), name, value, written, self.load)
            return
        if name in self.tables.refused:
            if not _nothing(value, self.tables.refused[name]):
                self.problems.append(f"{_said(written, value)}: {self.tables.refused[name].effect}")
        elif name in self.tables.read:
            read = self.tables.read[name]
            self._read(read, name, value, written, self.offload if read.section == "offload" else None)
        elif name in self.tables.not_modelled:
            self._left_out(self.tables.not_modelled[name], value, written)
        elif name not in self.tables.no_effect and name.partition(".")[0] not in self.tables.no_effect:
            self._unknown(name, value, written)

    def _unknown(self, name: str, value: Any, written: str) -> None:
        above = self.tables.not_modelled.get(name.partition(".")[0]) or self.tables.refused.get(name.partition(".")[0])
        if above is not None:
            self.notes.append(f"{_said(written, value)} is not modelled: {above.effect}")
        else:
            near = difflib.get_close_matches(name, self.tables.all_names, 1, 0.85)
            hint = f"; did you mean {flag_of(near[0])}?" if near else ""
            self.notes.append(f"{written} is not used: its effect is not known here{hint}")

    def _left_out(self, effect: Effect, value: Any, written: str) -> None:
        if not _nothing(value, effect):
            self.notes.append(f"{_said(written, value)} is not modelled: {effect.effect}")

    def _read(self, read: Read, name: str, value: Any, written: str, into: dict[str, Any] | None = None) -> None:
        setting = read.setting or name
        if value is None and read.kind != "switch":
            self.problems.append(f"{written} needs a value")
            return
        text = "true" if value is None else _text(value)
        if unresolved(text):
            self.problems.append(f"{_said(written, value)} has no value here; write it out")
            return
        if text.lower() in read.effects:
            self.notes.append(f"{written} {text} {read.effects[text.lower()]}")
        if text.lower() in read.values:
            found = read.values[text.lower()]
            if found is None:
                self.engine.pop(setting, None)
                return
        else:
            try:
                found = self._value(read, value if value is not None else "true", written)
            except SpecError as error:
                self.problems += [problem.message for problem in error.problems]
                return
            except ValueError as error:
                self.problems.append(f"{written}: {error}")
                return
        if into is None:
            self._set(setting, found)
        else:
            into[setting] = found

    def _value(self, read: Read, value: Any, written: str) -> Any:
        text = _text(value)
        if read.kind in {"map", "speculation"}:
            found, note = (value, "") if isinstance(value, dict) else as_map(text, written)
            self.notes += [note] if note else []
            return found if read.kind == "map" else self._speculation(found, written)
        if read.kind.startswith("sizes"):
            found = sizes(value)
            alone = read.kind == "sizes_or_largest" and len(found) == 1
            return found[0] if alone else self._largest(found, written)
        if read.kind == "gibibytes":
            return f"{number(text):g} GiB"
        return {"whole": whole, "number": number, "switch": switch, "text": str}[read.kind](text)

    def _speculation(self, found: dict[str, Any], written: str) -> dict[str, Any]:
        """``--speculative-config`` as settings of ours."""
        known = self.tables.speculation
        for key, value in found.items():
            if key not in known.read:
                effect = known.not_modelled.get(key, "its effect is not known here")
                self.notes.append(f"{written} {key} {_text(value)} is not modelled: {effect}")
        return {known.read[key]: value for key, value in found.items() if key in known.read and value is not None}

    def _largest(self, found: list[int], written: str) -> int:
        """The largest captured size; which others there are is the version's own."""
        most = found[-1] if found else 0
        own = load_engine("vllm").file.graphs.sizes(most).tolist() if most else []
        if found != own:
            message = f"steps are padded to vLLM's own {len(own)} sizes up to it, not to these {len(found)}"
            self.notes.append(f"{written} is read as its largest, {most}: {message}")
        return most

    def _set(self, setting: str, value: Any) -> None:
        section, dot, key = setting.partition(".")
        if dot:
            self.engine[section] = {**self.engine.get(section, {}), key: value}
        elif isinstance(value, dict):
            self.engine[setting] = {**self.engine.get(setting, {}), **value}
        elif setting == "max_cudagraph_capture_size":
            # Given as sizes, or as their largest: the least holds.
            self.engine[setting] = min(value, self.engine.get(setting, value))
        else:
            self.engine[setting] = value

    def _variables(self) -> None:
        found = self.tables.environment
        for name, value in self.program.environment.items():
            if name == "NCCL_ALGO":
                algorithm = value.lower()
                self.engine |= {"nccl_algo": algorithm} if algorithm in _NCCL else {}
                if algorithm not in _NCCL:
                    self.notes.append(f"{name}={value} is not modelled: NCCL picks its algorithm as it does by itself")
            elif name in found.read:
                self._read(self.tables.read[found.read[name]], found.read[name], value, f"{name}={value}")
            elif name in found.mxfp4_kernel and value == "1" and self._experts_in_mxfp4():
                self.engine["moe_backend"] = found.mxfp4_kernel[name]
            elif name in found.not_modelled:
                if not _nothing(value, found.not_modelled[name]):
                    self.notes.append(f"{name}={value} is not modelled: {found.not_modelled[name].effect}")
            elif name.startswith(_OURS) and name not in found.no_effect:
                self.notes.append(f"{name} is not used: its effect is not known here")

    def _experts_in_mxfp4(self) -> bool:
        try:
            return load_model(self.arguments.model).quantization.experts == "mxfp4"
        except MoesimError:
            return False

    def _together(self) -> None:
        """What one setting means beside others."""
        engine, variables = self.engine, self.program.environment
        counts = [engine.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline", "data")]
        if engine.get("all2all_backend") and not (engine.get("enable_expert_parallel") and counts[2] > 1):
            left_out = engine.pop("all2all_backend")
            if left_out != "allgather_reducescatter":
                without = "without --enable-expert-parallel and --data-parallel-size above 1 nothing is exchanged"
                self.notes.append(f"all2all backend {left_out} is not used: {without}")
        longest = engine.get("max_model_len")
        if longest and variables.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0").lower() in {"1", "true"}:
            self._set("hf_overrides", {"max_position_embeddings": longest, **engine.get("hf_overrides", {})})
        visible = [gpu for gpu in variables.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu.strip()]
        whole_node = not {"nnodes", "data_parallel_size_local"} & set(self.arguments.given)
        ranks = counts[0] * counts[1] * counts[2]
        if visible and whole_node and not unresolved(",".join(visible)) and ranks > len(visible):
            said = f"CUDA_VISIBLE_DEVICES shows {len(visible)} GPUs"
            self.notes.append(f"{said}: vLLM would not start the plan's {ranks} ranks on them, which are predicted")
        if self.program.kind != "serve" and "max_num_batched_tokens" not in engine:
            said = f"'vllm {self.program.kind}' takes two to four times the server's default --max-num-batched-tokens"
            self.notes.append(f"{said}: the server's is predicted; give it to have it")

    def workload(self) -> dict[str, Any]:
        """What an offline benchmark asks: a static batch, or all prompts at once."""
        given, found = self.load, dict[str, Any]()
        for name in ("input_len", "output_len"):
            length = given.get(name, given.get(f"random_{name}"))
            found |= {} if length is None else {name: length}
        if self.program.kind == "bench latency":
            return {"input_len": 32, "output_len": 128, **found, "batch_size": given.get("batch_size", 8)}
        prompts = given.get("num_prompts", 1000)
        return {**found, "max_concurrency": prompts, "num_prompts": prompts}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _said(written: str, value: Any) -> str:
    shown = value is None or written.endswith(f"={value}") or written.startswith("--no-")
    return written if shown else f"{written} {_text(value)}"


def _nothing(value: Any, effect: Effect) -> bool:
    """Whether a value is one that changes nothing."""
    text = "true" if value is None else _text(value).lower()
    return text in effect.unless or (text in {"", "false", "none", "null"} and "true" not in effect.unless)
