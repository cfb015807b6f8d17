"""Offloading: limits it must meet, lanes, tiers, published runs, every shipped system on every shipped machine."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import moesim
from moesim import DoesNotFit, load, paths, predict
from moesim.assembly import assemble
from moesim.calibrate.offload import fit_bandwidth
from moesim.calibrate.offload_compared import compared_runs, compared_sizes
from moesim.cost.cost import leaf_seconds
from moesim.cost.host_fits import link_rate
from moesim.experts.routing import loads as loads_of
from moesim.hardware.host import load_host
from moesim.inputs.offload import Offload, Policy
from moesim.inputs.offload_fits import offload_fits
from moesim.inputs.offload_runs import runs
from moesim.inputs.routing import Zipf
from moesim.inputs.scenario import Scenario, Workload
from moesim.inputs.system_file import load_system, systems
from moesim.offload import together
from moesim.offload.lanes import LANES, LayerWork, Rules, Timeline, schedule
from moesim.offload.memory import embedding_on_host, expert_bytes
from moesim.offload.misses import Requests
from moesim.offload.plan import Site, filled, placed
from moesim.ops.load import Group
from moesim.report.accuracy_offload import (
    ABLATION_TARGET,
    MEMORY_TARGET,
    ablations,
    mean_error,
)
from moesim.report.as_json import prediction_data
from moesim.report.load_text import shown
from moesim.report.text import explain_text

FILES = sorted((paths.SCENARIOS / "offload").glob("*.yaml"))
GPUS = ("rtx_a6000", "rtx_4090", "rtx_4060_laptop", "h100")


@pytest.fixture
def olmoe() -> Scenario:
    """OLMoE on an RTX 4090: fits, so that anything may be moved off."""
    return Scenario(
        model="OLMoE-1B-7B-0924",
        hardware="rtx-4090",
        workload=Workload(batch_size=1, input_len=64, output_len=32),
        routing={"kind": "locality"},
    )


def leaves(prediction, phase: str) -> dict[str, float]:
    """Seconds of each leaf of a phase."""
    part = next(p for p in prediction.cost.children if p.name == phase)
    found: dict[str, float] = {}
    for leaf, seconds in leaf_seconds(part):
        found[leaf.name] = found.get(leaf.name, 0.0) + float(seconds)
    return found


# Shipped files


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_scenario(path):
    assert path.read_text().startswith("#"), "a shipped scenario says what it shows"
    scenario = load(path)
    if path.stem.endswith("does_not_fit"):
        with pytest.raises(DoesNotFit):
            predict(scenario)
        return
    result = predict(scenario)
    for name, metric in result.metrics.items():
        assert metric is not None and 0 < metric.low < metric.value < metric.high < 12 * metric.value, name
    assert sum(result.knowledge.tags.values()) == pytest.approx(1)
    text = shown(result)
    if path.stem.endswith("served"):
        assert "beside the GPU it takes" in text
        return
    assert ("GPU memory" in text or "GPUs: " in text) and "lanes of a decode step" in text
    assert "formulas:" in explain_text(result)
    data = json.loads(json.dumps(prediction_data(result)))
    assert data["offload"]["system"] == load_system(scenario.offload.system).name
    assert {event["lane"] for event in data["offload"]["lanes"]} <= set(LANES)


def test_every_system_has_a_scenario_on_every_machine():
    for system in systems():
        if system == "custom":
            continue
        for gpu in GPUS:
            assert (paths.SCENARIOS / "offload" / f"{system.replace('-', '_')}_{gpu}.yaml").is_file(), (system, gpu)
    for path in FILES:
        if any(path.stem.endswith(gpu) for gpu in GPUS):
            assert load(path).offload.system.replace("-", "_") == path.stem[: path.stem.rindex("_" + _gpu(path.stem))]


def _gpu(stem: str) -> str:
    return next(gpu for gpu in sorted(GPUS, key=len, reverse=True) if stem.endswith(gpu))


@pytest.mark.parametrize("path", sorted(paths.HOSTS.glob("*.yaml")), ids=lambda p: p.stem)
def test_host(path):
    host = load_host(path.stem)
    assert host.name == path.stem and host.doubts and path.read_text().startswith("#")
    for alias in host.aliases:
        assert load_host(alias) == host


@pytest.mark.parametrize("name", systems())
def test_system(name):
    system = load_system(name)
    assert system.name == name and (paths.SYSTEMS / f"{name}.yaml").read_text().startswith("#")
    policy = set(type(system.policy).model_fields)
    assert set(system.knobs) <= policy and set(system.search.others) <= policy
    assert (system.runtime.kernels == "eager") == (system.runtime.linear_operations is not None)
    assert system.policy.missing == "gpu" or system.cpu_share is not None
    for alias in system.aliases:
        assert load_system(alias) == system


def test_a_users_own_system_and_host_lie_beside_the_scenario(write, tmp_path):
    """User-made: copies of shipped files with one mechanism changed."""
    mine = (paths.SYSTEMS / "fiddler.yaml").read_text().replace("missing: cheaper", "missing: gpu")
    (tmp_path / "mine.yaml").write_text(mine.replace("name: fiddler", "name: mine").replace("Fiddler", "Mine"))
    host = (paths.HOSTS / "desktop-ddr5.yaml").read_text()
    (tmp_path / "box.yaml").write_text(host.replace("name: desktop-ddr5", "name: box"))
    text = "model: Mixtral-8x7B-v0.1\nhardware: rtx-4090\nworkload: {batch_size: 1, input_len: 8, output_len: 8}\n"
    result = predict(load(write(text + "host: box.yaml\noffload: {system: mine.yaml, resident_experts: 40}\n")))
    assert "experts_on_cpu" not in leaves(result, "decode") and result.offload.plan.host.name == "box"
    broken = tmp_path / "mine.yaml"
    broken.write_text(mine.replace("usable:", "useable:"))
    with pytest.raises(moesim.SpecError, match=r"mine.yaml:.*'footprint.useable' is not a known key"):
        load(write(text + "offload: {system: mine.yaml}\n"))
    broken.write_text("\n".join(line for line in mine.splitlines() if "attention_operations" not in line))
    with pytest.raises(moesim.SpecError, match=r"kernels: eager needs attention_operations"):
        load(write(text + "offload: {system: mine.yaml}\n"))


def test_the_unit_is_what_the_scenario_says():
    """Not what a system's own amount implies; amounts of the other unit fall away."""
    zero, infinity = load_system("zero-inference"), load_system("moe-infinity")
    experts = filled(Offload(system="zero-inference", unit="expert", prefetch="none"), zero)
    assert experts.unit == "expert" and experts.n_gpu_layers is None
    layers = filled(Offload(system="moe-infinity", unit="layer"), infinity)
    assert layers.unit == "layer" and layers.device_memory_ratio is None


