"""Offloading on several GPUs, --cpu-offload-gb, called-experts-only streaming, and what a processor's kernels reach."""

from dataclasses import replace

import pytest

from moesim import SpecError, load, paths, predict
from moesim.assembly import assemble
from moesim.cost.cost import leaf_seconds
from moesim.inputs.loading import from_data
from moesim.inputs.vllm_command import scenario_from_vllm
from moesim.offload import memory
from moesim.ops.host import CpuMatrices


def mixtral(hardware="hgx-h100", engine=None, **offload):
    settings = {
        "model": "Mixtral-8x7B-v0.1", "hardware": hardware, "host": "server-sapphire-rapids",
        "workload": {"batch_size": 1, "input_len": 64, "output_len": 16}, "routing": {"kind": "locality"},
        "engine": engine or {}, "offload": offload,
    }  # fmt: skip
    return from_data(settings, "test")


def seconds_of(prediction, name):
    return sum(seconds for cost, seconds in leaf_seconds(prediction.cost) if cost.name == name)


def test_layers_on_two_gpus_have_the_memory_of_both_and_one_hop():
    settings = {"system": "llama-cpp", "experts_format": "gguf_q4_k", "gpu_memory": 14 * 2**30}
    one, two = (mixtral("rtx-4090-x2", {"pipeline_parallel_size": gpus}, **settings) for gpus in (1, 2))
    alone, both = (assemble(scenario).offload for scenario in (one, two))
    assert sum(both.slots) > 1.5 * sum(alone.slots)
    assert both.tiers.gpu_budget == 2 * alone.tiers.gpu_budget and both.tiers.context == 2 * alone.tiers.context
    assert both.tiers.gpus == 2 and both.tiers.dram < alone.tiers.dram
    found = predict(two)
    assert found["mean_tpot_ms"] < predict(one)["mean_tpot_ms"], "fewer experts on the CPU"
    assert seconds_of(found, "send_recv") > 0 and seconds_of(predict(one), "send_recv") == 0
    # The same experts off the GPU take as long, plus the hop.
    fixed = {"system": "llama-cpp", "experts_format": "gguf_q4_k", "n_cpu_moe": 20}
    near, far = (predict(mixtral("rtx-4090-x2", {"pipeline_parallel_size": gpus}, **fixed)) for gpus in (1, 2))
    hops = 1e3 * seconds_of(far, "send_recv")
    assert far["mean_e2el_ms"] == pytest.approx(near["mean_e2el_ms"] + hops, rel=1e-6)


def test_tensor_parallel_gpus_stream_slices_over_their_own_links():
    one = mixtral(system="vllm-offload", cpu_offload_gb=40 * 2**30)
    two = mixtral(engine={"tensor_parallel_size": 2}, system="vllm-offload", cpu_offload_gb=20 * 2**30)
    ranks = [assemble(scenario).offload for scenario in (one, two)]
    each = [memory.expert_bytes(plan.rank, memory.moe_layers(plan.rank)[0]) for plan in ranks]
    assert each[0] == 2 * each[1]
    assert ranks[0].tiers.dram == pytest.approx(ranks[1].tiers.dram, rel=0.05), "the host holds the same"
    copies = [seconds_of(predict(scenario), "layer_copy") for scenario in (one, two)]
    assert copies[1] == pytest.approx(copies[0] / 2, rel=0.02)


def test_cards_share_main_memory():
    """Two links that each could carry most of what main memory streams."""
    plans = [
        assemble(mixtral(engine={"tensor_parallel_size": n}, system="vllm-offload", cpu_offload_gb=2**30)).steps.around
        for n in (1, 8)
    ]
    dram = plans[0].host.dram.bandwidth.value * plans[0].host.dram.achieved.value
    assert plans[1].link.bytes_per_s <= dram / 8 + 1 < plans[0].link.bytes_per_s


def test_experts_on_the_cpu_are_whole_however_many_gpus_slice_the_others():
    runs = [
        predict(mixtral(engine={"tensor_parallel_size": n}, system="ktransformers", experts_on_gpu=0)) for n in (1, 2)
    ]
    assert seconds_of(runs[0], "experts_on_cpu") == pytest.approx(seconds_of(runs[1], "experts_on_cpu"), rel=1e-3)


