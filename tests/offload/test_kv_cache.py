"""Keys and values in main memory: the CPU runs attention over them."""

import pytest

import moesim
from moesim.assembly import assemble
from moesim.errors import SpecError
from moesim.memory import kv_bytes_per_token

BASE = "scenarios/offload/llama_cpp_rtx_4090.yaml"


def loaded(kv_cache, input_len=4096, **changes):
    scenario = moesim.load(BASE)
    load = {"batch_size": 2, "input_len": input_len, "output_len": 16}
    return scenario.with_(workload=load, **{"offload.kv_cache": kv_cache}, **changes)


def test_the_cache_leaves_the_gpu_for_main_memory():
    here, off = (moesim.predict(loaded(where)).memory for where in ("gpu", "cpu"))
    assert off.kv == 0 < here.kv
    assert off.dram - here.dram == pytest.approx(here.kv)
    assert here.gpu - off.gpu == pytest.approx(here.kv)


def test_a_token_takes_at_least_its_cache_through_main_memory():
    short, long = (moesim.predict(loaded("cpu", n))["mean_tpot_ms"] for n in (1024, 8192))
    parts = assemble(loaded("cpu"))
    bytes_ = 2 * 7168 * kv_bytes_per_token(parts.rank)
    assert long - short >= 0.99e3 * bytes_ / parts.steps.around.cpu_bytes_per_s
    assert long > moesim.predict(loaded("gpu", 8192))["mean_tpot_ms"]


def test_what_the_gpu_asks_and_gets_crosses_the_link():
    """However short the cache, every layer waits for a way there and back."""
    assert moesim.predict(loaded("cpu", 64))["mean_tpot_ms"] > moesim.predict(loaded("gpu", 64))["mean_tpot_ms"]


def test_attention_is_in_the_tree_once():
    tree = moesim.predict(loaded("cpu")).explain()
    assert "attention_on_cpu" in tree
    assert "decode_attention" not in tree


def test_only_what_runs_on_the_cpu_keeps_it_there():
    with pytest.raises(SpecError, match="runs nothing on the CPU"):
        moesim.predict(
            moesim.load("scenarios/offload/moe_infinity_rtx_a6000.yaml").with_(**{"offload.kv_cache": "cpu"})
        )
