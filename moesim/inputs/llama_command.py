"""llama.cpp's command lines as people run them, read into a scenario with an offload."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.files.reading import expanded
from moesim.hardware.hardware import Hardware
from moesim.inputs.gguf_file import GgufModel, header, named
from moesim.models.catalogue import load_model
from moesim.models.model import Model

WHERE = "--from-llama-cpp"
_SYSTEM = "llama-cpp"
_VALUES = {
    "model": ("-m", "--model"), "repo": ("-hf", "-hfr", "--hf-repo"), "n_gpu_layers": ("-ngl", "--gpu-layers",
    "--n-gpu-layers"), "n_cpu_moe": ("-ncmoe", "--n-cpu-moe"), "tensors": ("-ot", "--override-tensor"),
    "ubatch": ("-ub", "--ubatch-size"), "parallel": ("-np", "--parallel"), "prompt": ("-p", "--n-prompt"),
    "new": ("-n", "--n-gen", "--predict", "--n-predict"), "split": ("-sm", "--split-mode"),
    "shares": ("-ts", "--tensor-split"), "devices": ("-dev", "--device"),
    "keys": ("-ctk", "--cache-type-k"), "values": ("-ctv", "--cache-type-v"),
}  # fmt: skip
"""Flags with a value that is read."""
_WHOLE = ("n_gpu_layers", "n_cpu_moe", "ubatch", "parallel", "prompt", "new")
_SWITCHES = {"cpu_moe": ("-cmoe", "--cpu-moe"), "cache_on_host": ("-nkvo", "--no-kv-offload")}
_NO_EFFECT = {
    "--port", "--host", "-a", "--alias", "--api-key", "--jinja", "--chat-template", "--chat-template-file", "--temp",
    "--top-p", "--top-k", "--min-p", "--seed", "-s", "--log-file", "--metrics", "--no-webui", "-hff", "--hf-file",
    "--repeat-penalty", "--presence-penalty", "-cnv", "--reasoning-format", "--chat-template-kwargs", "-r", "-o",
    "--no-warmup", "--verbose", "-v", "--timeout", "--slots", "--props", "--ctx-checkpoints",
}  # fmt: skip
_DIFFERS = {
    **dict.fromkeys(("-c", "--ctx-size"), "the KV cache is counted for the load's own lengths"),
    **dict.fromkeys(("-t", "--threads", "-tb", "--threads-batch"), "all cores that its kernels use are counted"),
    **dict.fromkeys(("-b", "--batch-size"), "a prompt goes in micro-batches, -ub"),
    **dict.fromkeys(("-fa", "--flash-attn"), "attention is priced as vLLM's kernels run it"),
    **dict.fromkeys(("-mg", "--main-gpu"), "GPUs are taken to be filled evenly"),
    **dict.fromkeys(("--no-mmap", "--mlock", "-mmp", "--mmap"), "weights are taken to be in memory already"),
    **dict.fromkeys(("--numa",), "one rate of main memory is counted"),
    **dict.fromkeys(
        ("-md", "--model-draft", "--draft-max", "--draft-min"), "drafts are not predicted beside an offload"
    ),
}
_EXPERTS = ("ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight")
_ONE_BYTE, _WIDE_CACHE = {"q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"}, {"f16", "bf16", "f32"}


def scenario_from_llama_cpp(command: str, hardware: Hardware | None = None) -> tuple[dict[str, Any], list[str]]:
    """(the model, engine, offload and what a command says of the workload; notes on what a prediction leaves out).

    Parameters
    ----------
    command : str
        ``llama-server -m model.gguf -ngl 99 --n-cpu-moe 24 ...``, llama-cli or llama-bench. Where the model's file is
        at hand its header is read, else its name.
    hardware : Hardware, optional
        Whose GPUs run it. How many do, the command says: -ts, --device, or CUDA_VISIBLE_DEVICES; else one.

    Raises
    ------
    SpecError
        No model, or values that cannot be read: all problems at once.
    """
    reading = _Reading(*_words(command))
    found = reading.scenario(hardware)
    if reading.problems:
        raise SpecError([Problem(message, WHERE) for message in reading.problems])
    return found, reading.notes


def _words(command: str) -> tuple[dict[str, str], list[str]]:
    """(variables before the program, the program and the words behind it)."""
    try:
        words = shlex.split(command.replace("\\\n", " ").replace("\n", " "))
    except ValueError as error:
        raise SpecError([Problem(f"cannot be read as shell words: {error}", WHERE)]) from None
    start = next((i for i, word in enumerate(words) if re.match(r"llama(-|$)", Path(word).name)), None)
    if start is None:
        raise SpecError([Problem("names no llama.cpp program; 'llama-server -m MODEL.gguf ...' is accepted", WHERE)])
    variables = dict(word.split("=", 1) for word in words[:start] if re.match(r"[A-Za-z_]\w*=", word))
    return variables, words[start:]


class _Reading:
    def __init__(self, variables: dict[str, str], words: list[str]) -> None:
        self.variables = variables
        self.given: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self.problems: list[str] = []
        flags = {flag: name for name, spelled in _VALUES.items() for flag in spelled}
        switches = {flag: name for name, spelled in _SWITCHES.items() for flag in spelled}
        program, *left = words
        # A benchmark's prompts are lengths, any other program's are texts.
        texts = () if Path(program).name == "llama-bench" else ("-p", "--prompt", "-f", "--file")
        while left:
            word, equals, value = left.pop(0).partition("=")
            if word in texts:
                left = left if equals else left[1:]
                continue
            following = bool(left) and not re.match(r"-{1,2}[A-Za-z]", left[0])
            if word in flags:
                if not equals and not left:
                    self.problems.append(f"{word} needs a value")
                    continue
                self.given.setdefault(flags[word], []).append(value if equals else left.pop(0))
            elif word in switches:
                # llama-bench gives switches a value.
                self.given[switches[word]] = [left.pop(0) if left and left[0] in {"0", "1"} else "1"]
            else:
                said = f"{word} {left.pop(0)}" if following and not equals and word.startswith("-") else word
                if word in _DIFFERS:
                    self.notes.append(f"{said} is not modelled: {_DIFFERS[word]}")
                elif word not in _NO_EFFECT:
                    self.notes.append(f"{said} is not used: its effect is not known here")

    def scenario(self, hardware: Hardware | None) -> dict[str, Any]:
        model = self._model()
        if model is None:
            for name in _WHOLE:
                self._whole(name)
            return {}
        engine: dict[str, Any] = {}
        if (ubatch := self._whole("ubatch")) is not None:
            engine["max_num_batched_tokens"] = ubatch
        self._cache(engine, hardware is not None and hardware.gpu.dense_fp8 is None)
        self._split(engine)
        found = {"model": model.name, "engine": engine, "offload": self._offload(model)}
        lengths = {
            "input_len": self._whole("prompt"),
            "output_len": self._whole("new"),
            "batch_size": self._whole("parallel"),
        }
        load = {name: value for name, value in lengths.items() if value is not None and value > 0}
        if load.get("batch_size", 1) > 1:
            self.notes.append(f"-np {load['batch_size']}: predicted as so many sequences at once")
        if load_model(model.name).moe is not None:
            found["routing"] = {"kind": "locality"}
        return found | ({"workload": load} if load else {})

    def _model(self) -> GgufModel | None:
        given = [*self.given.get("model", []), *self.given.get("repo", [])]
        if not given:
            self.problems.append("names no model; give -m MODEL.gguf or -hf REPOSITORY:FORMAT")
            return None
        path = expanded(given[0])
        try:
            model = header(path) if path.is_file() else named(given[0])
            known = load_model(model.name)
        except SpecError as error:
            self.problems += [str(problem) for problem in error.problems]
            return None
        if known.moe is None and model.experts is None and model.attention is None:
            self.notes.append(f"'{given[0]}' says no format; the system's own is taken")
        experts = known.moe.num_experts if known.moe else None
        for what, own, catalogued in (
            ("layers", model.layers, known.num_hidden_layers), ("values a token", model.hidden_size, known.hidden_size),
            ("experts", model.num_experts, experts),
        ):  # fmt: skip
            if own and catalogued and own != catalogued:
                self.problems.append(f"'{given[0]}' has {own} {what}, but {known.name} has {catalogued}")
        return model

    def _offload(self, model: GgufModel) -> dict[str, Any]:
        known = load_model(model.name)
        layers = known.num_hidden_layers
        found: dict[str, Any] = {"system": _SYSTEM}
        if self.given.get("cache_on_host") == ["1"]:
            found["kv_cache"] = "cpu"
        native = known.quantization.experts
        experts = "mxfp4" if native == "mxfp4" else model.experts
        if native == "mxfp4" and model.attention in {None, "mxfp4"}:
            found["attention_format"] = "bfloat16"
        elif model.attention:
            found["attention_format"] = model.attention
        if experts:
            found["experts_format"] = experts
        on_gpu = self._whole("n_gpu_layers")
        whole_layers = on_gpu is not None and on_gpu < layers
        off = self._experts_off(known)
        if off and whole_layers and off > layers - (on_gpu or 0):
            self.problems.append(
                f"-ngl {on_gpu} leaves whole layers on the host and {off} layers lose their experts: both together are "
                f"not predicted; give -ngl {layers} or more, or leave the experts out"
            )
        elif whole_layers:
            found["n_gpu_layers"] = on_gpu
        elif off is not None or on_gpu is not None:
            found["n_cpu_moe"] = off or 0
        return found

    def _experts_off(self, model: Model) -> int | None:
        """First layers whose experts stay on the host; None where nothing is said."""
        every = self.given.get("cpu_moe") == ["1"]
        first = model.num_hidden_layers if every else self._whole("n_cpu_moe")
        if "tensors" not in self.given:
            return None if first is None else min(first, model.num_hidden_layers)
        places = [place for place, i in enumerate(model.order) if model.layers[i].routed is not None]
        off = self._overridden(places, first or 0)
        return places[off - 1] + 1 if off else 0

    def _overridden(self, places: list[int], first: int) -> int:
        """By ``-ot REGEX=CPU``, besides those of the ``first`` layers: how many layers' worth of experts match."""
        rules: list[tuple[re.Pattern[str], str]] = []
        for text in ",".join(self.given["tensors"]).split(","):
            pattern, _, where = text.rpartition("=")
            try:
                rules.append((re.compile(pattern), where))
            except re.error as error:
                self.problems.append(f"-ot '{text}' is no regular expression: {error}")
        matched = 0
        for i in places:
            for tensor in _EXPERTS:
                where = next((place for pattern, place in rules if pattern.search(f"blk.{i}.{tensor}")), "")
                matched += i < first or _on_host(where)
        whole, parts = divmod(matched, len(_EXPERTS))
        if parts or not all(_on_host(where) for _, where in rules):
            self.notes.append(
                f"-ot is read as the experts of {whole + bool(parts)} layers on the host, the rest on GPUs"
            )
        return whole + bool(parts)

    def _cache(self, engine: dict[str, Any], wide: bool) -> None:
        kinds = {self.given[name][-1].lower() for name in ("keys", "values") if name in self.given}
        unknown = kinds - _ONE_BYTE - _WIDE_CACHE
        if unknown:
            self.problems.append(f"a KV cache of {', '.join(sorted(unknown))} is not known; accepted: "
                                 f"{', '.join(sorted(_ONE_BYTE | _WIDE_CACHE))}")  # fmt: skip
        elif kinds & _ONE_BYTE and wide:
            self.notes.append(
                f"a KV cache of {', '.join(sorted(kinds))} is counted in 16 bits, as this GPU's kernels have it"
            )
        elif kinds & _ONE_BYTE:
            engine["kv_cache_dtype"] = "fp8"
            self.notes.append(f"a KV cache of {', '.join(sorted(kinds))} is counted as a byte a number")

    def _split(self, engine: dict[str, Any]) -> None:
        mode = self.given.get("split", ["layer"])[-1]
        if mode not in {"layer", "none", "row"}:
            self.problems.append(f"-sm {mode} is not known; accepted: layer, none, row")
        lists = [self.given.get("shares", [""])[-1].replace("/", ","), self.given.get("devices", [""])[-1],
                 self.variables.get("CUDA_VISIBLE_DEVICES", "")]  # fmt: skip
        if "none" in lists[1].lower() or lists[2].strip() == "-1":
            self.problems.append("no GPU runs it: a processor alone is not predicted")
        lists[0] = ",".join(share for share in lists[0].split(",") if share.strip() not in {"", "0"})
        gpus = next((len(text.split(",")) for text in lists if text), 1)
        if gpus > 1 and mode != "none":
            engine["pipeline_parallel_size"] = gpus
            if mode == "row":
                self.notes.append("-sm row is read as -sm layer: whole layers on each GPU")
            if "shares" in self.given:
                self.notes.append("-ts: GPUs are taken to be filled evenly")

    def _whole(self, name: str) -> int | None:
        if name not in self.given:
            return None
        text = self.given[name][-1]
        if name == "n_gpu_layers" and text.lower() in {"auto", "-1", "all"}:
            return 10_000 if text.lower() == "all" else None
        if not re.fullmatch(r"-?\d{1,9}", text) or (int(text) < 0 and name != "new"):
            self.problems.append(f"{_VALUES[name][0]} {text} is no number; a whole number from 0 is accepted")
            return None
        return int(text)


def _on_host(buffer: str) -> bool:
    """A kind of buffer in main memory: CPU, or pinned for a GPU (CUDA_Host)."""
    return buffer.upper() == "CPU" or buffer.upper().endswith("_HOST")