def test_as_much_as_fits_fits(olmoe):
    """Whole layers leave room for the cache and the prompt, except where the system's planner forgets them."""
    big = olmoe.with_(model="Mixtral-8x7B-v0.1", batch_size=16, input_len=4096, offload={"unit": "layer"})
    assert predict(big).memory.gpu <= predict(big).memory.gpu_budget
    with pytest.raises(DoesNotFit):
        predict(big.with_(offload={"system": "accelerate"}))


@pytest.mark.parametrize("system", ["zero", "zero-inference", "device-map", "Accelerate"])
def test_dense_models_stream_layer_by_layer_under_any_name(olmoe, system):
    dense = olmoe.with_(model="Meta-Llama-3.1-8B", offload={"system": system})
    assert predict(dense)["mean_tpot_ms"] > 0
    with pytest.raises(moesim.SpecError, match="no experts to offload"):
        predict(dense.with_(offload={"system": system, "unit": "expert", "prefetch": "none"}))


# Limits


@pytest.mark.parametrize("settings", [{"experts_on_gpu": 64}, {"n_gpu_layers": 16}, {"resident_experts": 1024}])
def test_offloading_nothing_is_the_plain_prediction(olmoe, settings):
    plain, moved = predict(olmoe), predict(olmoe.with_(offload=settings))
    assert moved.metrics == plain.metrics and moved.memory == plain.memory
    assert moved.cost.seconds == plain.cost.seconds


def test_no_cache_streams_the_experts_asked_for(olmoe):
    """Zero slots, or no policy to use them: every expert a step asks for comes over the link."""
    for offload in ({"experts_on_gpu": 0}, {"experts_on_gpu": 8, "cache": "none"}):
        scenario = olmoe.with_(offload=offload | {"host_bandwidth": "10 GB/s"})
        result = predict(scenario)
        rank = assemble(scenario).rank
        asked = 16 * 8
        steps = olmoe.workload.output_len - 1
        wanted = steps * asked * (expert_bytes(rank, rank.model.moe) / 10e9 + 10e-6 * 0.9)
        assert leaves(result, "decode")["expert_copy"] == pytest.approx(wanted, rel=2e-3)
        assert result.offload.hit_rate == 0


