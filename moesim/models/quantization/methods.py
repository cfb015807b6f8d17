"""What a ``quantization_config``, or the sidecar beside config.json, says.

Every method vLLM reads is a function here, from its part of the config to the format of the layers it covers. What it
leaves out, or stores otherwise, goes by the names of modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from moesim.models.quantization.checkpoint import BFLOAT16, Quantization
from moesim.models.quantization.modules import Modules, Unknown, bare
from moesim.ops.formats import weight_only, with_group


def quantization(config: Any) -> Quantization:
    """Read a ``quantization_config`` or a ``hf_quant_config.json``. Raises Unknown."""
    if not config and (config is None or isinstance(config, dict)):
        return Quantization()
    if not isinstance(config, dict):
        raise Unknown(f"quantization_config is {config!r}; a map is expected")
    if isinstance(config.get("quantization"), dict):
        config = {"quant_method": "modelopt", **config["quantization"]}
    method = str(config.get("quant_method") or ("modelopt" if "quant_algo" in config else "")).lower()
    reader = _METHODS.get(method)
    if reader is None:
        raise Unknown(f"quant_method {method!r} is not known; {', '.join(sorted(_METHODS))} are")
    try:
        return reader(method, config)
    except (AttributeError, TypeError, KeyError) as error:
        raise Unknown(f"the quantization_config of quant_method {method!r} does not hang together ({error})") from None


_KEPT = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "llm_int8_skip_modules", "exclude")
"""Where methods list what they leave alone."""
_KEPT_BY_FP8 = ("modules_to_not_convert", "ignored_layers")
"""vLLM's fp8 reads no other lists: a checkpoint may carry those of its maker."""


def _kept(config: dict[str, Any], keys: tuple[str, ...] = _KEPT) -> Modules:
    for key in keys:
        if config.get(key) and not isinstance(config[key], list):
            raise Unknown(f"{key} is {config[key]!r}; a list of modules is expected")
    return Modules.of(entry for key in keys for entry in config.get(key) or ())


def _blocks(shape: Any) -> str:
    """fp8 under scales for blocks of a shape."""
    if shape in ([1, 32], (1, 32)):
        return "mxfp8"
    if not (isinstance(shape, (list, tuple)) and len(shape) == 2 and shape[0] == shape[1] and _whole(shape[0])):
        raise Unknown(f"fp8 blocks of {shape!r} are not known; square ones such as [128, 128] are, and [1, 32]")
    return with_group("fp8_block", shape[0])


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _group(config: dict[str, Any]) -> int | None:
    group = config.get("group_size", config.get("q_group_size"))
    if group is not None and group != -1 and not _whole(group):
        raise Unknown(f"group_size is {group!r}; a whole number, or -1 for a row, is expected")
    return group


def _fp8(method: str, config: dict[str, Any]) -> Quantization:
    shape = config.get("weight_block_size")
    named = str(config.get("moe_quant_algo") or config.get("expert_dtype")).lower()
    experts = {"fp4": "mxfp4", "nvfp4": "nvfp4"}.get(named)
    return Quantization(method, _blocks(shape) if shape else "fp8", experts, _kept(config, _KEPT_BY_FP8))


def _uniform(weights: str) -> Callable[[str, dict[str, Any]], Quantization]:
    return lambda method, config: Quantization(method, weights, None, _kept(config))


def _only_experts(weights: str) -> Callable[[str, dict[str, Any]], Quantization]:
    return lambda method, config: Quantization(method, BFLOAT16, weights, _kept(config))


def _integers(bits: Any, group: int | None, method: str) -> str:
    names = {4: "int4", 8: "int8_weight_only"}
    if bits not in names:
        raise Unknown(f"{method} with {bits!r} bits is not known; the numbers 4 and 8 are")
    return with_group(names[bits], group)


