"""What-if analysis: the same scenario over a grid of settings, in memory or into one file of any size."""

from moesim.explore.sweeps.into_file import Swept, sweep_into
from moesim.explore.sweeps.sweep import sweep

__all__ = ["Swept", "sweep", "sweep_into"]
