"""A step as the blocks of one rank see it: the rank, the load, and operations that several blocks share."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

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
        """Residual add and norm in one kernel: two rows read, two written."""
        return Elementwise(self.tokens, 4 * BF16 * self.tokens * self.hidden)

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