def _gptq(method: str, config: dict[str, Any]) -> Quantization:
    """GPTQ, AWQ and AutoRound: integer weights; GPTQModel's ``dynamic`` and AutoRound's ``extra_config`` by module."""
    told = config | {"bits": config.get("bits", config.get("w_bit")), "group_size": _group(config)}
    usual = _rounded(told, method)
    modules = config.get("modules_in_block_to_quantize")
    blocks = config.get("block_name_to_quantize")
    if blocks and "layers" not in str(blocks):
        raise Unknown(f"block_name_to_quantize is {blocks!r}; a part of the model's layers is not modelled")
    left, others = list[str](), list[tuple[Modules, str]]()
    for name, said in _by_rule(config):
        if said is None:
            left.append(name)
        else:
            others.append((Modules.of([name]), _rounded(told | said, method)))
    if modules:
        # The rest of a block is left alone: nothing is usual.
        inner = [name for part in modules for name in (part if isinstance(part, list) else [part])]
        others.append((Modules.of(inner), usual))
        usual = BFLOAT16
    kept = _kept(config)
    more = Modules.of(left)
    named = Modules(kept.names | more.names, (*kept.expressions, *more.expressions))
    head = usual if config.get("lm_head") is True else BFLOAT16
    return Quantization(method, usual, None, named, tuple(others), told_head=head)


def _by_rule(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(modules, what differs of them; None where they are left alone)."""
    for rule, said in (config.get("dynamic") or {}).items():
        yield "re:" + rule.removeprefix("-:").removeprefix("+:"), None if rule.startswith("-:") else said or {}
    for name, said in (config.get("extra_config") or {}).items():
        yield _regular(name), None if said.get("bits") in (16, 32) else said


_FLOATS = {
    ("mx_fp", 4): "mxfp4", ("mx_fp", 8): "mxfp8", ("mx_fp4", 4): "mxfp4", ("mx_fp8", 8): "mxfp8",
    ("nv_fp", 4): "nvfp4", ("nv_fp4", 4): "nvfp4", ("fp", 8): "fp8", ("fp8", 8): "fp8",
}  # fmt: skip
"""AutoRound's data types that are no integers, with their bits."""


def _rounded(said: dict[str, Any], method: str) -> str:
    """Format of integers, or of what AutoRound calls a data type."""
    number, bits = str(said.get("data_type") or "int"), said.get("bits") or 0
    base = number.removesuffix("_rceil").removesuffix("_with_static_gs")
    if (base, bits) in _FLOATS:
        weights, wide = _FLOATS[base, bits], (said.get("act_bits") or 16) >= 16
        return weight_only(weights) if weights == "fp8" and wide else weights
    if number.startswith("int"):
        return _integers(bits, _group(said), method)
    raise Unknown(f"{method} with {bits!r}-bit data_type '{number}' is not known; int, mx_fp, nv_fp and fp of 8 are")


def _regular(name: str) -> str:
    """AutoRound's names of modules may be expressions."""
    return f"re:.*{name}" if re.search(r"[*+?|()^$\\[]", name) else name


def _bitsandbytes(method: str, config: dict[str, Any]) -> Quantization:
    four, eight = (config.get(name, config.get(f"_{name}")) for name in ("load_in_4bit", "load_in_8bit"))
    if not four and not eight:
        raise Unknown("bitsandbytes says neither load_in_4bit nor load_in_8bit; one of them is expected")
    eight = eight and not four
    return Quantization(method, "int8" if eight else "nf4", None, _kept(config))


_ALGORITHMS = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_BLOCK": "fp8_block",
    "MXFP8": "mxfp8",
    "MXFP4": "mxfp4",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4_weight_only",
    "W4A16_AWQ": "int4",
    "W8A16": "int8_weight_only",
    "INT8_SQ": "int8",
}
"""NVIDIA Model Optimizer's ``quant_algo``."""


def _algorithm(said: dict[str, Any]) -> str:
    name = str(said.get("quant_algo"))
    if name not in _ALGORITHMS:
        raise Unknown(f"quant_algo '{name}' is not known; {', '.join(_ALGORITHMS)}, MIXED_PRECISION are")
    weights = _ALGORITHMS[name]
    return with_group(weights, _group(said)) if weights in {"nvfp4", "nvfp4_weight_only", "int4"} else weights


