"""A scenario's ``variant`` applied to a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from moesim.errors import Problem, SpecError
from moesim.models.blocks.moe import Moe
from moesim.models.model import Layers, Model
from moesim.models.relaid import relaid, with_experts

PerLayer = int | tuple[int, ...] | None


class Changes(Protocol):
    """What a variant says (``moesim.inputs.variant.Variant``)."""

    @property
    def pruned_experts(self) -> float: ...
    @property
    def pruned_width(self) -> float: ...
    @property
    def num_experts(self) -> PerLayer: ...
    @property
    def moe_intermediate_size(self) -> PerLayer: ...
    @property
    def num_experts_per_tok(self) -> PerLayer: ...
    @property
    def residual_intermediate_size(self) -> int | None: ...
    @property
    def dropped_layers(self) -> Any: ...


def varied(model: Model, changes: Changes) -> Model:
    """The model that a variant makes of another. Raises SpecError with every reason that it cannot be."""
    problems = list(_problems(model, changes))
    if problems:
        raise SpecError([Problem(message) for message in problems])
    dropped = _dropped(model, changes)
    routed: Iterator[int] = iter(range(model.num_hidden_layers))

    def change(place: int, layer: Layers) -> Layers | None:
        if layer.routed is None:
            return None if place in dropped else layer
        number = next(routed)
        return None if place in dropped else with_experts(layer, lambda ffn: _of_layer(ffn, changes, number))

    return relaid(model, change)


def _of_layer(ffn: Moe, changes: Changes, number: int) -> Moe:
    """A layer's experts as the variant has them."""
    experts = _entry(changes.num_experts, number) or max(round(ffn.num_experts * (1 - changes.pruned_experts)), 1)
    width = _entry(changes.moe_intermediate_size, number) or max(round(ffn.width * (1 - changes.pruned_width)), 1)
    grouped = ffn.n_group if experts % ffn.n_group == 0 else 1
    return replace(
        ffn,
        num_experts=experts,
        width=width,
        num_experts_per_tok=_entry(changes.num_experts_per_tok, number) or ffn.num_experts_per_tok,
        shared_width=ffn.shared_width + (changes.residual_intermediate_size or 0),
        n_group=grouped,
        topk_group=ffn.topk_group if grouped == ffn.n_group else 1,
        # A bias for each expert goes with it.
        extra_parameters=ffn.extra_parameters * experts // ffn.num_experts,
    )


def _entry(value: PerLayer, number: int) -> int | None:
    return value[number] if isinstance(value, tuple) else value


def _dropped(model: Model, changes: Changes) -> set[int]:
    """Numbers of the layers left out; so many evenly spaced where a number is given, the first and last kept."""
    asked, layers = changes.dropped_layers, model.num_hidden_layers
    if isinstance(asked, tuple):
        return set(asked)
    # Between the first and the last.
    return {1 + int((i + 0.5) * (layers - 2) / asked) for i in range(asked)} if asked else set()


def _problems(model: Model, changes: Changes) -> Iterator[str]:
    layers = [g.routed for i in _order(model) for g in (model.layers[i],) if g.routed is not None]
    of_experts = ("pruned_experts", "pruned_width", "num_experts", "moe_intermediate_size", "num_experts_per_tok",
                  "residual_intermediate_size")  # fmt: skip
    if not layers and any(getattr(changes, name) for name in of_experts):
        yield f"{model.name} has no routed experts; of a variant only dropped_layers changes it"
        return
    for name in ("num_experts", "moe_intermediate_size", "num_experts_per_tok"):
        value = getattr(changes, name)
        if isinstance(value, tuple) and len(value) != len(layers):
            yield f"{name} has {len(value)} entries; {model.name} has {len(layers)} layers with routed experts"
            return
    if model.has_encoder and changes.dropped_layers:
        yield f"{model.name} is an encoder-decoder model; none of its layers can be left out"
    yield from _layer_problems(model, changes.dropped_layers)
    for number, ffn in enumerate(layers):
        left = _of_layer(ffn, changes, number)
        if left.num_experts_per_tok > left.num_experts:
            yield (
                f"{left.num_experts} experts are left and each token passes {left.num_experts_per_tok}; a smaller "
                "num_experts_per_tok, or more experts, are accepted"
            )
            return


def _layer_problems(model: Model, asked: int | tuple[int, ...] | None) -> Iterator[str]:
    layers = model.num_hidden_layers
    if isinstance(asked, tuple):
        beyond = [place for place in asked if place >= layers]
        if beyond:
            yield f"dropped_layers: {model.name} has no layer {beyond[0]}; 0 to {layers - 1} are accepted"
        elif len(set(asked)) < len(asked):
            yield "dropped_layers names a layer twice"
        elif len(asked) >= layers:
            yield f"dropped_layers leaves none of the {layers} layers of {model.name}"
    elif asked and asked > layers - 2:
        yield f"dropped_layers: up to {max(layers - 2, 0)} of the {layers} layers of {model.name} can go, not {asked}"


def _order(model: Model) -> tuple[int, ...]:
    return model.order or tuple(i for i, group in enumerate(model.layers) for _ in range(group.count))
