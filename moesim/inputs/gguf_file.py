"""What a GGUF file's header says of the model in it, and what its name says where the file is not at hand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.files.reading import require_file
from moesim.models.names import resolve
from moesim.ops.formats import FORMATS, bytes_per_weight

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_QUANTS = re.compile(
    r"[-._](?:UD-|i1-)?(IQ[1-4]_(?:XXS|XS|NL|S|M)|Q[2-8]_(?:K(?:_(?:XS|XL|S|M|L))?|[01])|MXFP4(?:_MOE)?|BF16|F16|FP16|F32)$",
    re.IGNORECASE,
)
_AS = {
    "q8_k": "q8_0", "q6_k": "q6_k", "q5_k_s": "q5_k", "q5_k": "q5_k_m", "q5_1": "q5_0", "q4_k_s": "q4_k",
    "q4_k": "q4_k_m", "q4_1": "q4_0", "q3_k_s": "q3_k", "q3_k": "q3_k_m", "q2_k": "q2_k", "iq3_m": "iq3_s",
    "iq3_xs": "iq3_xxs", "iq2_m": "iq2_s",
}  # fmt: skip
"""Names of files that have no format of their own -> the nearest one; a longer suffix goes first."""
_SIZES = ("block_count", "nextn_predict_layers", "embedding_length", "expert_count")
_WIDE = {"bf16", "f16", "fp16", "f32"}


@dataclass(frozen=True)
class GgufModel:
    """A model in GGUF."""

    name: str
    """As a hub would have it, the format left out."""
    experts: str | None
    """Weight format of routed experts; None where nothing says it."""
    attention: str | None
    """Weight format of all other matrices of layers."""
    layers: int | None = None
    hidden_size: int | None = None
    num_experts: int | None = None


def format_of(quant: str) -> str:
    """The weight format that a file's quantisation is, like ``Q4_K_M``."""
    text = quant.lower().removesuffix("_moe")
    if text in _WIDE:
        return "bfloat16"
    if text == "mxfp4":
        return text
    for name in (text, text.rpartition("_")[0]):
        known = _AS.get(name, name)
        if f"gguf_{known}" in FORMATS:
            return f"gguf_{known}"
    raise SpecError(f"'{quant}' is no quantisation of GGUF files that is known here")


def named(text: str) -> GgufModel:
    """What the name of a file, or of a repository with a format behind a colon, says.

    ``Qwen3-30B-A3B-Q4_K_M.gguf``, ``unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M``.
    """
    bare, _, tag = text.partition(":")
    stem = _SHARD.sub("", Path(bare).name.removesuffix(".gguf"))
    quant = _QUANTS.search(f"-{tag}") if tag else _QUANTS.search(stem)
    if not tag and quant:
        stem = stem[: quant.start()]
    stem = re.sub(r"[-._](gguf|i1)$", "", stem, flags=re.IGNORECASE)
    found = format_of(quant.group(1)) if quant else None
    return GgufModel(stem, found, found)


def header(path: Path) -> GgufModel:
    """What a file's header says; no weights are read.

    Raises
    ------
    SpecError
        No GGUF file.
    """
    from gguf import GGUFReader

    require_file(path)
    try:
        reader = GGUFReader(path)
        kind = _field(reader, "general.architecture")
        names = [_field(reader, f"general.{key}") for key in ("name", "basename")]
        sizes = {
            key: _field(reader, f"{kind}.{key}")
            for key in ("block_count", "nextn_predict_layers", "embedding_length", "expert_count")
        }
        if not all(value is None or isinstance(value, int) for value in sizes.values()):
            raise TypeError
        tensors = [(t.name, t.tensor_type.name, int(t.n_elements), int(t.n_bytes)) for t in reader.tensors]
        if not all(weights > 0 for _, _, weights, _ in tensors):
            raise ValueError
    except Exception as error:
        # A reader of someone else's binary format: whatever it trips over, the file is not one.
        raise SpecError([Problem(f"is no GGUF file that can be read: {type(error).__name__}", str(path))]) from None
    own = named(path.name)
    experts = _nearest([t for t in tensors if "_exps." in t[0]])
    others = _nearest([t for t in tensors if t[0].startswith("blk.") and "_exps." not in t[0] and t[1] != "F32"])
    # Some files are called Models, or nothing: the first name that is known, else the file's own.
    said = [str(name).replace(" ", "-") for name in names if name]
    name = next((one for one in said if _known(one)), own.name)
    return GgufModel(
        name, experts or own.experts, others or own.attention,
        # Layers that predict further tokens are counted as blocks.
        sizes["block_count"] and sizes["block_count"] - (sizes["nextn_predict_layers"] or 0), sizes["embedding_length"],
        sizes["expert_count"],
    )  # fmt: skip


def _known(name: str) -> bool:
    try:
        resolve(name)
    except SpecError:
        return False
    return True


def _field(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _nearest(tensors: list[tuple[str, str, int, int]]) -> str | None:
    """The format whose bytes a weight are nearest to the tensors' mean."""
    if not tensors:
        return None
    kinds = {kind for _, kind, *_ in tensors}
    if kinds <= {"BF16", "F16", "F32"}:
        return "bfloat16"
    if kinds == {"MXFP4"}:
        return "mxfp4"
    mean = sum(bytes_ for *_, bytes_ in tensors) / sum(weights for _, _, weights, _ in tensors)
    stored = [name for name in FORMATS if name.startswith("gguf_")]
    return min(stored, key=lambda name: abs(bytes_per_weight(name) - mean))
