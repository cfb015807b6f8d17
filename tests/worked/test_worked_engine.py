"""vLLM's engine file by hand: captured sizes, padding, defaults by GPU, versions, the scheduler."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest

from moesim import SpecError, load_hardware, paths
from moesim.cost.fit_file import load_fits
from moesim.engines import engine
from moesim.engines.engine import load_engine
from moesim.engines.file import Place
from moesim.engines.kv_cache import CountedBlocks
from moesim.engines.scheduling import SchedulerLimits, scheduler_of
from moesim.engines.settings import EngineSettings
from moesim.engines.vllm.scheduler import V1Scheduler

ENGINE = load_engine()
SIZES = [
    1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184, 192,
    200, 208, 216, 224, 232, 240, 248, 256, 272, 288, 304, 320, 336, 352, 368, 384, 400, 416, 432, 448, 464, 480, 496,
    512,
]  # fmt: skip


def limits(gpu="h100-sxm", **settings):
    hardware = load_hardware(gpu)
    return ENGINE.limits(EngineSettings(**settings), hardware.gpu.memory.value, hardware.compute_capability)


# --- CUDA graphs


def test_captured_sizes():
    graphs = ENGINE.file.graphs
    assert graphs.largest == 512
    assert graphs.sizes(512).tolist() == SIZES and len(SIZES) == 51
    assert graphs.sizes(30).tolist() == [1, 2, 4, 8, 16, 24]
    assert graphs.sizes(256).tolist() == SIZES[:35]
    assert graphs.sizes(3).tolist() == [1, 2]
    assert graphs.sizes(544).tolist()[-2:] == [528, 544]


@pytest.mark.parametrize(
    ("tokens", "rows"),
    [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (241, 248), (249, 256), (257, 272), (512, 512), (513, 513)],
)
def test_padded_tokens(tokens, rows):
    assert ENGINE.padded_tokens(tokens, 512) == rows
    assert ENGINE.padded_tokens(np.array([tokens, 7]), 512).tolist() == [rows, 8]
    assert ENGINE.padded_tokens(tokens, 0) == tokens, "no graphs, no padding"


def test_padding_ends_at_the_largest_size():
    assert ENGINE.padded_tokens(25, 30) == 25 and ENGINE.padded_tokens(23, 30) == 24


# --- defaults


@pytest.mark.parametrize(
    ("gpu", "tokens", "seqs"),
    [
        ("h100-sxm", 8192, 1024),  # 79.18 GiB
        ("h200", 8192, 1024),
        ("a100", 2048, 256),  # 80 GB, but an A100
        ("rtx-4090", 2048, 256),  # 24 GB
        ("l40s", 2048, 256),
    ],
)
def test_defaults(gpu, tokens, seqs):
    found = limits(gpu)
    assert (found.max_num_batched_tokens, found.max_num_seqs) == (tokens, seqs)
    assert (found.gpu_memory_utilization, found.block_size) == (0.92, 16)
    assert found.captured_tokens == 512 and found.async_scheduling


@pytest.mark.parametrize(("gib", "tokens"), [(69.99, 2048), (70.0, 8192)])
def test_where_large_begins(gib, tokens):
    assert ENGINE.limits(EngineSettings(), gib * 2**30, "9.0").max_num_batched_tokens == tokens
    assert ENGINE.limits(EngineSettings(), gib * 2**30, "8.0").max_num_batched_tokens == 2048


def test_settings_come_before_defaults():
    found = limits(
        max_num_batched_tokens=3000, max_num_seqs=77, gpu_memory_utilization=0.5, block_size=32, async_scheduling=False,
        max_cudagraph_capture_size=64,
    )  # fmt: skip
    assert (found.max_num_batched_tokens, found.max_num_seqs, found.gpu_memory_utilization) == (3000, 77, 0.5)
    assert (found.block_size, found.captured_tokens, found.async_scheduling) == (32, 64, False)
    assert limits(max_num_batched_tokens=100).max_num_seqs == 100, "no more sequences than tokens"
    assert limits(max_cudagraph_capture_size=0).captured_tokens == 0
    assert (
        limits(cudagraph_mode="NONE").captured_tokens == 0 < limits(cudagraph_mode="full_decode_only").captured_tokens
    )


def test_low_latency_kernels_have_room_for_few_tokens():
    found = limits(all2all_backend="deepep_low_latency")
    assert (found.max_num_batched_tokens, found.max_num_seqs) == (256, 256)
    assert limits(all2all_backend="deepep_low_latency", max_num_batched_tokens=512).max_num_batched_tokens == 512
    assert ENGINE.file.exchange.low_latency_most_tokens.value == 1024


def test_high_throughput_waits_for_its_host():
    high = {"all2all_backend": "deepep_high_throughput", "enable_expert_parallel": True, "data_parallel_size": 8}
    assert limits(**high).captured_tokens == 0
    assert limits(**high).max_num_batched_tokens == 8192
    for change in ({"data_parallel_size": 1}, {"enable_expert_parallel": False}, {"all2all_backend": None}):
        assert limits(**(high | change)).captured_tokens > 0
    assert limits(enforce_eager=True).captured_tokens == 0


# --- versions


@pytest.mark.parametrize(
    ("version", "file"),
    [
        (None, "0.25"), ("0.24", "0.24"), ("0.24.3", "0.24"), ("0.25.1", "0.25"), ("v0.25.0", "0.25"), ("0.28", "0.25"),
        ("0.10.2", "0.10"), ("0.11.0", "0.10"), ("0.11.1", "0.11.1"), ("0.11.2", "0.11.1"), ("0.12", "0.12"),
        ("0.13.0", "0.13"), ("0.15.1", "0.15"), ("0.16", "0.15"), ("0.18.0", "0.17"), ("0.22", "0.20"),
        ("0.30", "0.29"), ("0.32", "0.31"), ("0.33.1", "0.33"), ("0.15.1rc2", "0.15"),
    ],
)  # fmt: skip
def test_described_versions(version, file):
    """A file describes from its own version until the next."""
    found = load_engine("vllm", version)
    assert not found.stands_in and found.notes == () and found.file.version == file


@pytest.mark.parametrize(("version", "file"), [("0.9", "0.10"), ("0.34", "0.33"), ("1.0", "0.33")])
def test_versions_beyond_those_described(version, file):
    found = load_engine("vllm", version)
    assert found.stands_in and found.asked == version and found.file.version == file
    assert found.notes == (f"engine: vllm {version} is not described; {file} stands in",)
    assert found != ENGINE and found == load_engine("vllm", version)


@pytest.mark.parametrize("name", ["latest", "nightly"])
def test_the_newest(name):
    found = load_engine("vllm", name)
    assert found.file.version == engine.versions_of("vllm")[-1] and not found.stands_in
    assert found.notes == (f"engine: {name} is taken as vllm 0.33, the newest that is described",)


def test_a_version_says_what_differs():
    """0.12 is like 0.25 but for what its file says: maps merge, lists and values replace."""
    old, base = load_engine("vllm", "0.12").file, load_engine("vllm", "0.25").file
    assert old.defaults.gpu_memory_utilization == 0.9 and not old.defaults.async_scheduling
    assert old.defaults.block_size == base.defaults.block_size
    assert old.reserves.cuda_graphs is None and base.reserves.cuda_graphs is not None
    assert old.reserves.model_copy(update={"cuda_graphs": base.reserves.cuda_graphs}) == base.reserves
    assert old.graphs.padding == "first_expert" and old.graphs.largest == base.graphs.largest
    assert old.fused_all_reduce_norm is None and base.fused_all_reduce_norm is not None
    assert old.kernels.experts["bfloat16"] == base.kernels.experts["bfloat16"]
    assert old.sampler.sharded + old.sampler.gathered == 38 and base.sampler.sharded + base.sampler.gathered == 14


@pytest.mark.parametrize("version", engine.versions_of("vllm"))
def test_every_version_can_run_every_format_everywhere(version):
    kernels = load_engine("vllm", version).file.kernels
    for weights, capability, parallel in itertools.product(
        kernels.experts, ("8.0", "8.9", "9.0", "10.3", "12.0"), (0, 1)
    ):
        found = kernels.candidates(weights, "auto", Place(capability, bool(parallel)))
        assert found and found[-1].sure and all(kernel.source for kernel in found), (weights, capability)


HOPPER, HOPPER_EP, HOPPER_TP8 = Place("9.0", False, 4), Place("9.0", True, 1), Place("9.0", False, 8)


@pytest.mark.parametrize(
    ("version", "weights", "place", "backends"),
    [
        ("0.10.2", "fp8_block", HOPPER, ["triton"]),
        ("0.11.2", "fp8_block", HOPPER_TP8, ["deepgemm"]),
        ("0.12", "fp8_block", HOPPER, ["deepgemm"]),
        ("0.12", "fp8_block", HOPPER_TP8, ["triton"]),
        ("0.14", "fp8_block", HOPPER_EP, ["deepgemm"]),
        ("0.16", "fp8_block", HOPPER, ["flashinfer_cutlass"]),
        ("0.18", "fp8_block", HOPPER, ["triton"]),
        ("0.18", "fp8_block", HOPPER_EP, ["flashinfer_cutlass"]),
        ("0.25", "fp8_block", HOPPER_EP, ["flashinfer_cutlass"]),
        ("0.25", "fp8_block", HOPPER, ["triton"]),
        ("0.25", "fp8_block", Place("8.0"), ["triton"]),
        ("0.25", "fp8_block", Place("10.0", True), ["flashinfer_trtllm"]),
        ("0.18", "mxfp4", HOPPER, ["marlin"]),
        ("0.22", "mxfp4", HOPPER, ["marlin", "triton"]),
        ("0.25", "mxfp4", HOPPER, ["triton", "marlin"]),
        ("0.25", "mxfp4", Place("8.0"), ["marlin"]),
        ("0.25", "mxfp4", Place("10.0"), ["flashinfer_trtllm"]),
        ("0.25", "bfloat16", Place("12.0"), ["flashinfer_cutlass"]),
        ("0.25", "bfloat16", HOPPER, ["triton"]),
    ],
)
def test_which_backend_runs(version, weights, place, backends):
    """Row by row what docs and sources say of a version; an entry that is not sure brings the next that could."""
    kernels = load_engine("vllm", version).file.kernels
    assert [kernel.backend for kernel in kernels.candidates(weights, "auto", place)] == backends


def test_a_backend_asked_for():
    kernels = load_engine("vllm", "0.25").file.kernels
    assert kernels.of_experts("fp8_block", "deepgemm", HOPPER).family == "fused_moe/deepgemm"
    assert [k.backend for k in kernels.others("fp8_block", HOPPER)] == ["flashinfer_cutlass", "deepgemm"]
    with pytest.raises(
        SpecError, match=r"moe_backend 'marlin' does not run bfloat16 experts on compute capability 9\.0"
    ):
        kernels.of_experts("bfloat16", "marlin", HOPPER)


def test_what_is_refused():
    with pytest.raises(SpecError, match="there is no engine 'vlm'; did you mean 'vllm'"):
        load_engine("vlm")
    with pytest.raises(SpecError, match="there is no engine 'x'; known: vllm"):
        load_engine("x")
    with pytest.raises(SpecError, match="'newest' is no version of vllm"):
        load_engine("vllm", "newest")


# --- the scheduler


def test_the_scheduler_is_found_by_its_name():
    assert ENGINE.file.scheduler == "v1"
    found = scheduler_of(ENGINE, SchedulerLimits(256, 8), CountedBlocks(10, 16, float))
    assert type(found) is V1Scheduler and found.limits.max_num_seqs == 8
    unknown = ENGINE.file.model_copy(update={"scheduler": "v0"})
    with pytest.raises(KeyError):
        scheduler_of(
            type(ENGINE)(unknown, "0.25", "0.10", "0.33"), SchedulerLimits(256, 8), CountedBlocks(10, 16, float)
        )


def test_steps_under_way():
    assert SchedulerLimits(256, 8).depth == 2
    assert SchedulerLimits(256, 8, async_scheduling=False).depth == 1
    assert SchedulerLimits(256, 8, pipeline_stages=4).depth == 5


# --- kernels


@pytest.mark.parametrize(
    ("capability", "ranks", "custom", "symmetric"),
    [
        ("9.0", 2, 64 * 2**20, 64 * 2**20),
        ("9.0", 4, 32 * 2**20, 32 * 2**20),
        ("9.0", 6, 512 * 2**10, 64 * 2**20),
        ("9.0", 8, 256 * 2**10, 64 * 2**20),
        ("10.0", 8, 2**20, 128 * 2**20),
        ("8.0", 4, 8 * 2**20, 0),
    ],
)
def test_which_all_reduce_runs(capability, ranks, custom, symmetric):
    def kernels(size, allowed=True):
        return list(ENGINE.file.all_reduce.kernels(capability, ranks, size, allowed))

    middle = "symmetric_memory" if symmetric >= custom else "nccl"
    assert kernels(custom - 1) == ["custom"] and kernels(custom) == [middle]
    assert kernels(max(custom, symmetric) + 1) == ["nccl"]
    assert kernels(custom - 1, False) == (["symmetric_memory"] if symmetric else ["nccl"])
    assert ENGINE.file.all_reduce.kernels(capability, 3, 1.0).keys() == {"nccl"}, "no other sizes of groups"


def test_kernels_of_experts():
    kernels = ENGINE.file.kernels
    marlin = kernels.of_experts("mxfp4", "marlin", HOPPER)
    assert (marlin.family, marlin.padded, marlin.related, marlin.map_widening) == ("fused_moe/int4", True, True, 3)
    assert not kernels.of_experts("fp8_block", "auto", HOPPER).related
    assert kernels.of_experts("fp8", "auto", HOPPER).related


@pytest.mark.parametrize("version", engine.versions_of("vllm"))
def test_every_family_an_engine_names_is_one_that_some_gpu_has(version):
    kernels = load_engine("vllm", version).file.kernels
    named = {kernel.family for listed in kernels.experts.values() for kernel in listed}
    named |= {kernel.family for kernel in kernels.linear.values()}
    fitted = {family for name in paths.stored_fits() for family in load_fits(name).families}
    assert named <= fitted


def test_what_a_file_is_like_may_be_like_another(tmp_path, monkeypatch):
    folder = tmp_path / "vllm"
    shutil.copytree(paths.ENGINES / "vllm", folder)
    (folder / "0.41.yaml").write_text('name: vllm\nversion: "0.41"\nlike: "0.33"\n')
    (folder / "0.42.yaml").write_text('name: vllm\nversion: "0.42"\nlike: "0.99"\n')
    (folder / "0.43.yaml").write_text('name: vllm\nversion: "0.44"\nlike: "0.33"\n')
    monkeypatch.setattr(paths, "ENGINES", tmp_path)
    engine.versions_of.cache_clear()
    read = engine.engine_file.__wrapped__
    assert read("vllm", "0.41").graphs.largest_by_capability == {"10.": 1024}
    with pytest.raises(SpecError, match=r"0\.42\.yaml:3: 'like': '0\.99' is no other version's file"):
        read("vllm", "0.42")
    with pytest.raises(SpecError, match=r"0\.43\.yaml:2: says it is version 0\.44"):
        read("vllm", "0.43")
    monkeypatch.undo()
    engine.versions_of.cache_clear()
