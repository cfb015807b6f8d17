"""A smaller model made of a model: pruned or merged experts, narrower ones, fewer picked, layers left out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from moesim.files.quantities import NO_SWITCH, PathText, Strict

Part = Annotated[float, Field(ge=0, lt=1)]
Number = Annotated[int, Field(ge=1, le=1 << 20), NO_SWITCH]
PerLayer = Annotated[tuple[Number, ...], Field(min_length=1, max_length=4096)]

LayerNumber = Annotated[int, Field(ge=0, le=4096), NO_SWITCH]


class Variant(Strict):
    """What differs from the model. Lists have an entry for each layer with routed experts, first to last.

    Every choice is of shapes alone: which experts go, and what quality is left, is not predicted. A table says that.
    """

    name: str = ""
    """What a quality table calls it."""
    pruned_experts: Part = 0.0
    """Share of the experts of each layer that are removed (inter-expert pruning); k is kept, the load of those that
    remain is the scenario's routing over them."""
    pruned_width: Part = 0.0
    """Share of every expert's width that is removed (intra-expert pruning)."""
    num_experts: Number | PerLayer | None = None
    """Experts of each layer: what pruning or merging leaves, or a pyramid's numbers (PR-MoE)."""
    moe_intermediate_size: Number | PerLayer | None = None
    """Width of each expert."""
    num_experts_per_tok: Number | PerLayer | None = None
    """Experts that a token passes."""
    residual_intermediate_size: Number | None = None
    """Width of a dense branch beside the routed experts, which every token passes (PR-MoE, arXiv 2201.05596)."""
    dropped_layers: LayerNumber | tuple[LayerNumber, ...] = 0
    """Layers left out (MoS): their numbers from 0, or how many, evenly spaced."""
    quality: PathText | None = None
    """A CSV file with the quality of this variant by metric; null is the project's own tables."""

    @model_validator(mode="after")
    def _said_once(self) -> Variant:
        for share, count in (("pruned_experts", "num_experts"), ("pruned_width", "moe_intermediate_size")):
            if getattr(self, share) and getattr(self, count) is not None:
                raise ValueError(f"{share} and {count} say the same thing; keep one")
        return self

    @property
    def title(self) -> str:
        """What it does, in a few words."""
        said = {
            "pruned_experts": f"{_part(self.pruned_experts)} of the experts pruned",
            "pruned_width": f"{_part(self.pruned_width)} of their width pruned",
            "num_experts": f"{_text(self.num_experts)} experts",
            "moe_intermediate_size": f"experts {_text(self.moe_intermediate_size)} wide",
            "num_experts_per_tok": f"top-{_text(self.num_experts_per_tok)}",
            "residual_intermediate_size": f"a dense branch {self.residual_intermediate_size} wide",
            "dropped_layers": (
                f"layers {_text(self.dropped_layers)} left out"
                if isinstance(self.dropped_layers, tuple)
                else f"{self.dropped_layers} layers left out"
            ),
        }
        changed = ", ".join(text for name, text in said.items() if getattr(self, name))
        return f"{self.name} ({changed})" if self.name and changed else self.name or changed or "unchanged"


def _part(share: float) -> str:
    """Never rounded up to all of it."""
    return f"{share:.3g}" if share < 0.999 else f"{share:g}"


def _text(value: int | tuple[int, ...] | None) -> str:
    if isinstance(value, tuple):
        return "/".join(str(v) for v in dict.fromkeys(value))
    return str(value)