POLICIES = st.fixed_dictionaries(
    {
        "cache": st.sampled_from(["none", "lru", "lfu", "fifo", "lifo", "static", "belady"]),
        "prefetch": st.sampled_from(["none", "next_gate", "activation_matrix"]),
        "prefetch_recall": st.floats(0, 1),
        "prefetch_experts": st.sampled_from([None, 1, 4]),
        "missing": st.sampled_from(["gpu", "cpu"]),
        "copies": st.sampled_from(["overlapped", "blocking"]),
        "writeback": st.booleans(),
    }
)


@given(POLICIES, st.sampled_from([0.5, 4.0, 20.0, 48.0]), st.floats(2, 8), st.floats(1, 4), st.sampled_from([1, 6]))
@settings(deadline=None, max_examples=40)
def test_a_faster_link_never_slows_a_token(policy, slots, rate, faster, batch):
    scenario = Scenario(
        model="OLMoE-1B-7B-0924", hardware="rtx-4090", routing={"kind": "locality"},
        workload=Workload(batch_size=batch, input_len=16, output_len=4),
    )  # fmt: skip
    tokens = [
        predict(scenario.with_(offload={**policy, "experts_on_gpu": slots, "host_bandwidth": r * 1e9}))["mean_tpot_ms"]
        for r in (rate, rate * faster)
    ]
    assert tokens[1] <= tokens[0] * (1 + 1e-9)


@given(POLICIES, st.floats(0, 64), st.floats(0, 20), st.sampled_from([1, 6, 9, 33]))
@settings(deadline=None, max_examples=40)
@example({"cache": "lru"}, 63.9, 1.0, 9)
def test_a_larger_cache_never_slows_a_token(policy, slots, more, batch):
    """With a stack policy, and without guesses, whose waste a cache changes."""
    scenario = Scenario(
        model="OLMoE-1B-7B-0924", hardware="rtx-4090", routing={"kind": "locality"},
        workload=Workload(batch_size=batch, input_len=16, output_len=4),
    )  # fmt: skip
    stack = "lru" if policy["cache"] in {"none", "lru"} else "static"
    policy = {**policy, "prefetch": "none", "cache": stack, "missing": "gpu"}
    tokens = [
        predict(scenario.with_(offload={**policy, "experts_on_gpu": min(n, 64.0)}))["mean_tpot_ms"]
        for n in (slots, slots + more)
    ]
    assert tokens[1] <= tokens[0] * (1 + 1e-9)


SECONDS = st.floats(0, 0.02)
COUNTS = st.integers(0, 6).map(float)
WORKS = st.lists(
    st.builds(
        LayerWork, name=st.just("layer"), before_s=SECONDS, expert_s=SECONDS, after_s=SECONDS, hits=COUNTS,
        guessed=COUNTS, wasted=COUNTS, fetched=COUNTS, on_cpu=COUNTS, copy_s=SECONDS, back_s=SECONDS, disk_s=SECONDS,
        cpu_s=SECONDS, stream_s=SECONDS, stream_disk_s=SECONDS, whole_cpu_s=st.just(0.0) | SECONDS,
    ),
    min_size=1, max_size=6,
)  # fmt: skip
RULES = st.builds(Rules, overlapped=st.booleans(), stream_ahead=st.booleans(), full_duplex=st.booleans())


