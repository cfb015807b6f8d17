"""Offloading's constants fitted without one machine's runs, and what they then say of that machine."""

from __future__ import annotations

from functools import cache

from moesim.calibrate.offload import fit_runs
from moesim.calibrate.offload_compared import Compared, compared_times
from moesim.inputs.offload_fits import fits_instead, offload_fits
from moesim.inputs.offload_runs import runs

MACHINES = ("nvidia-t4-16gb", "nvidia-rtx-a5000", "nvidia-rtx-a6000", "nvidia-quadro-rtx-6000")


@cache
def left_out(machine: str) -> tuple[Compared, ...]:
    """All of a machine's runs, none of which anything was fitted on."""
    known = runs()
    stored = offload_fits()
    fits = {"copies": stored["copies"], "locality": stored["locality"], "systems": {}, "unpacking": {}, "cpu": {}}
    fit_runs([run for run in known if run.gpu != machine], fits, lambda text: None)
    with fits_instead(fits):
        return tuple(compared_times([run for run in known if run.gpu == machine]))
