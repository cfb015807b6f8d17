"""How weights are stored: read from a checkpoint's config, or told to an engine."""

from moesim.models.quantization.checkpoint import BFLOAT16, Quantization
from moesim.models.quantization.methods import quantization
from moesim.models.quantization.modules import Unknown
from moesim.models.quantization.schemes import SCHEMES, Scheme

__all__ = ["BFLOAT16", "SCHEMES", "Quantization", "Scheme", "Unknown", "quantization"]
