"""A step as the blocks of one rank see it: the rank, the load, and operations that several blocks share."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.engines.engine import load_engine
from moesim.ops import Collective, Elementwise, Operation
from moesim.ops.load import Load

if TYPE_CHECKING:
    from moesim.models.blocks.block import Block
    from moesim.models.rank import Rank

Named = tuple[str, Operation]
"""What an operation is called in a cost tree, and the operation."""
BF16 = 2.0


class Frame:
    """What blocks turn into operations."""

    def __init__(self, rank: Rank, load: Load):
        self.rank = rank
        self.load = load
        self.tokens = load.padded_tokens
        """Rows every dense operation sees."""
        self.hidden = rank.model.hidden_size
        self._of_block: dict[Block, list[Named]] = {}

    def operations(self, block: Block) -> list[Named]:
        """A block's operations; equal blocks have the very same ones."""
        found = self._of_block.get(block)
        if found is None:
            found = self._of_block[block] = list(block.operations(self))
        return found

    @cached_property
    def norm(self) -> Elementwise:
        """Residual add and norm in one kernel: two rows read, two written. None of its own after a fused all-reduce."""
        launches = 1 - self.fuses_norm if self.rank.tp > 1 else 1
        return Elementwise(self.tokens, 4 * BF16 * self.tokens * self.hidden, launches)

    @cached_property
    def fuses_norm(self) -> Any:
        """1 where the all-reduce before a norm also does the norm, 0 elsewhere."""
        plan, rank = self.rank.plan, self.rank
        apart = plan.dp > 1 and rank.model.moe is not None
        possible = rank.compiled and rank.switched and plan.pp == 1 and not apart
        if not possible or plan.fuse_norm is False:
            return 0
        rule = rank.engine.file.fused_all_reduce_norm
        if rule is None and plan.fuse_norm:
            # Asked for before it was the default: as far as the version does that has it.
            rule = load_engine(rank.engine.file.name).file.fused_all_reduce_norm
        limit = rule.limit_bytes(rank.compute_capability, plan.tp) if rule else 0.0
        fused = BF16 * self.tokens * self.hidden <= limit
        return fused.astype(int) if isinstance(fused, np.ndarray) else int(fused)

    @cached_property
    def reduce(self) -> tuple[Named, ...]:
        """The all-reduce that adds up the parts of a tensor-parallel block; none on one rank."""
        if self.rank.tp == 1:
            return ()
        return (("all_reduce", self.collective(("tp",), "all_reduce", BF16 * self.tokens * self.hidden)),)

    def collective(self, axes: tuple[str, ...], kind: str, message_bytes: Any, **more: Any) -> Collective:
        """A collective over the plan's group along ``axes``."""
        plan = self.rank.plan
        members = plan.members(*axes)
        if kind == "all_reduce":
            more |= {"algorithm": plan.algorithm, "custom": plan.custom_all_reduce}
        return Collective(message_bytes, len(members), kind, members, **more)
