"""A model with its layers changed one by one, and those that are equal grouped again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moesim.models.blocks.block import Block
from moesim.models.blocks.moe import Moe
from moesim.models.model import Layers, Model

Change = Callable[[int, Layers], Layers | None]
"""(a layer's number, the layer alone) -> what becomes of it; None leaves it out."""


def relaid(model: Model, change: Change) -> Model:
    """The same with every layer changed."""
    listed = model.order or tuple(i for i, group in enumerate(model.layers) for _ in range(group.count))
    numbers: dict[Layers, int] = {}
    order = []
    for place, group in enumerate(listed):
        changed = change(place, replace(model.layers[group], count=1))
        if changed is not None:
            order.append(numbers.setdefault(changed, len(numbers)))
    layers = tuple(replace(layer, count=order.count(number)) for layer, number in numbers.items())
    return replace(model, layers=layers, order=tuple(order))


def with_experts(layers: Layers, change: Callable[[Moe], Moe]) -> Layers:
    """A layer with its routed experts changed."""
    if layers.routed is None:
        return layers
    return replace(layers, blocks=tuple(_changed(block, change) for block in layers.blocks))


def _changed(block: Block, change: Callable[[Moe], Moe]) -> Block:
    return change(block) if isinstance(block, Moe) else block


def numbered(model: Model) -> Model:
    """The same with the layers that have routed experts told apart by their place among them."""
    places = iter(range(model.num_hidden_layers))

    def change(_: int, layer: Layers) -> Layers:
        if layer.routed is None:
            return layer
        place = next(places)
        return with_experts(layer, lambda ffn: replace(ffn, place=place))

    return relaid(model, change)
