"""What no kernel can beat: memory, arithmetic and links at their datasheet rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.gpu import GpuNumbers


def floor_seconds(op: Any, gpu: GpuNumbers) -> Any:
    """The least an operation can take on a GPU. [s]

    Weights come from HBM once, for a model is larger than a cache; arithmetic runs at its peak; messages pass links
    and the network card at theirs. What an operation does not have takes no time.
    """
    rates = (
        ("weight_bytes", gpu.hbm_bytes_per_s),
        ("link_bytes", gpu.link_bytes_per_s),
        ("node_bytes", gpu.nic_bytes_per_s),
    )
    times = [getattr(op, amount) / rate for amount, rate in rates if rate and hasattr(op, amount)]
    if hasattr(op, "arithmetic"):
        times.append(op.flop / gpu.flop_per_s(op.arithmetic))
    least: Any = 0.0
    for time in times:
        least = np.maximum(least, time)
    return least
