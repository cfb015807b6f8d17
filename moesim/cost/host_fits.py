"""What copies between host and GPU reach, from ``calibration/offload/fits.json``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.inputs.offload_fits import offload_fits

UNSEEN_SYSTEM = 0.45
"""Half-width, in the logarithm, where a system's copies were never seen: frameworks differ by two on one machine."""
_OWN_SHARE, _UNSEEN_HOST = 0.5, 0.7
"""Of a fixed time, what is taken to be the system's and not its machine's; half-width in the logarithm, a factor of
two, so that all of it is inside."""


@dataclass(frozen=True)
class LinkRate:
    """Bytes a second of copies to the GPU, and how well that is known."""

    bytes_per_s: float
    half_width: float
    tag: str
    source: str


def link_rate(system: str, gpu: str, nominal_bytes_per_s: float, memory: str, own_memory: str) -> LinkRate:
    """What a system's copies to the GPU reach.

    Fitted on the system and GPU where a run of them is known; else the share of the nominal rate that the system
    reached on other GPUs; else the share that plain copies reach. ``memory`` is what the host's pages are, and
    ``own_memory`` what the system makes them: where those differ, as plain copies of the two differ.
    """
    fits = offload_fits()
    own, copies = fits["systems"].get(system, {}), fits["copies"][memory]
    if own and memory != own_memory:
        found = link_rate(system, gpu, nominal_bytes_per_s, own_memory, own_memory)
        rate = found.bytes_per_s * copies["share"] / fits["copies"][own_memory]["share"]
        source = f"{found.source}, as {memory} ones differ"
        return LinkRate(rate, max(found.half_width, UNSEEN_SYSTEM), "extrapolated", source)
    if gpu in own:
        entry = own[gpu]
        rate = entry["share"] * nominal_bytes_per_s
        return LinkRate(rate, entry["half_width"], "fitted", f"offload/{gpu}:{system} copies")
    plain = LinkRate(
        nominal_bytes_per_s * copies["share"],
        max(copies["half_width"], UNSEEN_SYSTEM),
        "extrapolated",
        f"offload:{memory} copies, {copies['share']:.0%} of the link",
    )
    shares = [entry["share"] for entry in own.values()]
    if not shares:
        return plain
    # The system's own shares, and what plain copies reach: the middle of all opinions.
    opinions = np.log([*shares, copies["share"]])
    middle = np.median(opinions)
    spread = float(max(np.abs(opinions - middle).max(), UNSEEN_SYSTEM))
    return LinkRate(
        nominal_bytes_per_s * float(np.exp(middle)), spread, "extrapolated", f"offload:{system} copies on other GPUs"
    )


@dataclass(frozen=True)
class FixedTime:
    """What a system's step takes beside everything that is priced."""

    seconds: float
    half_width: float
    """Of its logarithm, 90 %."""
    tag: str
    source: str


def fixed_time(system: str, gpu: str) -> FixedTime | None:
    """As fitted on runs that move different amounts; None where no GPU's runs tell of any.

    On a GPU without runs of the system, half of what the median of the others has (a single row cannot tell and counts
    as none): what nobody explains may be that machine's own.
    """
    own = offload_fits()["systems"].get(system, {})
    if gpu in own:
        entry = own[gpu]
        seconds = entry.get("fixed_s", 0.0)
        found = FixedTime(seconds, entry["half_width"], "fitted", f"offload/{gpu}:{system} fixed time")
    else:
        seconds = _OWN_SHARE * float(np.median([entry.get("fixed_s", 0.0) for entry in own.values()] or [0.0]))
        found = FixedTime(seconds, _UNSEEN_HOST, "extrapolated", f"offload:{system} fixed time on other machines")
    return found if seconds else None


def issue_rate(kernels: str) -> tuple[float, float] | None:
    """(thread instructions an SM gets through in a second where packed weights are unpacked, half-width of its
    logarithm at 90 %) as fitted to runs of such kernels; None where none was. [1/s]
    """
    found = offload_fits().get("unpacking", {}).get(kernels)
    return (found["issue_rate"], found["half_width"]) if found else None


@dataclass(frozen=True)
class ThreadRate:
    """What one thread of a CPU multiplies."""

    flop_per_s: float
    half_width: float
    """Of its logarithm, 90 %."""


def thread_rate(kernels: str | None) -> ThreadRate | None:
    """As fitted to runs of such kernels; None where none was."""
    found = offload_fits().get("cpu", {}).get(kernels)
    return ThreadRate(found["flop_per_s"], found["half_width"]) if found else None
