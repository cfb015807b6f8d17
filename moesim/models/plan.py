"""A parallel plan: how many ranks of each kind, and which GPUs of the cluster form each group."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from moesim.engines.settings import EngineSettings


@dataclass(frozen=True)
class Plan:
    """Sizes of the groups, under vLLM's meanings. ``Plan()`` is a single GPU."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    """Ranks that share the experts out: TP x DP with expert parallelism (less where experts are sliced), else 1."""
    expert_tp: int = 1
    """Ranks that slice each expert: TP x DP without expert parallelism (vLLM flattens the two)."""
    redundant: int = 0
    placement: str = "linear"
    backend: str = "allgather_reducescatter"
    overlap: bool = False
    algorithm: str = "auto"
    custom_all_reduce: bool = True
    fuse_norm: bool | None = None
    """The all-reduce does the norm that follows it; None is the engine version's default."""
    rank_order: tuple[str, ...] = ("tp", "pp", "dp")
    """Axes from the one whose ranks are neighbours to the one whose ranks lie farthest apart."""
    expert_parallel: bool = False
    """Whole experts are shared out, where there is more than one rank to share them."""
    micro_batches: int = 0
    """Batches a pipeline keeps in flight, where there are as many requests; 0 is one a stage."""

    @classmethod
    def of(cls, engine: EngineSettings) -> Plan:
        tp, dp = engine.tensor_parallel_size, engine.data_parallel_size
        flat = tp * dp
        sliced = engine.expert_tensor_parallel_size if engine.enable_expert_parallel else flat
        return cls(
            tp, engine.pipeline_parallel_size, dp, max(flat // sliced, 1), sliced,
            redundant=engine.num_redundant_experts,
            placement="load_sorted" if engine.enable_eplb else engine.expert_placement_strategy,
            backend=engine.all2all_backend or "allgather_reducescatter",
            overlap=engine.enable_dbo,
            algorithm=engine.nccl_algo,
            custom_all_reduce=not engine.disable_custom_all_reduce,
            fuse_norm=engine.fuse_allreduce_rms,
            rank_order=engine.rank_order,
            expert_parallel=engine.enable_expert_parallel and flat > 1,
            micro_batches=engine.pipeline_micro_batches or 0,
        )  # fmt: skip

    @property
    def world(self) -> int:
        """GPUs in use: TP x PP x DP."""
        return self.tp * self.pp * self.dp

    @property
    def exchanges(self) -> bool:
        """Tokens travel to their experts: data-parallel attention before shared-out experts."""
        return self.dp > 1 and self.ep > 1

    @property
    def deepep(self) -> bool:
        """Tokens travel to their experts through DeepEP's kernels."""
        return self.exchanges and self.backend.startswith("deepep")

    def share(self, batch: Any) -> Any:
        """Requests of the fullest data-parallel replica: they are shared out evenly."""
        return -(-batch // self.dp)

    def in_flight(self, batch: Any) -> Any:
        """Micro-batches a replica cuts its share of ``batch`` requests into."""
        return np.minimum(self.micro_batches or self.pp, self.share(batch))

    @property
    def _sizes(self) -> dict[str, int]:
        return {"tp": self.tp, "pp": self.pp, "dp": self.dp}

    def members(self, *axes: str) -> tuple[int, ...]:
        """Places of the first group along ``axes``; the first axis named varies fastest."""
        sizes = self._sizes
        stride = {axis: prod(sizes[a] for a in self.rank_order[:i]) for i, axis in enumerate(self.rank_order)}
        steps = [range(0, sizes[a] * stride[a], stride[a]) for a in reversed(axes)]
        return tuple(sum(where) for where in itertools.product(*steps))

    def coordinates(self, place: int) -> dict[str, int]:
        """A GPU's index along each axis."""
        found = {}
        for axis in self.rank_order:
            place, found[axis] = divmod(place, self._sizes[axis])
        return found

    def describe(self) -> str:
        """The plan in the words people use: ``TP4 EP4``, ``DP8 EP8 deepep_low_latency``."""
        parts = [f"{n.upper()}{v}" for n, v in self._sizes.items() if v > 1]
        if self.ep > 1:
            parts.append(f"EP{self.ep}" + (f" (experts in {self.expert_tp} slices)" if self.expert_tp > 1 else ""))
        if self.exchanges:
            parts.append(self.backend)
        if self.redundant:
            parts.append(f"+{self.redundant} replicas")
        return " ".join(parts) or "one GPU"