@given(WORKS, RULES)
@settings(deadline=None, max_examples=200)
def test_no_lane_does_two_things_at_once(works, rules):
    """A step is no shorter than any lane's work, so no guess beats the link; and no longer than all lanes in a row."""
    # Nothing guesses for a step's first layer, nor where whole layers are placed; those on the CPU copy nothing.
    whole = any(w.whole_cpu_s for w in works)
    works = [replace(w, guessed=0.0, wasted=0.0) if whole or not i else w for i, w in enumerate(works)]
    works = [
        LayerWork(w.name, stream_disk_s=w.stream_disk_s, whole_cpu_s=w.whole_cpu_s) if w.whole_cpu_s else w
        for w in works
    ]
    timeline = Timeline()
    end = float(schedule(works, rules, timeline))
    on_gpu = [w for w in works if not w.whole_cpu_s]
    gpu = sum(w.before_s + w.after_s + w.expert_s * (w.hits + w.guessed + w.fetched) for w in on_gpu)
    link = sum(w.stream_s + w.copy_s * (w.fetched + w.guessed) for w in on_gpu)
    cpu = sum(w.whole_cpu_s or w.on_cpu * w.cpu_s for w in works)
    disk = sum((w.fetched + w.guessed + w.on_cpu) * w.disk_s for w in on_gpu)
    for lane in (gpu, link, cpu, disk):
        assert end >= lane - 1e-9
    everything = gpu + cpu + sum(
        w.stream_s + w.stream_disk_s + (w.fetched + w.guessed + w.wasted) * (w.copy_s + w.disk_s)
        + (w.fetched + w.guessed) * w.back_s + w.copy_s + (2 + w.on_cpu) * w.disk_s + w.cpu_s for w in works
    )  # fmt: skip
    assert end <= everything + 1e-9
    for lane in LANES:
        spans = sorted((a, b) for name, _, a, b in timeline.events if name == lane)
        assert all(b <= c + 1e-9 for (_, b), (c, _) in itertools.pairwise(spans)), lane


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=30)
def test_equal_layers_at_once_are_layers_in_a_row(seed, overlapped):
    random = np.random.default_rng(seed)
    counts = [random.integers(0, 4, (5, 1, 16)).astype(float) for _ in range(3)]
    work = LayerWork("", 2e-3, 1e-3, 5e-4, hits=counts[0], fetched=counts[1], on_cpu=counts[2], copy_s=3e-3, cpu_s=4e-3)
    rules = Rules(overlapped=overlapped)
    at_once = np.sum(schedule([work], rules), axis=0)
    in_a_row = schedule([work.layer(i, f"layer {i}") for i in range(5)], rules)
    assert np.allclose(at_once, in_a_row)


def test_what_one_sees_adds_up(olmoe):
    """Leaves sum to the step, which the lanes give; what overlaps is a saving."""
    result = predict(olmoe.with_(offload={"experts_on_gpu": 16, "prefetch": "next_gate", "prefetch_experts": 4}))
    found = leaves(result, "decode")
    assert found["hidden by overlap"] < 0 < found["expert_copy"] and found["wrong_guesses"] > 0
    step = result["mean_tpot_ms"] / 1e3
    assert sum(found.values()) == pytest.approx(step * (olmoe.workload.output_len - 1), rel=1e-6)
    lanes = result.offload.lanes()
    assert lanes.end_s < step and max(lanes.busy().values()) <= lanes.end_s + 1e-12


@given(POLICIES, st.floats(3, 32))
@settings(deadline=None, max_examples=15)
def test_the_links_error_is_that_of_all_lanes(policy, rate):
    """A step's share of the link's interval is what the step takes with the link at either end."""
    steps = assemble(
        Scenario(
            model="OLMoE-1B-7B-0924", hardware="rtx-4090", routing={"kind": "locality"},
            workload=Workload(batch_size=1, input_len=16, output_len=4),
            offload={**policy, "missing": "gpu", "experts_on_gpu": 20, "host_bandwidth": rate * 1e9},
        )
    ).steps  # fmt: skip
    load = steps.load((Group.decode(1, 16),))
    step = steps.cost("decode", load, 1)
    down, up = step.spread["offload/link"]
    copies = sum(cost.seconds for cost in step.children if "offload/link" in cost.spread and cost.seconds > 0)
    assert 0 <= down <= copies * (1 - np.exp(-0.1)) + 1e-12 and 0 <= up <= copies * (np.exp(0.1) - 1) + 1e-12
    if policy["copies"] == "blocking" and policy["prefetch"] == "none" and not policy["writeback"]:
        assert up == pytest.approx(copies * (np.exp(0.1) - 1))


# Mechanisms


def test_guesses_hide_copies_and_wrong_ones_cost(olmoe):
    base = {"experts_on_gpu": 16, "copies": "blocking", "cache": "lru"}
    without = predict(olmoe.with_(offload=base))["mean_tpot_ms"]
    right, wrong = (
        predict(olmoe.with_(offload=base | {"prefetch": "next_gate", "prefetch_recall": r}))["mean_tpot_ms"]
        for r in (1.0, 0.0)
    )
    assert right < without < wrong


def test_a_missing_expert_runs_where_it_is_cheaper(olmoe):
    base = {"experts_on_gpu": 8, "copies": "overlapped"}
    slow, fast = {"host_bandwidth": "1 GB/s"}, {"host_bandwidth": "60 GB/s"}
    olmoe = olmoe.with_(hardware="rtx-4090[host_link*2]")
    times = {
        (missing, name): predict(olmoe.with_(offload={**base, "missing": missing, **link}))["mean_tpot_ms"]
        for missing in ("gpu", "cpu", "cheaper")
        for name, link in (("slow", slow), ("fast", fast))
    }
    assert times["cheaper", "slow"] == times["cpu", "slow"] < times["gpu", "slow"]
    assert times["cheaper", "fast"] == times["gpu", "fast"]


