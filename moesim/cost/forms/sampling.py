"""Sampling by top-p or top-k through a sort of every sequence's logits: a time an entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.cost.forms.arithmetic import real
from moesim.cost.forms.form import Form, Parameter, Timing
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, chooses, families
from moesim.ops.sampling import Sort

PARAMETERS = (
    Parameter("t_entry", "s", 2e-10, 0.0, 5e-9, "one entry of one sequence's logits: sort, sum, cut, put back"),
)


def seconds(p: Mapping[str, float], op: Sort, gpu: GpuNumbers) -> Timing:
    """Every entry passes the sort's kernels several times. [s]"""
    sorting = p["t_entry"] * real(op.rows) * real(op.entries)
    return Timing(sorting, 0.0 * sorting, sorting, 0.0 * sorting)


FORM = Form("sampling_sort", "sequences x vocabulary x t_entry", PARAMETERS, seconds, ("rows",))

families({"sampling_sort": FORM})


@chooses(Sort)
def choose(machine: Any, name: str, op: Sort) -> Choice:
    return Choice("sampling_sort", op, machine.gpu)
