"""Machines without streaming multiprocessors: the form by hand, its limits; peaks of another vendor."""

from __future__ import annotations

import itertools

import pytest

from moesim.assembly import assemble
from moesim.cost.gpu import GpuNumbers
from moesim.cost.roofline import as_reached
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.scenario import Scenario, Workload
from moesim.ops import Elementwise, Gemm, Host
from moesim.prediction import predict

WITHOUT = ("google-tpu-v2", "google-tpu-v3", "google-tpu-v4", "google-tpu-v5e", "google-tpu-v5p", "google-tpu-v6e",
           "google-tpu-v7", "cerebras-cs-3")  # fmt: skip


def machine(hardware):
    load = Workload(batch_size=1, input_len=64, output_len=8)
    return assemble(Scenario(model="gpt2", hardware=hardware, workload=load)).steps.machine


def test_a_product_by_hand():
    """v5e: 1.5 us, then 2 m n k / (0.6 x 197 TFLOP/s) or the bytes at 0.8 x 819 GB/s."""
    found = machine("google-tpu-v5e")
    large = Gemm(4096, 4096, 4096)
    assert found.seconds("x", large) == pytest.approx(1.5e-6 + 2 * 4096**3 / (0.6 * 197e12))
    small = Gemm(1, 4096, 4096)
    assert found.seconds("x", small) == pytest.approx(1.5e-6 + small.hbm_bytes / (0.8 * 819e9))
    # Four kernels of a GPU are one operation here.
    assert found.seconds("x", Elementwise(1, 0.0, 4)) == pytest.approx(1.5e-6)
    assert found.seconds("x", Elementwise(1, 0.0, 5)) == pytest.approx(3e-6)
    assert found.host_seconds(Host(8, 100, False, 0.0)) == pytest.approx(1e-3)
    assert found.host_seconds(Host(8, 100, False, 2e-3, ahead=True)) == 0.0
    assert found.price("x", large).bound == "compute" and found.price("x", small).bound == "memory"


@pytest.mark.parametrize("name", WITHOUT)
def test_every_machine_without_sms(name):
    assert load_hardware(name).roofline is not None
    load = Workload(batch_size=4, input_len=128, output_len=16)
    model = "OLMoE-1B-7B-0924" if load_hardware(name).gpu.memory.value > 17e9 else "gpt2"
    found = predict(Scenario(model=model, hardware=name, workload=load))
    assert found.knowledge.tags["assumed"] > 0.99
    metric = found.metrics["mean_tpot_ms"]
    assert metric is not None and 0 < metric.low < metric.value < metric.high


@pytest.mark.parametrize("name", ["google-tpu-v5p", "cerebras-cs-3"])
def test_more_of_anything_never_takes_less(name):
    found = machine(name)
    times = [found.seconds("x", Gemm(m, 4096, 4096)) for m in (1, 8, 64, 512, 4096)]
    assert times == sorted(times)


def test_generations_follow_their_peaks():
    load = Workload(batch_size=1, input_len=2048, output_len=32)
    names = ("google-tpu-v4", "google-tpu-v5p", "google-tpu-v7")
    tpot = [predict(Scenario(model="Meta-Llama-3.1-8B", hardware=n, workload=load))["mean_tpot_ms"] for n in names]
    assert all(a > b for a, b in itertools.pairwise(tpot))


def test_wafers_slow_down_less_with_length():
    """H100 against CS-3 (arXiv 2508.17467): latency grows more slowly with length where caches are in SRAM."""

    def growth(hardware, **engine):
        found = []
        for length in (1024, 16384):
            load = Workload(batch_size=1, input_len=length, output_len=32)
            found.append(predict(Scenario(model="Meta-Llama-3.1-8B", hardware=hardware, workload=load).with_(**engine)))
        return found[1]["mean_e2el_ms"] - found[0]["mean_e2el_ms"]

    assert growth("cerebras-cs-3") < 0.5 * growth("h100-sxm")


def test_another_vendors_peaks_are_scaled_by_what_each_reaches():
    amd, own = load_hardware("mi300x"), load_hardware("h100-sxm")
    gpu = as_reached(GpuNumbers.of(amd), amd, own)
    assert gpu.bf16_flop_per_s == pytest.approx(1307.4e12 * 0.511 / 0.803)
    assert gpu.hbm_bytes_per_s == pytest.approx(5300e9 * 0.78 / 0.94)
    assert as_reached(GpuNumbers.of(own), own, own) == GpuNumbers.of(own)
