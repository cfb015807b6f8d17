"""What fits on served runs share: a run simulated under a calibration, and families as they are stored."""

from __future__ import annotations

from typing import Any

from moesim.assembly import assemble
from moesim.cost.forms.form import Form, Parameter
from moesim.inputs.run_file import Run
from moesim.serving.engine import simulated
from moesim.serving.report import LoadReport
from moesim.serving.simulation import FrontEnd


def simulated_run(run: Run, calibration: str, front: FrontEnd | None = None) -> LoadReport:
    """A measured run as moesim serves it, its kernels priced by ``calibration``, a name or a file."""
    scenario = run.scenario.model_copy(update={"calibration": calibration})
    parts = assemble(scenario)
    fullest = parts.fullest
    return simulated(
        parts.steps.resident, scenario.engine, parts.limits, fullest, scenario.workload, LoadReport(), front=front
    )


def constant(q: Parameter, value: float, error: float, digits: int = 6, error_digits: int = 3) -> dict[str, Any]:
    """A fitted constant as stored."""
    return {
        "value": float(f"{value:.{digits}g}"),
        "unit": q.unit,
        "standard_error": float(f"{error:.{error_digits}g}"),
        "meaning": q.meaning,
    }


def held_at(form: Form, value: float, half_width: float = 0.0) -> dict[str, Any]:
    """A family whose one constant is given and not fitted; at 0, as if what it prices took no time."""
    (one,) = form.parameters
    return {
        "parameters": {one.name: {"value": value}},
        "valid_range": {},
        "residuals": {"edges_s": [], "half_width": [half_width]},
    }
