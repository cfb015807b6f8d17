"""Cards as their files describe them: the figures by which each is known, as datasheets and drivers give them."""

from pathlib import Path

import pytest

from moesim import load_hardware, paths
from moesim.files.names import names_of
from moesim.hardware.catalogue import bare, hardware_files

FIGURES = {
    # name: SMs, then TFLOP/s of bf16, fp8, int8, fp4 (dense), GB/s of memory, of links and of the host, one direction.
    "nvidia-h20-96gb": (78, 148, 296, 296, None, 4000, 450, 64),
    "nvidia-h20-141gb": (78, 148, 296, 296, None, 4800, 450, 64),
    "nvidia-h200-nvl-141gb": (132, 835.5, 1670.5, 1670.5, None, 4800, 450, 64),
    "nvidia-gh200-96gb": (132, 989.4, 1978.9, 1978.9, None, 4000, 450, 450),
    "nvidia-gh200-144gb": (132, 989.4, 1978.9, 1978.9, None, 4900, 450, 450),
    "nvidia-gb200-186gb": (152, 2500, 5000, 5000, 10000, 8000, 900, 450),
    "nvidia-gb300-279gb": (152, 2500, 5000, 165, 15000, 8000, 900, 450),
    "nvidia-b300-sxm-270gb": (148, 2250, 4500, 153.5, 14000, 7750, 900, 128),
    "nvidia-rtx-pro-6000-96gb": (188, 467.8, 935.6, 935.6, 1871, 1792, 64, 64),
    "nvidia-rtx-5090": (170, 209.5, 419, 838, 1676, 1792, 64, 64),
    "nvidia-rtx-3090": (82, 71.2, None, 284.7, None, 936, 56.25, 32),
    "nvidia-rtx-4070": (46, 58.3, 116.6, 233.2, None, 504, 32, 32),
    "nvidia-rtx-2080-ti": (68, 53.8, None, 215.2, None, 616, 50, 16),
    "nvidia-a10-24gb": (72, 125, None, 250, None, 600, 32, 32),
    "nvidia-a10g-24gb": (80, 70, None, 140, None, 600, 32, 32),
    "nvidia-l20-48gb": (92, 119.5, 239, 239, None, 864, 32, 32),
    "nvidia-v100-sxm2-16gb": (80, 125, None, 62.8, None, 900, 150, 16),
    "nvidia-v100-sxm2-32gb": (80, 125, None, 62.8, None, 900, 150, 16),
    "nvidia-a100-pcie-80gb": (108, 312, None, 624, None, 1935, 300, 32),
    "amd-mi325x": (304, 1307.4, 2614.9, 2614.9, None, 6000, 448, 64),
    "amd-mi355x": (256, 2516.6, 5033.2, 5033.2, 10066.3, 8000, 537.6, 64),
}

# Boost clock [GHz] and dense bf16 (fp16) FLOP of an SM and clock, from the architecture papers.
CLOCKS = {
    "nvidia-rtx-5090": (2.407, 512),
    "nvidia-rtx-3090": (1.695, 512),
    "nvidia-rtx-4070": (2.475, 512),
    "nvidia-rtx-2080-ti": (1.545, 512),
    "nvidia-a10-24gb": (1.695, 1024),
    "nvidia-a10g-24gb": (1.710, 512),
    "nvidia-v100-sxm2-32gb": (1.530, 1024),
    "nvidia-l20-48gb": (2.520, 512),
    "nvidia-rtx-pro-6000-96gb": (2.430, 1024),
    "amd-mi355x": (2.400, 4096),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name):
    hardware = load_hardware(name)
    gpu, links = hardware.gpu, hardware.links
    in_tera = [v and v.value / 1e12 for v in (gpu.dense_bf16, gpu.dense_fp8, gpu.dense_int8, gpu.dense_fp4)]
    in_giga = [v.value / 1e9 for v in (gpu.hbm_bandwidth, links.gpu_to_gpu, links.host)]
    assert (gpu.sm_count.value, *in_tera, *in_giga) == pytest.approx(FIGURES[name])


@pytest.mark.parametrize("name", CLOCKS)
def test_peaks_are_units_times_clock(name):
    gpu = load_hardware(name).gpu
    clock_ghz, flop = CLOCKS[name]
    assert gpu.dense_bf16.value == pytest.approx(gpu.sm_count.value * clock_ghz * 1e9 * flop, rel=0.01)


@pytest.mark.parametrize(
    ("name", "least_gib", "most_gib"),
    # A driver keeps a little of what nvidia-smi shows; AMD's shows all.
    [
        ("nvidia-h20-96gb", 94.5, 97871 / 1024), ("nvidia-rtx-5090", 31, 32607 / 1024),
        ("nvidia-gh200-96gb", 94, 97871 / 1024), ("nvidia-a10g-24gb", 22, 23028 / 1024),
        ("nvidia-rtx-pro-6000-96gb", 94.5, 97887 / 1024), ("nvidia-l20-48gb", 44, 46068 / 1024),
        ("nvidia-h200-nvl-141gb", 139, 143771 / 1024), ("nvidia-rtx-2080-ti", 10.5, 11),
        ("nvidia-gh200-144gb", 142.49, 142.51), ("amd-mi325x", 255.9, 256), ("amd-mi355x", 287.9, 288),
    ],
)  # fmt: skip
def test_memory_is_what_drivers_report(name, least_gib, most_gib):
    assert least_gib < load_hardware(name).gpu.memory.value / 2**30 < most_gib


def test_recalled_figures_say_so():
    for name in FIGURES:
        text = (paths.HWSPECS / f"{name}.yaml").read_text()
        assert "recalled" in text, name


def test_no_two_files_share_a_name():
    owners: dict[str, Path] = {}
    for path in hardware_files():
        for name in names_of([path]):
            assert owners.setdefault(bare(name), path) == path, name
