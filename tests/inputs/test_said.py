"""What a program says is read as a file is."""

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
