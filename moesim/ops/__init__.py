"""Work: shapes -> FLOP, bytes, messages. Knows no hardware.

Structure (heads, widths, formats) is scalar; load (tokens, contexts) may be an array. In a fit all of them are
arrays, one entry a measured row.
"""

from moesim.ops.all_to_all import ExpertAllToAll
from moesim.ops.attention import Attention, MlaModule, attended_pairs
from moesim.ops.collective import Collective
from moesim.ops.elementwise import Elementwise, Host
from moesim.ops.experts import FusedExperts
from moesim.ops.gemm import Gemm

Operation = Gemm | FusedExperts | Attention | MlaModule | Collective | ExpertAllToAll | Elementwise | Host

__all__ = [
    "Attention", "Collective", "Elementwise", "ExpertAllToAll", "FusedExperts", "Gemm", "Host", "MlaModule",
    "Operation", "attended_pairs",
]  # fmt: skip
