"""What a prediction costs: watts, joules a token, dollars for a million tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moesim.assembly import assemble
from moesim.cost.power import Utilisation, idle_w, power_fit, power_w, utilisation
from moesim.inputs.prices_file import Price, prices_of
from moesim.metrics import Metric
from moesim.outcome import Prediction, Served
from moesim.serving.under_load import gpus_of, memory_side

_HOUR_S, _MILLION = 3600.0, 1e6


@dataclass(frozen=True)
class Economy:
    """Of a run, all GPUs together where nothing else is said. Hosts, cooling and networks are left out."""

    gpus: int
    used: Utilisation
    busy: float
    """Share of the time in which GPUs work."""
    gpu_w: Metric
    """Watts of one GPU."""
    fitted: bool
    """On the GPU that power was fitted on; else its shares of the limit are assumed."""
    joules_per_output_token: Metric
    prices: tuple[Price, ...]
    """Of this GPU, cheapest first; empty where no table says."""
    input_share: float
    """Of the GPUs' time, spent on prompts."""
    seconds_per_input_token: float
    """GPU time of all GPUs, spent on a prompt's token. [s]"""
    seconds_per_output_token: float
    seconds_per_token: float
    """Input and output alike. [s]"""

    def usd_per_million(self, usd_per_gpu_hour: float) -> tuple[float, float, float]:
        """(dollars for a million input tokens, for a million output tokens, for a million of either together)."""
        rate = usd_per_gpu_hour / _HOUR_S * _MILLION
        each = (self.seconds_per_input_token, self.seconds_per_output_token)
        return rate * each[0], rate * each[1], rate * self.seconds_per_token


def economy(prediction: Prediction, prices: Path | None = None) -> Economy:
    """Power, energy and price of what a prediction describes. Raises SpecError for a table that cannot be read."""
    scenario = prediction.scenario
    parts = assemble(memory_side(scenario))
    hardware, machine = parts.hardware, parts.steps.machine
    used, busy, gpus = utilisation(prediction.cost, machine), _busy(prediction), gpus_of(scenario)
    watts, low, high = power_w(hardware, used, busy)
    if isinstance(prediction, Served) and prediction.report.duration_s:
        # GPUs that are given up draw nothing here.
        saved = idle_w(hardware) * prediction.report.parked_s / prediction.report.duration_s
        watts, low, high = (max(w - saved, 0.0) for w in (watts, low, high))
    out, all_tokens = prediction.metrics["output_throughput"], prediction.metrics["total_token_throughput"]
    assert out is not None and all_tokens is not None
    energy = Metric(gpus * watts / out.value, gpus * low / out.high, gpus * high / max(out.low, 1e-12))
    phases = {part.name: float(part.seconds) for part in prediction.cost.children}
    whole = sum(phases.values())
    share = phases.get("prefill", 0.0) / whole if whole else 0.0
    # Idle time belongs to both alike.
    input_rate = max(all_tokens.value - out.value, 1e-12)
    return Economy(
        gpus, used, busy, Metric(watts, low, high), hardware.name == power_fit().gpu, energy,
        tuple(prices_of(hardware.name, prices)), share, gpus * share / input_rate, gpus * (1 - share) / out.value,
        gpus / all_tokens.value,
    )  # fmt: skip


def _busy(prediction: Prediction) -> float:
    """Share of the time in which an engine's steps run."""
    if isinstance(prediction, Served):
        report = prediction.report
        return min(report.busy_s / report.duration_s, 1.0) if report.duration_s else 1.0
    return 1.0
