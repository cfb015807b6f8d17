"""Image towers: tokens, tiles and arithmetic of an image; their cost in static batches, under load and in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.assembly import assemble
from moesim.engines.request import Request
from moesim.errors import SpecError
from moesim.explore.sweeps import sweep
from moesim.inputs.model_of import seen
from moesim.inputs.scenario import Scenario, Workload
from moesim.inputs.workload import Images
from moesim.memory import weight_bytes
from moesim.models.catalogue import load_model
from moesim.prediction import predict, predict_steady
from moesim.serving.priced_steps import relative_lengths
from moesim.serving.requests import requests

VL2, LLAMA, QWEN, MOLMO = (
    "deepseek-vl2-tiny", "Llama-4-Scout-17B-16E-Instruct", "Qwen3-VL-30B-A3B-Instruct", "MolmoE-1B-0924",
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "size", "tokens", "tiles"),
    [
        # 210 + 1 + 14 r (14 c + 1): 3 x 3 tiles are 2,017 tokens (vLLM deepseek_vl2.py).
        (VL2, (1024, 1024), 210 + 1 + 14 * 3 * (14 * 3 + 1), 10),
        (VL2, (256, 256), 421, 2), (VL2, (512, 512), 1023, 5), (VL2, (1280, 720), 1807, 9),
        (LLAMA, (256, 256), 147, 1), (LLAMA, (512, 512), 727, 5), (LLAMA, (1024, 1024), 2467, 17),
        (LLAMA, (1280, 720), 1887, 13),
        (QWEN, (256, 256), 64, 1), (QWEN, (1280, 720), 880, 1), (QWEN, (8192, 8192), 16_384, 1),
        (MOLMO, (256, 256), 316, 2), (MOLMO, (512, 512), 580, 5), (MOLMO, (1024, 1024), 972, 10),
        (MOLMO, (1280, 720), 1196, 13),
    ],
)  # fmt: skip
def test_tokens_of_an_image(model, size, tokens, tiles):
    tower = load_model(model).tower
    assert tower is not None
    picture = tower.picture(*size)
    assert (picture.tokens, picture.tiles) == (tokens, tiles)


@pytest.mark.parametrize(("model", "tflop"), [(VL2, 0.72), (LLAMA, 1.02), (MOLMO, 0.37)])
def test_arithmetic_of_a_tile(model, tflop):
    tower = load_model(model).tower
    assert tower is not None
    picture = tower.picture(1024, 1024)
    assert tower.flop(picture) / picture.tiles / 1e12 == pytest.approx(tflop, rel=0.03)


def scenario(model=VL2, images=1, load=None, **settings):
    load = load or Workload(batch_size=2, input_len=64, output_len=16)
    if images:
        load = load.model_copy(update={"images": Images(per_request=images)})
    base = Scenario(model=model, hardware="h100-sxm", workload=load)
    return base.with_(**settings) if settings else base


def test_prompts_grow_by_their_images():
    asked = scenario()
    load = seen(asked).workload
    assert load.input_len == 64 + 2017 and load.image_tokens == 2017
    assert seen(seen(asked)) == seen(asked)
    found = predict(asked)
    assert found.scenario.workload.input_len == 64, "a prediction shows what was asked"
    plain = predict(scenario(images=0, input_len=64 + 2017))
    assert found["mean_tpot_ms"] == pytest.approx(plain["mean_tpot_ms"])
    prefill = next(part for part in found.cost.children if part.name == "prefill")
    encoder = next(part for part in prefill.children if part.name == "image encoder")
    more = 1e-3 * (found["max_ttft_ms"] - plain["max_ttft_ms"])
    assert float(encoder.seconds) == pytest.approx(more, rel=1e-6) and more > 0.02


def test_more_images_take_longer():
    times = [predict(scenario(QWEN, images=n))["mean_ttft_ms"] for n in (1, 2, 4)]
    assert times == sorted(times) and times[2] > 2.5 * times[0]
    # DeepSeek-VL2 cuts no image where a prompt has more than two: 421 tokens each.
    assert seen(scenario(images=3)).workload.image_tokens == 421


def test_a_step_encodes_what_it_has_room_for():
    request = Request(0, 3 * 100 + 50, 10, images=3, image_tokens=100)
    assert [request.images_in(0, n) for n in (1, 100, 101, 350)] == [1, 1, 2, 3]
    assert request.images_in(50, 50) == 0 and request.images_in(50, 51) == 1
    assert request.images_in(300, 50) == 0


def test_images_under_load():
    load = Workload(max_concurrency=4, num_prompts=24, input_len=64, output_len=16)
    found = predict(scenario(load=load))
    plain = predict(scenario(images=0, load=load))
    assert found.report.answered == 24 and found["mean_ttft_ms"] > plain["mean_ttft_ms"]
    mixed = next(part for part in found.cost.children if part.name == "prefill")
    assert any(child.name == "image encoder" for child in mixed.children)
    # One after the other through the host: no more than one image for each time it takes.
    slow = load.model_copy(update={"images": Images(preprocessing=0.5)})
    assert predict(scenario(images=0, load=slow))["request_throughput"] < 2.05


def test_small_budgets_spread_images_over_steps():
    load = Workload(max_concurrency=1, num_prompts=2, input_len=64, output_len=4)
    whole = predict(scenario(QWEN, load=load, images=4, tensor_parallel_size=2))
    small = predict(
        scenario(QWEN, load=load, images=4, tensor_parallel_size=2, max_num_batched_tokens=1024, max_num_seqs=64)
    )
    assert small.report.steps > whole.report.steps
    assert max(c.images for c in small.report.mixed_steps.items) == 1
    assert max(c.images for c in whole.report.mixed_steps.items) >= 3


def test_the_steady_state_reads_images_too():
    load = Workload(request_rate=0.5, input_len=64, output_len=64)
    found = predict_steady(scenario(load=load))
    plain = predict_steady(scenario(images=0, load=load))
    served = predict(scenario(load=load.model_copy(update={"num_prompts": 100})))
    assert found["mean_ttft_ms"] > plain["mean_ttft_ms"] + 20
    assert found["mean_ttft_ms"] == pytest.approx(served["mean_ttft_ms"], rel=0.05)


@pytest.mark.parametrize("image_s", [0.05, 0.1])
def test_images_wait_for_the_one_who_reads_them(image_s):
    load = Workload(
        request_rate=5.0, input_len=64, output_len=64, images=Images(preprocessing=image_s), num_prompts=800
    )
    steady, served = predict_steady(scenario(images=0, load=load)), predict(scenario(images=0, load=load))
    print(f"{image_s} s: {steady['mean_ttft_ms']:.0f} ms, simulated {served['mean_ttft_ms']:.0f}")
    assert steady["mean_ttft_ms"] == pytest.approx(served["mean_ttft_ms"], rel=0.08)
    slow = load.model_copy(update={"images": Images(preprocessing=0.2)})
    with pytest.raises(SpecError, match="reads prompts and images 100% of the time"):
        predict_steady(scenario(images=0, load=slow))


@pytest.mark.parametrize("image_s", [None, 0.08])
def test_a_burst_of_images_is_read_one_by_one(image_s):
    images = Images(preprocessing=image_s)
    load = Workload(max_concurrency=8, num_prompts=80, input_len=64, output_len=512, images=images)
    steady, served = predict_steady(scenario(images=0, load=load)), predict(scenario(images=0, load=load))
    print(f"{steady['mean_ttft_ms']:.0f} ms, simulated {served['mean_ttft_ms']:.0f}")
    assert steady["mean_ttft_ms"] == pytest.approx(served["mean_ttft_ms"], rel=0.25)


def test_lengths_are_drawn_of_text_alone():
    law = {"kind": "uniform", "low": 0.1, "high": 1.9}
    load = seen(scenario(load=Workload(max_concurrency=4, num_prompts=200, input_len=64, output_len=8, lengths=law)))
    text = [r.prompt_len - 2017 for r in requests(load.workload)]
    assert min(text) >= 6 and max(text) <= 121 and np.mean(text) == pytest.approx(64, rel=0.1)
    assert load.workload.mean_input_len == 64 + 2017 and load.workload.longest()[0] == 121 + 2017
    shares = relative_lengths(load.workload)
    assert shares.mean() == pytest.approx(1.0) and np.ptp(shares) < 0.06


def test_a_sweep_has_images_too():
    found = sweep(scenario(), {"batch_size": [2, 4], "input_len": [64, 128]})
    one = predict(scenario().with_(batch_size=4, input_len=128))
    assert found["mean_ttft_ms"].iloc[3] == pytest.approx(one["mean_ttft_ms"], rel=0.005)
    assert found["kv_needed_bytes"].iloc[3] == pytest.approx(one.memory.kv_needed)
    # Said with its images, a prompt is the same prompt.
    whole = scenario(load=Workload(batch_size=2, input_len=64 + 2017, output_len=16, image_tokens=2017))
    assert predict(whole)["mean_e2el_ms"] == predict(scenario())["mean_e2el_ms"]


def test_the_tower_takes_memory():
    rank = assemble(scenario()).rank
    assert rank.model.tower is not None and rank.model.tower_parameters > 4e8
    # Each rank runs all of DeepSeek-VL2's, so each holds all of it; Qwen's is shared.
    for model, whole in (("deepseek-vl2", True), (QWEN, False)):
        rank = assemble(scenario(model, tensor_parallel_size=4)).rank
        without = replace(rank, model=replace(rank.model, tower_parameters=0))
        held = weight_bytes(rank) - weight_bytes(without)
        assert held == pytest.approx(2 * rank.model.tower_parameters / (1 if whole else 4))


def test_vl2_tiny_against_base():
    """Published: 30 % lower time to first token; 87 % where the tower is left out (arXiv 2508.17467)."""
    load = Workload(max_concurrency=1, num_prompts=4, input_len=64, output_len=16)
    tiny, base = (predict(scenario(model, load=load))["mean_ttft_ms"] for model in (VL2, "deepseek-vl2"))
    lower = 100 * (1 - tiny / base)
    print(f"VL2-Tiny's TTFT is {lower:.0f} % lower")
    assert abs(lower - 30) <= 15


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "OLMoE-1B-7B-0924"}, "has no image tower"),
        ({"images": 2}, "more than the 4096 positions"),
        ({"pipeline_parallel_size": 2}, "one pipeline stage alone"),
        ({"images": 0, "image_tokens": 5}, "requests have no images"),
        ({"image_tokens": 500}, "500 tokens an image, where deepseek-vl2-tiny makes 2017"),
        ({"image_tokens": 2017}, "leave no text"),
        ({"cached_share": 0.5, "max_concurrency": 4, "batch_size": None}, "no part in common"),
    ],
)
def test_images_that_cannot_be(changes, said):
    changes = dict(changes)
    model, images = changes.pop("model", VL2), changes.pop("images", 1)
    with pytest.raises(SpecError, match=said):
        scenario(model, images, **changes).with_(output_len=32)
