"""The newcomer's exercise of CONTRIBUTING.md: a block and a form of its own, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from moesim.cost import registry
from moesim.cost.cost import leaf_seconds
from moesim.cost.fits import Fits, FittedFamily, Residuals
from moesim.cost.forms.form import Form, Parameter, Timing
from moesim.cost.machine import Machine
from moesim.cost.registry import Choice, chooses, families
from moesim.engines.engine import load_engine
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.routing import Uniform
from moesim.memory import sequence_kv_bytes, weight_bytes
from moesim.models.blocks.block import Block, State
from moesim.models.catalogue import load_model
from moesim.models.model import Layers
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops import Gemm
from moesim.ops.load import Group
from moesim.serving.static import static_batch
from moesim.steps.step import StepModel
from moesim.steps.table import Composition, StepTable

# -- the block ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scan:
    """Every token updates a state of ``dim`` x ``dim`` in each head."""

    tokens: Any
    heads: Any
    dim: Any

    of_context = False

    @property
    def flop(self) -> Any:
        return 4.0 * self.tokens * self.heads * self.dim**2

    @property
    def hbm_bytes(self) -> Any:
        return 8.0 * self.tokens * self.heads * self.dim


@dataclass(frozen=True)
class Linear(Block):
    heads: int
    dim: int
    weights: str = "bfloat16"

    norm = "input_norm"

    def parameters(self, hidden: int) -> int:
        return 4 * hidden * self.heads * self.dim

    def weight_bytes(self, rank: Rank) -> float:
        return 2.0 * self.parameters(rank.model.hidden_size) / rank.tp

    def state(self, tp: int, kv_bytes: float) -> State:
        return State(sequence_bytes=4.0 * self.heads * self.dim**2 / tp)

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        return 2.0 * tokens * 4 * self.heads * self.dim / rank.tp

    def operations(self, at):
        inner = self.heads * self.dim // at.rank.tp
        yield "qkv_proj", Gemm(at.tokens, 3 * inner, at.hidden, self.weights)
        yield "scan", Scan(at.tokens, self.heads // at.rank.tp, self.dim)
        yield "o_proj", Gemm(at.tokens, at.hidden, inner, self.weights)
        yield from at.reduce


# -- the form ----------------------------------------------------------------------------------------------------------


def seconds(p, op: Scan, gpu) -> Timing:
    compute = op.flop / (gpu.bf16_flop_per_s * p["e_mma"])
    return Timing(p["t_launch"] + compute, p["t_launch"], 0.0 * compute, compute)


FORM = Form(
    "scan",
    "t_launch + FLOP/(P e_mma)",
    (Parameter("t_launch", "s", 3e-6, 1e-7, 1e-4, "launch"), Parameter("e_mma", "1", 0.5, 0.01, 1.0, "share of peak")),
    seconds,
    ("tokens",),
)


# -- what follows from them --------------------------------------------------------------------------------------------


@pytest.fixture
def rank():
    """Qwen3-30B-A3B with linear attention, its two files in place."""
    families({"scan": FORM})
    chooses(Scan)(lambda machine, name, op: Choice("scan", op, machine.gpu))
    model = load_model("Qwen3-30B-A3B")
    (layers,) = model.layers
    linear = Layers(layers.count, (Linear(32, 128), layers.blocks[1]), layers.norm_parameters)
    yield Rank(replace(model, layers=(linear,)), Plan(), 2.0, Uniform(), load_engine())
    del registry.FORMS["scan"], registry.CHOICES[Scan]


def machine() -> Machine:
    made = Machine(load_hardware("h100-sxm"), load_engine())
    fitted = FittedFamily("scan", {"t_launch": 3e-6, "e_mma": 0.5}, {"tokens": (1, 1e6)}, Residuals((), (0.1,)), {})
    made.given = Fits("toy", made.hardware.name, "toy", {"scan": fitted})
    return made


def test_it_has_weights_and_a_state_that_no_token_adds_to(rank):
    hidden = rank.model.hidden_size
    whole = load_model("Qwen3-30B-A3B")
    attention = whole.layers[0].blocks[0].parameters(hidden)
    assert weight_bytes(rank) == pytest.approx(2 * (whole.parameters + 48 * (4 * hidden * 4096 - attention)))
    assert sequence_kv_bytes(rank, 10, 16) == sequence_kv_bytes(rank, 100_000, 16) == 48 * 4 * 32 * 128**2


def test_it_is_priced_in_trees_tables_and_batches(rank):
    steps = StepModel(rank, machine(), 512, True)
    held = Composition(((300, 0),), 8, 4000.0, 9)
    tree = steps.cost("step", steps.load(held.groups()), 9)
    assert StepTable(steps).time([held]).through == pytest.approx(tree.seconds, rel=1e-9)
    scan = next(leaf for leaf, _ in leaf_seconds(tree) if leaf.name == "scan")
    assert scan.seconds == pytest.approx(3e-6 + 4 * 320 * 32 * 128**2 / (0.5 * steps.machine.gpu.bf16_flop_per_s))
    assert scan.tag == "fitted" and scan.source.endswith(":scan")
    near, far = (static_batch(steps, 4, n, 16, 8192).decode_step_s for n in (64, 30_000))
    assert np.allclose(near, far), "no token of the past is read again"
    assert steps.load((Group.decode(8, 1),)).padded_tokens == 8
