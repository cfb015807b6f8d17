"""Laws that once were broken, each by the scenario that showed it (random ones: tests/properties/test_oracle.py)."""

import numpy as np
import pytest

from moesim import Scenario, load, predict, predict_steady
from moesim.assembly import assemble
from moesim.cost.sources import fit_for
from moesim.hardware.catalogue import load_hardware
from moesim.metrics import ended
from moesim.ops.elementwise import Host
from moesim.ops.load import Group
from moesim.serving.engine import step_table
from moesim.steps.pipeline import decode_cycle
from moesim.steps.table import Composition
from tests.oracle import violations

GPT2 = {"model": "gpt2", "hardware": "rtx-4090", "engine": {"pipeline_parallel_size": 2, "kv_cache_dtype": "fp8"},
        "workload": {"input_len": 32, "output_len": 20, "batch_size": 228}}  # fmt: skip
"""Small enough that a pipeline waits for its host."""


def test_kinds_of_layers_that_are_called_alike_add_up():
    """DeepSeek-V4's layers are of several kinds under one name, in other numbers each."""
    scenario = Scenario(
        model="DeepSeek-V4-Flash", hardware="h200-sxm", engine={"tensor_parallel_size": 4},
        workload={"input_len": 225, "output_len": 7, "max_concurrency": 14, "num_prompts": 56},
    )  # fmt: skip
    assert violations(predict(scenario)) == []


@pytest.mark.parametrize("clients", [1, 2, 3])
def test_fewer_clients_than_replicas_have_a_steady_state(clients):
    scenario = Scenario(
        model="gpt-oss-120b", hardware="b200",
        workload={"input_len": 783, "output_len": 16, "max_concurrency": clients},
        engine={"data_parallel_size": 4, "enable_expert_parallel": True},
    )  # fmt: skip
    assert violations(predict_steady(scenario, estimate=True)) == []


def test_an_answer_does_not_end_before_it_begins():
    first, end = (10.0, 6.0, 15.0), (11.0, 4.0, 13.0)
    assert [float(x) for x in ended(first, end)] == [11.0, 6.0, 15.0]
    assert [float(x) for x in ended((10.0, 12.0, 15.0), end)] == [11.0, 11.0, 15.0]
    assert [float(x) for x in ended(first, (20.0, 18.0, 25.0))] == [20.0, 18.0, 25.0]


def test_steps_of_a_pipeline_are_under_way_for_no_longer_than_the_run():
    report = predict(load("mixtral_tp2_pp2", {"conc": 12, "isl": 256, "osl": 64})).report
    assert 0.5 * report.duration_s < report.busy_s <= report.duration_s


def test_a_pipeline_waits_for_all_that_its_host_does():
    """Two micro-batches take twice the host's whole time, however little of it a step alone would wait for."""
    steps = assemble(Scenario(**GPT2)).steps
    batch = steps.load((Group.decode(114, 40),))
    cycle = decode_cycle(steps, batch, 114, 2)
    alone = float(steps.machine.host_seconds(Host(114, 0, True, 0.0, steps.ahead)))
    assert float(cycle.seconds) == pytest.approx(2 * alone)
    slowest = step_table(steps).time([Composition((), 114, 40, 114)]).slowest
    assert float(np.asarray(slowest)) == pytest.approx(alone)


@pytest.mark.parametrize("change", ["hbm_bandwidth*0.7", "hbm_bandwidth*0.95"])
def test_less_bandwidth_makes_nothing_faster(change):
    one = predict(Scenario(**GPT2)).cost.seconds
    assert predict(Scenario(**GPT2 | {"hardware": f"rtx-4090[{change}]"})).cost.seconds >= one * (1 - 1e-9)


@pytest.mark.parametrize("family", ["fused_moe/bfloat16", "gemm/fp8", "mla_decode"])
@pytest.mark.parametrize("card", ["h20-141gb", "rtx-4090", "mi300x"])
def test_what_stands_in_for_a_changed_card_stands_in_for_the_card(card, family):
    changed = load_hardware(f"{card}[hbm_bandwidth*0.3]")
    assert fit_for(changed, family) is fit_for(load_hardware(card), family)
