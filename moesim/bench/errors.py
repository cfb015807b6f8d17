"""Why a measurement cannot be made, as a sentence, and as the exit code of a measuring process."""

DONE, REFUSED, AGAIN = 0, 2, 75
"""The plan is done or time is up; nothing can be measured; a fresh process can go on."""


class BenchError(RuntimeError):
    """Nothing can be measured here, or not as asked."""


class DeviceLost(RuntimeError):
    """A kernel broke the CUDA context: only a fresh process can go on."""
