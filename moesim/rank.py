"""A model as one GPU of a tensor-parallel group holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim import routing
from moesim.spec.model import Attention, Model, MoeFfn


@dataclass(frozen=True)
class Rank:
    """A model as one of ``tp`` ranks holds it. Numbers are per rank after sharding."""

    model: Model
    tp: int
    experts: str
    """Weight format of routed experts."""
    linear: str
    """Weight format of the other linear layers; embeddings, head and router stay bfloat16."""
    kv_bytes: float
    routing: Any

    def kv_heads(self, attention: Attention) -> int:
        """KV heads on a rank: at least one, replicated once TP exceeds them."""
        return max(attention.num_key_value_heads // self.tp, 1)

    def loads(self, ffn: MoeFfn) -> routing.Loads:
        return routing.loads(self.routing, ffn.num_experts, ffn.num_experts_per_tok)