def test_only_called_experts_come_where_a_kernel_reads_them():
    called = mixtral(system="vllm-offload", cpu_offload_gb=40 * 2**30)
    whole = called.with_(**{"offload.streamed": "layer"})
    plan = assemble(called).offload
    off, layers = plan.resident.count(False), plan.rank.model.layers[0]
    expert = memory.expert_bytes(plan.rank, memory.moe_layers(plan.rank)[0])
    steps = assemble(called).steps
    rate, latency = steps.around.link.bytes_per_s, steps.around.host.copy_latency.value
    bytes_ = memory.layer_bytes(plan.rank, layers) - 6 * expert
    decode = next(part for part in predict(called).cost.children if part.name == "decode")
    copied = sum(seconds for cost, seconds in leaf_seconds(decode) if cost.name == "layer_copy") / 15
    assert off == 15
    assert copied == pytest.approx(off * (bytes_ / rate + latency * (7 + 2 * 3)), rel=0.02)
    assert predict(whole)["mean_tpot_ms"] > 2 * predict(called)["mean_tpot_ms"]


def test_vllms_own_flag_is_read():
    data, notes = scenario_from_vllm("vllm serve mistralai/Mixtral-8x7B-v0.1 --cpu-offload-gb 30")
    assert data["offload"] == {"system": "vllm-offload", "cpu_offload_gb": "30 GiB"} and not notes
    assert "offload" not in scenario_from_vllm("vllm serve mistralai/Mixtral-8x7B-v0.1 --cpu-offload-gb 0")[0]


@pytest.mark.parametrize(
    ("engine", "offload", "said"),
    [
        ({"tensor_parallel_size": 2}, {"system": "accelerate"}, "one after the other"),
        ({"data_parallel_size": 2}, {"system": "llama-cpp"}, "one replica"),
        ({"tensor_parallel_size": 2, "enable_expert_parallel": True}, {"system": "ktransformers"}, "slice"),
        ({}, {"system": "fiddler", "streamed": "called"}, "whole layers"),
        ({}, {"system": "llama-cpp", "n_gpu_layers": 20, "n_cpu_moe": 4}, "32 or more is accepted"),
        ({}, {"system": "llama-cpp", "n_gpu_layers": 8, "streamed": "called"}, "do not come over the link"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(engine, offload, said):
    with pytest.raises(SpecError, match=said):
        predict(mixtral(engine=engine, **offload))


def test_all_layers_on_the_gpu_beside_experts_off_it_is_one_amount():
    """llama.cpp's usual line: -ngl 99 --n-cpu-moe 24."""
    both = mixtral("rtx-4090", system="llama-cpp", n_gpu_layers=99, n_cpu_moe=24)
    assert predict(both)["mean_tpot_ms"] == predict(both.with_(**{"offload.n_gpu_layers": None}))["mean_tpot_ms"]


def test_shipped_scenarios_of_several_gpus():
    for name in ("accelerate_4x_l40s", "llama_cpp_2x_rtx_5090", "vllm_offload_tp2_l40s"):
        found = predict(load(paths.SCENARIOS / "offload" / f"{name}.yaml"))
        assert found["mean_tpot_ms"] > 0


def test_a_cpus_rate_belongs_to_the_kernels_that_run_there():
    """K-quants on an AMX machine run at their own rate, 8-bit integers at the machine's; a measured rate is narrow."""
    base = {
        "model": "Mixtral-8x7B-v0.1", "hardware": "h100", "host": "server-sapphire-rapids",
        "workload": {"batch_size": 1, "input_len": 256, "output_len": 2}, "routing": {"kind": "locality"},
    }  # fmt: skip

    def machine(experts):
        offload = {"system": "ktransformers", "experts_on_gpu": 0, "experts_format": experts}
        return assemble(from_data({**base, "offload": offload}, "test")).steps.around

    slow, fast = machine("gguf_q4_k"), machine("int8")
    assert (slow.cpu_kernels, fast.cpu_kernels) == ("k-quants", "amx-int8")
    cpu = slow.host.cpu
    assert slow.cpu_flop_per_s == cpu.rates["k-quants"].value < fast.cpu_flop_per_s == cpu.flop_rate.value
    op = CpuMatrices(1.0, 1.0, 1e9)
    assumed = slow.cpu("experts", op)
    rate = cpu.rates["k-quants"].model_copy(update={"source": "measured"})
    measured_host = slow.host.model_copy(update={"cpu": cpu.model_copy(update={"rates": {"k-quants": rate}})})
    measured = replace(slow, host=measured_host).cpu("experts", op)
    assert (assumed.tag, measured.tag) == ("assumed", "measured")
    assert measured.spread["offload/CPU"][1] < 0.2 * assumed.spread["offload/CPU"][1]