def _modelopt(method: str, config: dict[str, Any]) -> Quantization:
    """NVIDIA Model Optimizer: one algorithm, or one for each module (MIXED_PRECISION)."""
    narrow = _caches_fp8(config.get("kv_cache_quant_algo")) or _caches_fp8(config.get("kv_cache_scheme"))
    cache = "fp8" if narrow else None
    if config.get("quant_algo") != "MIXED_PRECISION":
        return Quantization(method, _algorithm(config), None, _kept(config), kv_cache=cache)
    formats = {id(said): said for said in (config.get("quantized_layers") or {}).values()}
    by_algorithm = {key: _algorithm(said) for key, said in formats.items()}
    layers = (config.get("quantized_layers") or {}).items()
    named = {bare(name): by_algorithm[id(said)] for name, said in layers if not _later_expert(name)}
    if not named:
        raise Unknown("quant_algo MIXED_PRECISION names no quantized_layers")
    return Quantization(method, by_name=tuple(named.items()), kv_cache=cache)


_EXPERT = re.compile(r"\.experts\.(\d+)\.")


def _later_expert(name: str) -> bool:
    """All experts of a layer are stored alike: the first speaks for them."""
    found = _EXPERT.search(name)
    return found is not None and found.group(1) != "0"


def _compressed_tensors(method: str, config: dict[str, Any]) -> Quantization:
    sparsity = (config.get("sparsity_config") or {}).get("format") or "dense"
    if sparsity != "dense":
        raise Unknown(f"sparsity_config of format '{sparsity}' is not modelled; dense weights are")
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise Unknown("compressed-tensors without config_groups says no format")
    usual, others = "", list[tuple[Modules, str]]()
    for group in groups.values():
        if not group.get("weights"):
            # Of attention, say: what is cached, not what is stored.
            continue
        weights = _of_group(group, str(group.get("format") or config.get("format") or ""))
        targets = [target for target in group.get("targets") or ["Linear"] if not _is_class(target)]
        if targets:
            others.append((Modules.of(targets), weights))
        if len(targets) < len(group.get("targets") or ["Linear"]):
            usual = usual or weights
    kv_cache = "fp8" if _caches_fp8(config.get("kv_cache_scheme")) else None
    return Quantization(method, usual or BFLOAT16, None, _kept(config), tuple(others), kv_cache=kv_cache)


def _caches_fp8(scheme: Any) -> bool:
    """Whether a cache scheme is fp8 with scales that were calibrated; what is scaled as it runs is left as it was."""
    if not scheme or str(scheme).upper() == "NONE":
        return False
    if str(scheme).upper() == "FP8":
        return True
    said = scheme if isinstance(scheme, dict) else {}
    if (said.get("num_bits"), said.get("type")) != (8, "float"):
        raise Unknown(f"keys and values cached as {scheme!r} are not modelled; FP8 and none are")
    return not said.get("dynamic")


def _is_class(target: str) -> bool:
    """A class of modules, Linear above all, not a name."""
    return not target.startswith("re:") and "." not in target and target[:1].isupper()


