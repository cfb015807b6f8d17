"""Why a cost is known less well than its fit says: an enumeration, each member with its factor on the interval."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique


@unique
class Why(Enum):
    """(what it is, factor on the interval's half-width, whether ``--strict`` refuses it)."""

    OUT_OF_RANGE = ("out of range", 1.25, True)
    """For each doubling beyond the fitted range; a tenth is added on top."""
    OTHER_GPU = ("another GPU", 1.5, True)
    """At least: constants of another GPU, of the same architecture too."""
    OTHER_VERSION = ("another version", 1.5, True)
    """An engine version that no file describes."""
    OTHER_ENGINE = ("another engine", 1.5, True)
    """A calibration that a scenario names, of another engine than serves."""
    RELATED_KERNEL = ("a related kernel", 2.0, False)
    """A related kernel's constants stand in."""
    EXPERT_MAP = ("an expert map", 1.5, False)
    """At least: a part of the experts on each rank, which no fitted row ran (the engine's file says how much)."""
    OTHER_SYSTEM = ("another system", 2.0, False)
    """Another system's own kernels, priced by vLLM's."""

    def __init__(self, _: str, factor: float, strict: bool):
        self.factor = factor
        self.strict = strict


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, and what it is about in words."""

    why: Why
    text: str


def related_kernel(family: str) -> Reason:
    return Reason(Why.RELATED_KERNEL, f"priced by a related kernel ({family})")


def other_gpu(gpu: str) -> Reason:
    return Reason(Why.OTHER_GPU, f"fitted on {gpu}")


def out_of_range(fields: str) -> Reason:
    return Reason(Why.OUT_OF_RANGE, f"{fields} outside the fitted range")


def other_version(asked: str, known: str) -> Reason:
    return Reason(Why.OTHER_VERSION, f"kernels of {known}, not of {asked}")


def other_engine(stack: str, engine: str) -> Reason:
    return Reason(Why.OTHER_ENGINE, f"fitted under {stack}, not under {engine}")


EXPERT_MAP = Reason(Why.EXPERT_MAP, "a part of the experts on each rank was never fitted")
OTHER_SYSTEM = Reason(Why.OTHER_SYSTEM, "priced by vLLM's kernels, not the system's own")
