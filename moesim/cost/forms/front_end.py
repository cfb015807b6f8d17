"""What a request passes between its client and the scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.cost.forms.form import Form, Parameter, Timing
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import families

PARAMETERS = (
    Parameter("t_request", "s", 0.0, 0.0, 0.1, "network, parsing and streaming of one request, side by side"),
    Parameter("t_prompt_token", "s", 8e-6, 0.0, 1e-4, "reading a prompt, per token, one prompt at a time"),
)


def seconds(p: Mapping[str, float], prompt_len: Any, gpu: GpuNumbers) -> Timing:
    """Time of a lone request. [s]"""
    total = p["t_request"] + p["t_prompt_token"] * prompt_len
    return Timing(total, total, 0.0 * total, 0.0 * total)


def no_seconds(p: Mapping[str, float], op: Any, gpu: GpuNumbers) -> Timing:
    """A family that holds an error alone."""
    return Timing(0.0, 0.0, 0.0, 0.0)


SERVED_TOKEN = Form("served_token", "time per output token of served runs over the simulated one", (), no_seconds, ())
FORM = Form("front_end", "t_request + t_prompt_token x prompt tokens", PARAMETERS, seconds, ("prompt_len",))

families({"front_end": FORM, "served_token": SERVED_TOKEN})
