"""Why a measurement cannot be made, as a sentence."""


class BenchError(RuntimeError):
    """Nothing can be measured here, or not as asked."""


class DeviceLost(RuntimeError):
    """A kernel broke the CUDA context: only a fresh process can go on."""
