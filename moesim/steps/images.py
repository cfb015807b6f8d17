"""Images through a model's tower: every image of a step in one batch of tiles, before the language model's own layers.

vLLM runs a tower eagerly: its kernels are launched one by one (v1/worker, ``_execute_mm_encoder``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, reduced, summed
from moesim.cost.machine import Machine
from moesim.models.dispatch import FUSED
from moesim.models.rank import Rank
from moesim.models.vision import Picture, Tower
from moesim.ops import Elementwise, Gemm, Host
from moesim.ops.load import Group, Load


@dataclass(frozen=True)
class ImageEncoder:
    """Prices equal images on one rank."""

    rank: Rank
    """Whose model is the tower."""
    machine: Machine
    tower: Tower
    picture: Picture
    text_width: int

    def cost(self, images: Any) -> Cost:
        """``images`` images, a number or one for each of several steps, at once. [s]"""
        from moesim.steps.step import StepModel, kernels_of

        some = np.maximum(np.asarray(images, float), 1e-9)
        some = float(some) if np.ndim(images) == 0 else some
        group = Group(some * self.picture.tiles, self.picture.patches, 0 * some)
        load = Load((group,), group.tokens, np.zeros(np.shape(images), bool) if np.ndim(images) else False)
        parts = StepModel(self.rank, self.machine, 0, False).gpu_costs(self.rank, load, 0, encoder=True)
        parts.append(self._projector(some))
        gpu_s = sum(part.total for part in parts)
        host = Host(group.sequences, kernels_of(parts), load.graph, gpu_s, schedules=False)
        whole = summed("image encoder", [*parts, self.machine.price("launches", host)])
        present = np.asarray(images) > 0
        return whole if np.all(present) else reduced(whole, lambda x: x * present)

    def _projector(self, images: Any) -> Cost:
        """Patches in, merged rows out, in the language model's width."""
        tower, rows = self.tower, images * self.picture.tokens
        patches = images * self.picture.tiles * self.picture.patches
        operations = [
            ("patch_proj", Gemm(patches, tower.width, 3 * tower.patch**2)),
            ("merge", Elementwise(rows, 4.0 * patches * tower.width, 3)),
            *(("projector", Gemm(rows, columns, depth)) for columns, depth in tower.projector),
        ]
        return summed("projector", [self.machine.price(name, op) for name, op in operations])


def image_encoder(rank: Rank, machine: Machine, picture: Picture) -> ImageEncoder:
    """The encoder of a rank's model, which has a tower."""
    tower = rank.model.tower
    assert tower is not None
    model = replace(
        rank.model, name=f"{rank.model.name}'s tower", hidden_size=tower.width, layers=(tower.stack(),), order=(0,),
        tower=None, tower_parameters=0,
    )  # fmt: skip
    plan = rank.plan if tower.sharded else replace(rank.plan, tp=1)
    alone = replace(rank, model=model, plan=replace(plan, dp=1, ep=1), drafting=None, dispatch=FUSED, compiled=False)
    return ImageEncoder(alone, machine, tower, picture, rank.model.hidden_size)
