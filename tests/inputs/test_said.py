"""What a program says is read as a file is."""

import pytest

import moesim
from moesim.inputs.routing import Uniform, Zipf
from moesim.inputs.workload import Lognormal, Workload

BASE = {"model": "mixtral-8x7b", "hardware": "4xh100-sxm", "engine": {"tp": 4}}
LOAD = {"max_concurrency": 4, "input_len": 64, "output_len": 16}


def test_a_section_keeps_its_kind():
    assert moesim.Scenario(**BASE, workload=LOAD, routing=Uniform()).routing == Uniform()
    skewed = Zipf(kind="zipf", s=1.2)
    assert moesim.Scenario(**BASE, workload=LOAD, routing=skewed).routing == skewed


def test_a_section_within_a_section_keeps_its_kind():
    lengths = Lognormal(kind="lognormal")
    found = moesim.Scenario(**BASE, workload=Workload(**LOAD, lengths=lengths))
    assert found.workload.lengths == lengths
    assert found == moesim.Scenario(**BASE, workload={**LOAD, "lengths": {"kind": "lognormal"}})


@pytest.mark.parametrize(
    "changes", [{"routing__kind": "zipf", "routing__s": 1.0}, {"routing__s": 1.0, "routing__kind": "zipf"}]
)
def test_another_kind_has_other_settings(changes):
    found = moesim.load("mixtral_tp4").with_(**changes)
    assert found.routing == Zipf(kind="zipf", s=1.0)
    assert found.with_(routing__kind="uniform").routing == Uniform()


@pytest.mark.parametrize("slo", [moesim.Slo(ttft_s=-1), moesim.Slo(ttft_s=float("nan"))])
def test_limits_that_are_none(slo):
    with pytest.raises(moesim.SpecError, match="no limits"):
        moesim.predict(moesim.Scenario(**BASE, workload=LOAD), slo)
    with pytest.raises(moesim.SpecError, match="static batch"):
        moesim.predict(moesim.load("mixtral_tp4"), moesim.Slo(ttft_s=1))


def test_an_answer_of_one_token_ends_with_its_first():
    from moesim.prediction import predict_steady

    one = moesim.Scenario(**BASE, workload=LOAD | {"output_len": 1})
    for found in (moesim.predict(one), predict_steady(one, estimate=True)):
        first, end = found.metrics["mean_ttft_ms"], found.metrics["mean_e2el_ms"]
        assert (first.low / first.value, first.high / first.value) == pytest.approx(
            (end.low / end.value, end.high / end.value)
        )