def _of_group(group: dict[str, Any], layout: str) -> str:
    """Format of a compressed-tensors group: bits, type and strategy of weights, and whether inputs are quantised."""
    said = group.get("weights") or {}
    bits, number, strategy = said.get("num_bits"), said.get("type"), said.get("strategy") or "tensor"
    narrow_inputs = group.get("input_activations", "unsaid") is not None
    size = _group(said) if strategy in {"group", "tensor_group"} else -1
    match number, bits:
        case "float", 8 if size == 32:
            return "mxfp8"
        case "float", 8:
            weights = _blocks(said.get("block_structure")) if strategy == "block" else "fp8"
            return weights if narrow_inputs else weight_only(weights)
        case "float", 4 if size == 16 or strategy == "tensor_group" or "nvfp4" in layout:
            return "nvfp4" if narrow_inputs else "nvfp4_weight_only"
        case "float", 4:
            return with_group("mxfp4", size if size and size > 0 else None)
        case "int", 4 if group.get("input_activations"):
            raise Unknown("compressed-tensors with int4 weights beside quantised inputs is not modelled")
        case "int", 8 if layout != "pack-quantized" and narrow_inputs:
            return "int8"
        case "int", 4 | 8:
            return _integers(bits, size, "compressed-tensors")
        case _:
            raise Unknown(
                f"compressed-tensors with {bits!r}-bit {number!r} weights is not known; float with 8 or 4 bits and int "
                "with 8 or 4 bits are"
            )


def _quark(method: str, config: dict[str, Any]) -> Quantization:
    """AMD Quark: the global scheme of weights."""
    layers = (config.get("layer_quant_config") or {}).items()
    others = tuple((Modules.of([name]), _quark_weights(said)) for name, said in layers)
    narrow = "fp8" in json.dumps([config.get("kv_cache_quant_config"), config.get("kv_cache_config")])
    weights = _quark_weights(config.get("global_quant_config") or {})
    return Quantization(method, weights, None, _kept(config), others, kv_cache="fp8" if narrow else None)


def _quark_weights(scheme: dict[str, Any]) -> str:
    said = scheme.get("weight") or {}
    if isinstance(said, list) and len(said) > 1:
        kinds = ", ".join(str(stage.get("dtype")) for stage in said if isinstance(stage, dict))
        raise Unknown(f"quark weights in {len(said)} stages ({kinds}) are not modelled; one is")
    said = said[0] if isinstance(said, list) else said
    names = {"fp4": "mxfp4", "mxfp4": "mxfp4", "fp8_e4m3": "fp8", "fp8_e4m3fn": "fp8", "int8": "int8", "int4": "int4"}
    weights = names.get(str(said.get("dtype")))
    if weights is None:
        raise Unknown(f"quark weights of dtype {said.get('dtype')!r} are not known; fp4, fp8_e4m3, int8, int4 are")
    return weights


def _torchao(method: str, config: dict[str, Any]) -> Quantization:
    names = {"int8dynamicactivationint8": "int8", "float8dynamicactivationfloat8": "fp8", "int4": "int4"}
    names |= {"int8weight": "int8_weight_only", "int8": "int8", "float8weight": "fp8_weight_only", "float8": "fp8"}
    group = re.search(r"'group_size': (\d+)", str(config.get("quant_type")))
    said = str(config.get("quant_type") or "").lower().replace("_", "")
    if "fqntoconfig" in said:
        raise Unknown("torchao's ModuleFqnToConfig gives each module its own format, which is not read")
    found = next((weights for name, weights in names.items() if name in said), None)
    if found is None:
        raise Unknown("torchao without a quant_type of int4, int8 or float8 says no format")
    found = with_group(found, int(group[1])) if group and found == "int4" else found
    return Quantization(method, found, None, _kept(config))


_METHODS: dict[str, Callable[[str, dict[str, Any]], Quantization]] = {
    "fp8": _fp8,
    "mxfp8": _uniform("mxfp8"),
    "modelopt_mxfp8": _uniform("mxfp8"),
    "fbgemm_fp8": _uniform("fp8"),
    "mxfp4": _only_experts("mxfp4"),
    "experts_int8": _only_experts("int8_weight_only"),
    **dict.fromkeys(("gptq", "gptq_marlin", "awq", "awq_marlin", "moe_wna16"), _gptq),
    **dict.fromkeys(("auto-round", "auto_round", "inc", "intel/auto-round"), _gptq),
    "bitsandbytes": _bitsandbytes,
    **dict.fromkeys(("modelopt", "modelopt_fp4", "modelopt_mixed"), _modelopt),
    "compressed-tensors": _compressed_tensors,
    "quark": _quark,
    "torchao": _torchao,
}