def test_prompts_and_tokens_are_treated_apart():
    """Fiddler: an expert's many prompt tokens make fetching pay where one token does not."""
    result = predict(load(paths.SCENARIOS / "offload" / "fiddler_rtx_a6000.yaml"))
    # A prompt's popular experts are copied, its rare ones run on the CPU.
    assert leaves(result, "prefill")["expert_copy"] > leaves(result, "prefill").get("experts_on_cpu", 0.0)
    assert "experts_on_cpu" in leaves(result, "decode") and "expert_copy" not in leaves(result, "decode")


def test_a_cold_cache_makes_the_first_token_wait(olmoe):
    times = [predict(olmoe.with_(offload={"experts_on_gpu": 32, "cold_start": cold})) for cold in (False, True)]
    assert times[1]["mean_ttft_ms"] > 1.2 * times[0]["mean_ttft_ms"]
    assert times[1]["mean_tpot_ms"] == pytest.approx(times[0]["mean_tpot_ms"])


def test_a_cold_cache_is_cold_once_in_a_long_prompt(olmoe, monkeypatch):
    """Sampled prefill steps do not smear the first one's cost over those beside it."""
    offload = {"experts_on_gpu": 60, "copies": "blocking", "cold_start": True}
    engine = {"max_num_batched_tokens": 512, "max_model_len": 32_768}
    engine["hf_overrides"] = {"max_position_embeddings": 32_768}
    long = olmoe.with_(input_len=25_600, output_len=2, offload=offload, **engine)
    sampled = predict(long)["mean_ttft_ms"]
    monkeypatch.setattr(together, "_MOST_ALIKE", 1000)
    assert sampled == pytest.approx(predict(long)["mean_ttft_ms"], rel=0.01)


def test_a_replayed_prompt_finds_what_a_drawn_one_does(olmoe, tmp_path):
    """A trace no longer than the prompt is one step of it: that alone does not empty the cache."""
    path = tmp_path / "trace.csv"
    random = np.random.default_rng(0)
    path.write_text("".join(",".join(map(str, random.permutation(64)[:8])) + "\n" for _ in range(200)))
    scenario = olmoe.with_(offload={"experts_on_gpu": 63}, input_len=200)
    drawn = predict(scenario.with_(routing={"kind": "uniform"}))["mean_ttft_ms"]
    replayed = predict(scenario.with_(routing={"kind": "trace", "file": str(path)}))["mean_ttft_ms"]
    assert replayed == pytest.approx(drawn, rel=0.1)


def test_skipping_asks_for_fewer_experts(olmoe):
    scenario = olmoe.with_(model="Mixtral-8x7B-v0.1", offload={"system": "adapmoe", "experts_on_gpu": 2})
    asked = [predict(scenario.with_(skipped_share=s)).offload.asked for s in (0.0, 0.25)]
    assert asked == [pytest.approx(64), pytest.approx(32 * 1.75)]


def test_a_batch_shares_its_misses(olmoe):
    """Eight sequences ask for fewer than eight times the experts, and find a larger share of them missing or not."""
    one, eight = (predict(olmoe.with_(offload={"experts_on_gpu": 16}, batch_size=b)) for b in (1, 8))
    assert one.offload.asked < eight.offload.asked < 8 * one.offload.asked
    assert eight["output_throughput"] > one["output_throughput"]


def test_layers_stream_behind_each_other(olmoe):
    """One layer ahead: the longer of link and GPU, not their sum; nothing ahead: the sum."""
    base = {"system": "zero-inference", "host_bandwidth": "5 GB/s"}
    ahead = predict(olmoe.with_(offload=base))
    blocked = predict(olmoe.with_(offload=base | {"prefetch": "none"}))
    gpu_s = blocked["mean_tpot_ms"] / 1e3 - leaves(blocked, "decode")["layer_copy"] / 31
    assert leaves(blocked, "decode").get("hidden by overlap", 0.0) == pytest.approx(0, abs=1e-6)
    link = leaves(ahead, "decode")["layer_copy"] / 31
    assert link < ahead["mean_tpot_ms"] / 1e3 < link + 0.5 * gpu_s < link + gpu_s
    assert len(ahead.offload.plan.resident) == 16 and not any(ahead.offload.plan.resident)


