"""What an engine keeps for itself, from ``calibration/engines/``."""

from __future__ import annotations

from functools import lru_cache

from moesim import paths
from moesim.spec import yaml
from moesim.spec.quantities import Bytes, Strict


class Reserves(Strict):
    """Memory that is neither weights, activations nor cache. [B]"""

    cuda_context: Bytes
    nccl_2_ranks: Bytes
    nccl_more_ranks: Bytes
    custom_all_reduce: Bytes
    cuda_graphs: Bytes
    attention_workspace: Bytes

    def communication_bytes(self, ranks: int) -> float:
        """Buffers of a tensor-parallel group. [B]"""
        if ranks == 1:
            return 0.0
        nccl = self.nccl_2_ranks if ranks == 2 else self.nccl_more_ranks
        return nccl.value + self.custom_all_reduce.value


class EngineFile(Strict):
    name: str
    reserves: Reserves
    doubts: list[str] = []


@lru_cache(maxsize=4)
def load_engine(name: str = "vllm") -> EngineFile:
    """The shipped engine file."""
    return EngineFile.model_validate(yaml.read(paths.CALIBRATION / "engines" / f"{name}.yaml").data)
