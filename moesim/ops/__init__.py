"""Work: shapes -> FLOP, bytes, messages. Knows no hardware.

Structure (heads, widths, formats) is scalar; load (tokens, contexts) may be an array. In a fit all of them are
arrays, one entry a measured row. ``of_context`` says whether an operation depends on what is cached, or on the step's
tokens alone.
"""

from moesim.ops.all_to_all import ExpertAllToAll
from moesim.ops.attention import Attention, BlockSparseModule, IndexScores, MlaModule, attended_pairs
from moesim.ops.collective import Collective
from moesim.ops.elementwise import Elementwise, Host
from moesim.ops.experts import FusedExperts, LoopedExperts
from moesim.ops.gemm import Gemm
from moesim.ops.load import Group, Load
from moesim.ops.recurrent import DeltaRule, ShortConvolution
from moesim.ops.sampling import Sort
from moesim.ops.streams import StreamMix

Operation = (
    Gemm | FusedExperts | LoopedExperts | Attention | MlaModule | BlockSparseModule | IndexScores | DeltaRule
    | ShortConvolution | StreamMix | Collective | ExpertAllToAll | Elementwise | Host | Sort
)  # fmt: skip

__all__ = [
    "Attention", "BlockSparseModule", "Collective", "DeltaRule", "Elementwise", "ExpertAllToAll", "FusedExperts",
    "Gemm", "Group", "Host", "IndexScores", "Load", "LoopedExperts", "MlaModule", "Operation", "ShortConvolution",
    "Sort", "StreamMix", "attended_pairs",
]  # fmt: skip