def test_main_memory_spills_to_disk_where_the_system_can(olmoe):
    big = olmoe.with_(model="Mixtral-8x22B-v0.1", hardware="h100", host="desktop-ddr5")
    spilled = predict(big.with_(offload={"system": "accelerate"}))
    assert spilled.memory.disk > 0 and spilled.memory.dram <= spilled.memory.dram_budget
    assert spilled.bounds["decode"].endswith("(disk)")
    with pytest.raises(DoesNotFit, match="too much in main memory"):
        predict(big.with_(offload={"system": "moe-infinity"}))


def test_every_tier_that_overflows_is_named(olmoe):
    scenario = olmoe.with_(model="Mixtral-8x7B-v0.1", offload={"system": "mixtral-offloading", "offload_per_layer": 0})
    with pytest.raises(DoesNotFit, match="too much in GPU memory") as error:
        predict(scenario.with_(hardware="rtx4060-laptop"))
    assert any("without offload.offload_per_layer" in way for way in error.value.ways_out)
    assert error.value.shortfall_bytes == max(error.value.memory.shortfalls.values())


def test_the_cpu_waits_for_the_disk_too(olmoe):
    """What runs on the CPU must be in main memory first: an expert's bytes at the disk's rate."""
    big = olmoe.with_(model="Mixtral-8x7B-v0.1", host="desktop-ddr5")
    there, away = (
        predict(big.with_(offload={"missing": "cpu", "experts_on_gpu": 1, "backing": b})) for b in ("dram", "disk")
    )
    missing = away.offload.asked - away.offload.found
    assert away["mean_tpot_ms"] / 1e3 > missing * 352.3e6 / 7e9 > 5 * there["mean_tpot_ms"] / 1e3
    assert "expert_from_disk" in leaves(away, "decode")
    layers = big.with_(offload={"system": "llama-cpp", "n_gpu_layers": 8, "backing": "disk"})
    assert "layer_from_disk" in leaves(predict(layers), "decode")


def test_copies_are_no_faster_than_main_memory(olmoe):
    slow = predict(olmoe.with_(offload={"experts_on_gpu": 8}, hardware="h100", host="colab-xeon"))
    c2c = predict(olmoe.with_(offload={"experts_on_gpu": 8}, hardware="h100", host="grace"))
    assert slow.offload.link_bytes_per_s == pytest.approx(0.15 * 134e9)
    assert c2c.offload.link_bytes_per_s > 300e9 and c2c["mean_tpot_ms"] < slow["mean_tpot_ms"]


def test_rows_that_pad_a_graph_ask_for_nothing(olmoe):
    asked = [predict(olmoe.with_(offload={"experts_on_gpu": 16}, batch_size=b)).offload.asked for b in (8, 9, 15, 16)]
    assert asked == sorted(set(asked))


@pytest.mark.parametrize(
    ("routing", "found"),
    [
        ({"kind": "identical"}, 1.0),
        ({"kind": "correlated", "rho": 1.0}, 1.0),
        ({"kind": "uniform"}, 0.25),
        ({"kind": "balanced"}, 0.25),
        ({"kind": "histogram", "counts": [9.0] * 16 + [1.0] * 48}, (0.4, 0.7)),
        ({"kind": "power_law", "alpha": 1.2}, (0.3, 0.95)),
        ({"kind": "correlated", "rho": 0.3}, (0.35, 0.6)),
    ],
)
def test_every_routing_has_its_hits(olmoe, routing, found):
    hit = predict(olmoe.with_(offload={"experts_on_gpu": 16}, routing=routing)).offload.hit_rate
    low, high = found if isinstance(found, tuple) else (found - 2e-3, found + 2e-3)
    assert low <= hit <= high


def test_small_changes_of_a_cache_show(olmoe):
    """No stairs: every slot more is a little faster."""
    scenario = olmoe.with_(model="Mixtral-8x7B-v0.1", hardware="rtx-a6000", offload={"system": "moe-infinity"})
    times = [predict(scenario.with_(device_memory_ratio=r))["mean_tpot_ms"] for r in (0.90, 0.92, 0.94, 0.96)]
    assert times == sorted(times, reverse=True) and len(set(times)) == 4


def test_strict_refuses_what_is_assumed():
    scenario = load(paths.SCENARIOS / "offload" / "ktransformers_rtx_4090.yaml")
    assert any("experts_on_cpu: assumed" in note for note in predict(scenario).knowledge.outside)


