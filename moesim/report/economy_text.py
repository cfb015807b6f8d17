"""Power, energy and price, as text and as data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from moesim.explore.economy import Economy


def economy_text(found: Economy, usd_per_gpu_hour: float | None = None) -> str:
    """A few lines: power, energy, and what a million tokens cost at each provider, or at one price."""
    gpu, energy, used = found.gpu_w, found.joules_per_output_token, found.used
    known = "fitted" if found.fitted else "assumed: fitted on another GPU, scaled by the power limit"
    whole = f"{found.gpus * gpu.value:,.0f} W in all"
    busy = (
        f"busy {found.busy:.0%} of the time, using {used.tensor:.1%} of arithmetic, {used.hbm:.0%} of memory bandwidth"
    )
    lines = [
        f"power of each GPU {gpu.value:.0f} W ({gpu.low:.0f} .. {gpu.high:.0f}; {known}), {whole}; {busy}",
        f"energy {energy.value:.3g} J an output token ({energy.low:.3g} .. {energy.high:.3g}), "
        f"{1 / energy.value:.3g} tokens a joule; GPUs alone, without hosts, network and cooling",
    ]
    if usd_per_gpu_hour is not None:
        return "\n".join([*lines, f"at ${usd_per_gpu_hour:g} a GPU-hour: {_dollars(found, usd_per_gpu_hour)}"])
    if not found.prices:
        return "\n".join([*lines, "price: the table says nothing of this GPU; --price-per-gpu-hour gives one"])
    lines.append("dollars for a million tokens (input, output, either):")
    lines += [
        f"  ${price.usd_per_gpu_hour:.2f} a GPU-hour, {price.provider} {price.instance}, {price.date} "
        f"({price.source}): {_dollars(found, price.usd_per_gpu_hour)}"
        for price in found.prices
    ]
    return "\n".join(lines)


def _dollars(found: Economy, usd: float) -> str:
    prompt, answer, either = found.usd_per_million(usd)
    return f"${prompt:.3g} input, ${answer:.3g} output, ${either:.3g} either"


def economy_data(found: Economy, usd_per_gpu_hour: float | None = None) -> dict[str, Any]:
    """The same for programs."""
    priced = [{**asdict(price), "usd_per_million": _named(found, price.usd_per_gpu_hour)} for price in found.prices]
    if usd_per_gpu_hour is not None:
        priced = [{"usd_per_gpu_hour": usd_per_gpu_hour, "usd_per_million": _named(found, usd_per_gpu_hour)}]
    return {
        "gpus": found.gpus, "busy_share": found.busy, "utilisation": asdict(found.used),
        "gpu_power_w": asdict(found.gpu_w), "power_fitted": found.fitted,
        "joules_per_output_token": asdict(found.joules_per_output_token), "prices": priced,
    }  # fmt: skip


def _named(found: Economy, usd: float) -> dict[str, float]:
    return dict(zip(("input", "output", "either"), found.usd_per_million(usd), strict=True))
