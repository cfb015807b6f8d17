"""Seconds of one engine step of an offloaded model, fast enough for a run under load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moesim.offload.steps import OffloadedSteps
from moesim.steps.table import Composition, StepTime

_CONTEXTS = np.unique(np.rint(2.0 ** np.arange(4.0, 20.5, 0.5))).astype(np.int64)
"""Mean contexts at which steps that only decode are priced; straight lines between."""


class OffloadedTable:
    """Prices steps of an offloaded model; those that only decode once for each number of sequences."""

    def __init__(self, steps: OffloadedSteps):
        self._steps = steps
        self._decodes: dict[int, Any] = {}
        self._mixed: dict[Composition, float] = {}

    def time(self, replicas: Sequence[Composition]) -> StepTime:
        """A step of the one replica there is; its ``context`` may be an array where it only decodes."""
        (part,) = replicas
        seconds = self._mixed_s(part) if part.prefills else self._decode_s(part)
        return StepTime(seconds, seconds)

    def _decode_s(self, part: Composition) -> Any:
        known = self._decodes.get(part.decodes)
        if known is None:
            known = self._decodes[part.decodes] = self._seconds("decode", part._replace(context=_CONTEXTS))
        found = np.interp(part.context, _CONTEXTS, np.broadcast_to(known, _CONTEXTS.shape))
        return found if np.ndim(part.context) else float(found)

    def _mixed_s(self, part: Composition) -> float:
        known = self._mixed.get(part)
        if known is None:
            known = self._mixed[part] = float(self._seconds("prefill", part))
        return known

    def _seconds(self, name: str, part: Composition) -> Any:
        load = self._steps.load(part.groups())
        beside = self._steps.beside(load, part.sampled, False)
        return self._steps.seconds(name, load, False, self._steps.kinds(load, False), beside)
