"""Ways to bring tokens to experts: limits, operations, memory, refusals."""

from __future__ import annotations

import pytest

from moesim.assembly import assemble
from moesim.errors import SpecError
from moesim.explore.slots import slots
from moesim.inputs.loading import load
from moesim.inputs.scenario import Scenario, Workload
from moesim.models.frame import Frame
from moesim.paths import SCENARIOS
from moesim.prediction import predict
from moesim.report.text import prediction_text

STATIC = Workload(batch_size=16, input_len=512, output_len=64)


def scenario(model="Mixtral-8x7B-v0.1", tp=4, **settings):
    base = Scenario(model=model, hardware="h100-sxm", workload=STATIC).with_(tensor_parallel_size=tp)
    return base.with_(**settings) if settings else base


def operations(found, tokens=64):
    steps = assemble(found).steps
    rank = steps.rank
    at = Frame(rank, steps.load((rank.decoding(tokens, 512),)))
    layers = next(group for group in rank.model.layers if group.routed)
    return dict(layers.operations(at))


@pytest.mark.parametrize(
    "settings",
    [
        {"moe_dispatch": "fused"},
        {"moe_dispatch": "dropping", "moe_capacity_factor": 1e6},
        {"moe_dispatch": "dropping", "moe_capacity_share": 1.0},
    ],
)
def test_unbounded_capacity_is_the_plain_prediction(settings):
    plain, found = predict(scenario()), predict(scenario(**settings))
    assert found.metrics == plain.metrics and found.memory == plain.memory


def test_degree_one_is_the_plain_prediction():
    base = load(SCENARIOS / "mixtral_8x22b_two_dh.yaml")
    plain = predict(base)
    assert predict(base.with_(moe_pipeline_degree=1)).metrics == plain.metrics
    fastest = predict(base.with_(moe_pipeline_degree="auto"))
    for degree in (1, 2, 4, 8):
        one = predict(base.with_(moe_pipeline_degree=degree))
        assert fastest["mean_e2el_ms"] <= one["mean_e2el_ms"] * (1 + 1e-9)


def test_two_parts_of_an_exchange():
    """(m + c)/2 + max(m, c)/2 of parts priced as they are."""
    base = load(SCENARIOS / "mixtral_8x22b_two_dh.yaml").with_(moe_pipeline_degree=2)
    steps = assemble(base).steps
    load_ = steps.load((steps.rank.decoding(2048, 1024),))
    whole = steps.cost("decode", load_, 2048).children[0]
    at_once = {name: sum(c.seconds for c in whole.children if c.name == name) for name in ("experts", "dispatch")}
    part = assemble(base.with_(moe_pipeline_degree=1)).steps
    half = part.cost("decode", part.load((part.rank.decoding(1024, 1024),)), 1024).children[0]
    seconds = {c.name: c.seconds for c in half.children}
    moves, computes = 2 * (seconds["dispatch"] + seconds["combine"]), 2 * seconds["experts"]
    together = (moves + computes) / 2 + max(moves, computes) / 2
    added = next(c.seconds for c in whole.children if c.name == "exchange in parts")
    before = at_once["experts"] + 2 * at_once["dispatch"]
    assert before + added == pytest.approx(together, rel=0.02)


def test_a_loop_computes_whole_experts_over_every_row():
    op = operations(scenario(moe_dispatch="looped"))["experts"]
    assert (op.experts, op.rows_each, op.width) == (2, 64, 14336)
    assert op.weight_bytes == 2 * 3 * 4096 * 14336 * 2
    assert op.flop == 2 * 2 * 64 * 3 * 4096 * 14336
    assert op.launches == 2 * (3 + 2 + 4)


def test_a_loop_over_its_own_rows_runs_outside_graphs():
    found = scenario(moe_dispatch="looped", moe_loop_rows="own")
    assert assemble(found).limits.captured_tokens == 0
    op = operations(found)["experts"]
    assert op.width == 14336 // 4 and op.experts == pytest.approx(8.0, rel=1e-3)
    assert op.experts * op.rows_each == pytest.approx(128)


def test_fused_over_looped():
    """MoE-Inference-Bench: 15 to 20 % over batches on four H100s (arXiv 2508.17467, abstract of its section)."""
    long = {"input_len": 2048, "output_len": 2048}
    gains = []
    for batch in (16, 32, 64):
        fast, slow = (predict(scenario(moe_dispatch=kind, batch_size=batch, **long)) for kind in ("fused", "looped"))
        gains.append(100 * (fast["output_throughput"] / slow["output_throughput"] - 1))
    assert all(9 <= gain <= 26 for gain in gains), gains


def test_slots_are_computed_and_sent():
    plain = operations(scenario())
    fixed = operations(scenario(moe_dispatch="static_capacity", moe_capacity_factor=2.0))
    assert fixed["experts"].rows == 8 * 32 and plain["experts"].rows == 128
    assert fixed["experts"].distinct == 8
    assert {"fill_slots", "read_slots"} <= set(fixed) and "slot_masks" not in fixed
    masked = operations(
        scenario(moe_dispatch="static_capacity", moe_capacity_factor=2.0, moe_dispatch_kernel="one_hot")
    )
    assert (masked["fill_slots"].m, masked["fill_slots"].n, masked["fill_slots"].k) == (256, 4096, 64)
    assert masked["slot_masks"].hbm_bytes == 3 * 64 * 256
    base = load(SCENARIOS / "mixtral_8x22b_two_dh.yaml")
    sent = operations(base)["dispatch"].message_bytes
    wide = operations(base.with_(moe_dispatch="static_capacity", moe_capacity_factor=4.0))["dispatch"].message_bytes
    assert wide == pytest.approx(4 * sent, rel=0.05)


@pytest.mark.parametrize("kind", ["static_capacity", "dropping"])
def test_more_slots_take_more_memory(kind):
    found = [predict(scenario(moe_dispatch=kind, moe_capacity_factor=f)).room.activations for f in (0.5, 1.0, 4.0)]
    assert found == sorted(found)
    assert predict(scenario()).room.activations == pytest.approx(
        predict(scenario(moe_dispatch="dropping", moe_capacity_factor=8.0)).room.activations
    )


def test_what_is_dropped_is_told():
    found = predict(scenario("OLMoE-1B-7B-0924", 1, moe_dispatch="dropping", moe_capacity_factor=1.0))
    decode, prefill = slots(found)
    assert decode.tokens == 16 and prefill.tokens == 8192 and decode.dropped > prefill.dropped > 0
    assert "of their picks dropped" in prediction_text(found)
    assert slots(predict(scenario())) == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"moe_dispatch": "static_capacity"}, "needs moe_capacity_factor"),
        ({"moe_capacity_factor": 1.0}, "has a part only where"),
        ({"moe_dispatch": "dropping", "moe_capacity_factor": 1.0, "moe_capacity_share": 0.1}, "keep one"),
        ({"moe_dispatch_kernel": "one_hot"}, "one_hot fills slots"),
        ({"moe_loop_rows": "own"}, "is of a loop"),
        ({"moe_dispatch": "looped", "moe_backend": "triton"}, "names a fused kernel"),
        ({"moe_pipeline_degree": 2}, "cuts an all-to-all"),
        ({"moe_dispatch": "grouped"}, "fused"),
        ({"model": "Qwen3-8B", "moe_dispatch": "looped"}, "no routed experts"),
    ],
)
def test_dispatch_that_says_nothing_here(settings, said):
    with pytest.raises(SpecError, match=said):
        scenario(**settings)
