"""Work: shapes -> FLOP, bytes, messages. Knows no hardware.

Structure (heads, widths, formats) is scalar; load (tokens, contexts) may be an array. In a fit all of them are
arrays, one entry a measured row.
"""

from moesim.ops.attention import Attention, MlaModule, attended_pairs
from moesim.ops.collective import AllReduce
from moesim.ops.elementwise import Elementwise, Host
from moesim.ops.experts import FusedExperts
from moesim.ops.gemm import Gemm

Operation = Gemm | FusedExperts | Attention | MlaModule | AllReduce | Elementwise | Host

__all__ = [
    "AllReduce", "Attention", "Elementwise", "FusedExperts", "Gemm", "Host", "MlaModule", "Operation", "attended_pairs",
]  # fmt: skip
