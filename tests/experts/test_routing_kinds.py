"""Routing by layer and by domain, gates that choose otherwise, placements on one load priced on another."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.assembly import assemble
from moesim.cli.main import main
from moesim.errors import SpecError
from moesim.experts.placement import group_loads
from moesim.experts.routing import loads
from moesim.explore.activations import activations, of_scenario
from moesim.inputs.routing import Domains, ExpertChoice, Hash, Task, Uniform, Zipf
from moesim.inputs.scenario import Scenario, Workload
from moesim.models.frame import Frame
from moesim.prediction import predict

LOAD = Workload(batch_size=64, input_len=128, output_len=32)


def scenario(routing=None, ranks=1, **settings):
    base = Scenario(model="OLMoE-1B-7B-0924", hardware="h100-sxm", workload=LOAD)
    if ranks > 1:
        base = base.with_(data_parallel_size=ranks, enable_expert_parallel=True)
    if routing is not None:
        base = base.with_(routing=routing)
    return base.with_(**settings) if settings else base


def operations(found):
    steps = assemble(found).steps
    at = Frame(steps.rank, steps.load((steps.rank.decoding(64, 128),)))
    return dict(steps.rank.model.layers[0].operations(at))


@pytest.mark.parametrize("law", [{"kind": "uniform"}, {"kind": "zipf", "s": 0.7}, {"kind": "balanced"}])
@pytest.mark.parametrize("ranks", [1, 8])
def test_the_same_law_in_every_layer_is_that_law(law, ranks):
    plain = predict(scenario(law, ranks))
    apart = predict(scenario({"kind": "by_layer", "layers": [law] * 16}, ranks))
    for name, metric in plain.metrics.items():
        found = apart.metrics[name]
        assert found is not None and metric is not None
        assert (found.value, found.low, found.high) == pytest.approx((metric.value, metric.low, metric.high), rel=1e-9)


def test_finer_histograms_never_lower_the_busiest_rank():
    """The sum over layers of each one's busiest rank is at least that of their mean in every layer."""
    rng = np.random.default_rng(3)
    rows = rng.gamma(0.5, size=(16, 64)) + 0.01
    rows *= 8 / rows.sum(1, keepdims=True)
    rows = np.minimum(rows, 1.0)
    rows *= 8 / rows.sum(1, keepdims=True)
    mean = rows.mean(0)

    def law(counts):
        return {"kind": "histogram", "counts": [float(c) for c in counts]}

    fine = predict(scenario({"kind": "by_layer", "layers": [law(row) for row in rows]}, 8))
    coarse = predict(scenario({"kind": "by_layer", "layers": [law(mean)] * 16}, 8))

    def busiest(found):
        steps = assemble(found.scenario).steps
        return sum(group.count * float(steps.rank.loads(group.routed).rows(4096)) for group in steps.rank.model.layers)

    assert busiest(fine) >= busiest(coarse)
    assert fine["mean_ttft_ms"] >= coarse["mean_ttft_ms"]


def test_a_file_of_counts(tmp_path):
    file = tmp_path / "counts.csv"
    lines = ["# two layers", "layer,expert,count"]
    lines += [f"{layer},{e},{(e == layer) * 30 + 1}" for layer in range(16) for e in range(64)]
    file.write_text("\n".join(lines))
    found = scenario({"kind": "by_layer", "file": str(file)})
    rank = assemble(found).rank
    q = [rank.loads(group.routed).popularity for group in rank.model.layers]
    assert len(q) == 16 and all(row[i] == max(row) == 1.0 for i, row in enumerate(q))
    assert activations(file).peak == pytest.approx(31 / (94 / 64))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n", "must begin with the columns layer,expert,count"),
        ("layer,expert,count\n0,1,x\n", ":2: is not a layer"),
        ("layer,expert,count\n0,1,-1\n", ":2: is not a layer"),
        ("layer,expert,count\n", "holds no count"),
        ("layer,expert,count\n0,0,1\n", "describes 1 layers; OLMoE-1B-7B-0924 has 16"),
    ],
)
def test_bad_counts_are_told_where(tmp_path, text, said):
    file = tmp_path / "counts.csv"
    file.write_text(text)
    with pytest.raises(SpecError, match=said):
        scenario({"kind": "by_layer", "file": str(file)})