def test_a_budget_is_kept(olmoe):
    for budget in (4, 6, 8):
        result = predict(olmoe.with_(offload={"gpu_memory": f"{budget} GiB"}))
        assert result.memory.gpu <= budget * 2**30 < result.memory.gpu + 2 * 12.6e6 * 16


def test_encoder_decoder_models_are_offloaded_too(olmoe):
    scenario = olmoe.with_(model="nllb-moe-54b", batch_size=2, offload={"system": "moe-infinity"})
    result = predict(scenario)
    assert 0 < result.offload.hit_rate < 1 and result["mean_tpot_ms"] > 0


def test_a_dense_model_streams_its_layers(olmoe):
    scenario = olmoe.with_(model="Meta-Llama-3.1-70B", routing={"kind": "uniform"})
    result = predict(scenario.with_(offload={"system": "zero-inference"}, host="server-milan"))
    assert "layer_copy" in leaves(result, "decode") and result.offload.asked == 0


def test_sweeps_take_offloaded_scenarios(olmoe):
    pytest.importorskip("pandas")
    table = moesim.sweep(olmoe, {"offload.experts_on_gpu": [0, 32, 64], "batch_size": [1, 4]})
    assert len(table) == 6 and table["fits"].all()
    for _, rows in table.groupby("batch_size"):
        assert rows["mean_tpot_ms"].is_monotonic_decreasing
    single = predict(olmoe.with_(offload={"experts_on_gpu": 32}))
    row = table[(table["offload.experts_on_gpu"] == 32) & (table["batch_size"] == 1)].iloc[0]
    assert row["mean_tpot_ms"] == single["mean_tpot_ms"]


# Published figures


def test_published_runs():
    """The gate: ablations after one bandwidth, memory of the runs, sizes of the model."""
    token, _, memory = compared_runs()
    seven = ablations(token)
    reached, held = mean_error(seven), mean_error(memory)
    print(f"\nMixtral-offloading on T4: {reached:.1%}, target {ABLATION_TARGET:.0%}; GPU memory {held:.1%}")
    assert len(seven) == 7 and reached <= ABLATION_TARGET
    # The rows released later were never looked at before: 3.3 % over all six, at their first look.
    assert len(memory) == 6 and mean_error(memory[:3]) <= MEMORY_TARGET
    assert mean_error(compared_sizes()) <= MEMORY_TARGET
    assert all(row.low <= row.measured <= row.high for row in seven)
    for row in token:
        assert row.fits != "bandwidth" or "RTX 6000" in row.name or abs(row.error) < 2e-3, "run `moesim fit-offload`"


def test_fits_have_not_drifted_and_stay_within_the_link():
    stored = offload_fits()
    for run in runs():
        if run.fits == "bandwidth":
            entry = stored["systems"][run.system][run.gpu]
            assert run.row in entry["rows"] and not entry["at_bound"] and 0 < entry["share"] < 1
    naive = [run for run in runs() if run.fits == "bandwidth" and "t4" in run.gpu]
    entry = stored["systems"]["mixtral-offloading"]["nvidia-t4-16gb"]
    again = fit_bandwidth(naive)["bytes_per_s"]
    assert again == pytest.approx(entry["bytes_per_s"], rel=3e-3), "run `moesim fit-offload`"


# Mechanisms that blind checks asked for


def test_copies_on_one_stream_come_one_after_the_other():
    """A swap on the stream that computes takes both ways' time; beside it, the way back is free."""
    work = LayerWork("layer", before_s=1.0, expert_s=0.5, fetched=2.0, copy_s=3.0, back_s=3.0)
    assert schedule([work], Rules(overlapped=False)) == pytest.approx(1.0 + 2 * (3.0 + 3.0) + 2 * 0.5)
    assert schedule([replace(work, back_s=0.0)], Rules(overlapped=False)) == pytest.approx(1.0 + 2 * 3.0 + 2 * 0.5)


def test_what_is_not_kept_is_not_sent_back():
    settings = {"system": "mixtral-offloading", "offload_per_layer": 4, "prefetch": "none", "cache": "none"}
    base = load("mixtral_offloading_rtx_a6000").with_(output_len=2)
    assert "expert_writeback" not in leaves(predict(base.with_(offload=settings)), "decode")
    assert "expert_writeback" in leaves(predict(base.with_(offload=settings | {"cache": "lru"})), "decode")