def test_domains_mix_in_a_step():
    hot = Zipf(kind="zipf", s=1.0)
    both = Domains.model_validate(
        {"kind": "domains", "domains": [{"share": 0.5, "routing": hot}, {"share": 0.5, "routing": hot}]}
    )
    one, mixed = loads(hot, 64, 8), loads(both, 64, 8)
    # Two domains have hot experts of their own: a mixture is more even than either, and sums to k.
    assert sum(mixed.popularity) == pytest.approx(8) and max(mixed.popularity) < max(one.popularity)
    assert float(mixed.distinct(16)) > float(one.distinct(16))
    with pytest.raises(SpecError, match=r"sum to 0\.9"):
        scenario({"kind": "domains", "domains": [{"share": 0.9, "routing": {"kind": "uniform"}}]})


def test_tasks_share_their_experts():
    one, many = loads(Task(kind="task"), 64, 8), loads(Task(kind="task", tasks=1000), 64, 8)
    assert float(one.distinct(500)) == pytest.approx(8) and float(one.distinct(1)) == pytest.approx(8)
    assert float(many.distinct(4)) == pytest.approx(float(loads(Uniform(), 64, 8).distinct(4)), rel=0.01)
    two = loads(Task(kind="task", tasks=2), 64, 8)
    # 2 (1 - 1/2^n) tasks are met among n tokens.
    assert float(two.distinct(10)) == pytest.approx(64 * (1 - (1 - 8 / 64) ** (2 * (1 - 2**-10))))


def test_gates_that_choose_otherwise():
    assert "router" in operations(scenario()) and "top_k" in operations(scenario())
    hashed = operations(scenario({"kind": "hash"}))
    assert "router" not in hashed and "hash_experts" in hashed
    assert operations(scenario({"kind": "base"}))["assignment"].hbm_bytes == 4 * 20 * 64 * 64
    even = group_loads(ExpertChoice(kind="expert_choice"), 64, 8, 8, "linear", 0)
    assert float(even.imbalance(64)) == 1.0
    assert loads(Hash(kind="hash"), 64, 8).popularity == pytest.approx([0.125] * 64)


def test_a_stale_placement_is_no_better_than_a_fresh_one():
    today, other = {"kind": "zipf", "s": 0.9}, {"kind": "histogram", "counts": list(range(1, 65))}
    packed = {"enable_eplb": True, "num_redundant_experts": 8}
    fresh = predict(scenario(today, 8, **packed))
    same = predict(scenario(today, 8, **packed, placement_routing=today))
    stale = predict(scenario(today, 8, **packed, placement_routing=other))
    assert same.metrics == fresh.metrics
    # Where few tokens touch few experts, how many a rank reads counts, and that hangs on other things.
    assert stale["mean_ttft_ms"] > fresh["mean_ttft_ms"]
    busiest = [
        float(assemble(p.scenario).rank.loads(assemble(p.scenario).rank.model.moe).rows(4096)) for p in (fresh, stale)
    ]
    assert busiest[1] > busiest[0]
    with pytest.raises(SpecError, match="says what experts are placed by"):
        scenario(today, 8, placement_routing=other)


def test_the_routing_command(tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    trace.write_text("0,1\n0,2\n0,3\n0,1\n")
    assert main(["routing", str(trace), "--ranks", "2", "--picture", str(tmp_path / "heat.png")]) == 0
    out = capsys.readouterr().out
    assert "1 layers of 4 experts" in out and "max/mean: mean over layers 2.00" in out and "busiest of 2 ranks" in out
    assert (tmp_path / "heat.png").stat().st_size > 5000
    assert main(["routing", str(tmp_path / "none.csv")]) == 2
    assert main(["routing", str(trace), "--picture", "x.pdf"]) == 2
    assert "must end in .png" in capsys.readouterr().err


def test_activations_of_a_scenario():
    found = of_scenario(scenario({"kind": "zipf", "s": 1.0}))
    assert found.shape == (16, 64) and found.sum(1) == pytest.approx([8000] * 16)