def test_rare_experts_run_on_the_cpu_and_popular_ones_are_fetched():
    base = load("fiddler_rtx_a6000").with_(input_len=64, output_len=2)
    always, never = (base.with_(offload__gpu_from_tokens=n) for n in (1, 100_000))
    assert "experts_on_cpu" not in leaves(predict(always), "prefill")
    assert "expert_copy" not in leaves(predict(never), "prefill")
    both = leaves(predict(base), "prefill")
    assert both["experts_on_cpu"] > 0 and both["expert_copy"] > 0


@pytest.mark.parametrize(("tokens", "than"), [(1, 10), (4, 3), (40, 10), (3000, 10)])
def test_experts_with_few_tokens(tokens, than):
    """Against draws: each token picks each expert with that expert's chance."""
    loads = loads_of(Zipf(kind="zipf", s=0.8), 8, 2)
    requests = Requests(loads, Policy(), 0.0)
    share, mean = (float(x) for x in requests.fewer(np.array(tokens), than))
    drawn = np.random.default_rng(0).binomial(tokens, np.asarray(loads.popularity)[:, None], (8, 40_000))
    few = (drawn > 0) & (drawn < than)
    assert share == pytest.approx(few.sum() / (drawn > 0).sum(), abs=0.01)
    if few.any():
        assert mean == pytest.approx(drawn[few].mean(), rel=0.02)


def test_a_long_prompt_s_experts_are_copied_and_a_token_s_are_not():
    """llama.cpp: from 32 tokens of a micro-batch on."""
    base = load("llama_cpp_rtx_4090").with_(output_len=2, offload={"system": "llama-cpp", "n_cpu_moe": 16})
    long, short = (leaves(predict(base.with_(input_len=n)), "prefill") for n in (512, 16))
    assert "expert_copy" in long and "experts_on_cpu" not in long
    assert "experts_on_cpu" in short and "expert_copy" not in short
    assert "experts_on_cpu" in leaves(predict(base.with_(input_len=512)), "decode")


def test_an_embedding_in_main_memory_is_not_on_the_gpu():
    for way in ({"n_cpu_moe": 16}, {"n_gpu_layers": 20}):
        parts = assemble(load("llama_cpp_rtx_4090").with_(offload={"system": "llama-cpp", **way}))
        plan = parts.offload
        footprint = plan.system.footprint.model_copy(update={"embedding_on_host": False})
        system = plan.system.model_copy(update={"footprint": footprint})
        other = placed(Site(system, plan.rank, plan.hardware, plan.host, parts.limits, plan.work), plan.policy)
        moved = embedding_on_host(plan.rank, plan.system)
        assert other.tiers.trunk - plan.tiers.trunk == pytest.approx(moved) and moved > 0
        assert plan.tiers.dram - other.tiers.dram == pytest.approx(moved)


def test_threads_multiply_as_fitted():
    """Fiddler sets 16 threads, fewer where there are fewer cores."""
    rate = offload_fits()["cpu"]["torch-bf16"]["flop_per_s"]
    for host, threads in (("server-skylake-2s", 16), ("i9-10900x", 10)):
        scenario = load("fiddler_rtx_a6000").with_(host=host)
        around = assemble(scenario).steps.around
        assert around.cpu_flop_per_s == pytest.approx(threads * rate)


def test_one_bandwidth_a_system_and_gpu_and_a_guess_elsewhere():
    own = link_rate("mixtral-offloading", "nvidia-t4-16gb", 16e9, "pinned", "pinned")
    other = link_rate("mixtral-offloading", "nvidia-rtx-4090", 32e9, "pinned", "pinned")
    unseen = link_rate("fiddler", "nvidia-rtx-4090", 32e9, "pageable", "pageable")
    assert own.tag == "fitted" and other.tag == unseen.tag == "extrapolated"
    assert own.half_width < other.half_width and unseen.bytes_per_s < 32e9
    pageable = link_rate("mixtral-offloading", "nvidia-t4-16gb", 16e9, "pageable", "pinned")
    assert pageable.bytes_per_s < own.bytes_per_s and pageable.tag == "extrapolated"


@pytest.mark.parametrize("system", ["mixtral-offloading", "moe-infinity", "accelerate"])
def test_a_guessed_bandwidth_spans_what_the_system_reached_anywhere(system):
    kind = load_system(system).policy.host_memory
    guess = link_rate(system, "a new GPU", 1.0, kind, kind)
    for entry in offload_fits()["systems"][system].values():
        low, high = (guess.bytes_per_s * np.exp(s * guess.half_width) for s in (-1, 1))
        assert low * (1 - 1e-9) <= entry["share"] <= high * (1 + 1e-9)
