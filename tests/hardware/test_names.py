"""What people and drivers call hardware, counts of cards, and names that mean nothing."""

import pytest

from moesim import SpecError, load, load_hardware, paths, predict
from moesim.hardware.topology import route

CARDS = {
    "nvidia-h100-sxm5-80gb": [
        "h100", "H100", "h100-sxm", "H100 SXM", "H100 SXM5 80GB", "NVIDIA H100 80GB HBM3", "nvidia/h100", "h100_sxm",
    ],
    "nvidia-h200-sxm-141gb": ["h200", "NVIDIA H200", "h200-141gb"],
    "nvidia-h200-nvl-141gb": ["H200 NVL", "NVIDIA H200 NVL"],
    "nvidia-h20-96gb": ["h20", "H20-96GB", "NVIDIA H20"],
    "nvidia-h20-141gb": ["h20-141gb", "NVIDIA H20-3e"],
    "nvidia-a100-sxm-80gb": ["a100", "a100-80gb", "NVIDIA A100-SXM4-80GB"],
    "nvidia-a100-sxm-40gb": ["a100-40gb", "NVIDIA A100-SXM4-40GB"],
    "nvidia-a100-pcie-80gb": ["NVIDIA A100 80GB PCIe", "a100-pcie"],
    "nvidia-b200-sxm-180gb": ["b200", "NVIDIA B200"],
    "nvidia-b300-sxm-270gb": ["b300", "NVIDIA B300 SXM6 AC"],
    "nvidia-gb200-186gb": ["gb200", "NVIDIA GB200"],
    "nvidia-gh200-96gb": ["gh200", "NVIDIA GH200 480GB"],
    "nvidia-gh200-144gb": ["NVIDIA GH200 144G HBM3e"],
    "nvidia-l40s-48gb": ["l40s", "NVIDIA L40S"],
    "nvidia-l4-24gb": ["l4", "NVIDIA L4"],
    "nvidia-l20-48gb": ["L20"],
    "nvidia-a10g-24gb": ["NVIDIA A10G", "a10g"],
    "nvidia-rtx-4090": ["rtx4090", "4090", "RTX 4090", "NVIDIA GeForce RTX 4090"],
    "nvidia-rtx-3090": ["rtx-3090", "GeForce RTX 3090"],
    "nvidia-rtx-5090": ["NVIDIA GeForce RTX 5090", "5090"],
    "nvidia-rtx-4070": ["4070", "NVIDIA GeForce RTX 4070"],
    "nvidia-rtx-4070-laptop": ["NVIDIA GeForce RTX 4070 Laptop GPU"],
    "nvidia-rtx-2080-ti": ["2080ti", "NVIDIA GeForce RTX 2080 Ti"],
    "nvidia-rtx-pro-6000-96gb": ["NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"],
    "nvidia-v100-sxm2-32gb": ["Tesla V100-SXM2-32GB", "v100"],
    "nvidia-v100-sxm2-16gb": ["Tesla V100-SXM2-16GB"],
    "amd-mi300x": ["MI300X", "AMD Instinct MI300X", "amd/mi300x"],
    "amd-mi355x": ["AMD Instinct MI355X"],
}  # fmt: skip


@pytest.mark.parametrize(("card", "name"), [(card, name) for card, names in CARDS.items() for name in names])
def test_a_card_by_what_it_is_called(card, name):
    hardware = load_hardware(name)
    assert hardware.name == card and hardware.cluster is None


@pytest.mark.parametrize(
    ("name", "title", "gpus", "per_node"),
    [
        ("8xH100", "dgx-h100", 8, 8), ("8x H100", "dgx-h100", 8, 8), ("8*h100", "dgx-h100", 8, 8),
        ("h100x8", "dgx-h100", 8, 8), ("H100 x8", "dgx-h100", 8, 8), ("8 x NVIDIA H100 80GB HBM3", "dgx-h100", 8, 8),
        ("16xH100", "16xnvidia-h100-sxm5-80gb", 16, 8), ("h100x96", "h100-pod-12", 96, 8),
        ("400xH100", "400xnvidia-h100-sxm5-80gb", 400, 8), ("1xH100", "1xnvidia-h100-sxm5-80gb", 1, 1),
        ("4xA100-80GB", "4xnvidia-a100-sxm-80gb", 4, 4), ("16xA100", "16xnvidia-a100-sxm-80gb", 16, 8),
        ("2x4090", "rtx-4090-x2", 2, 2), ("4090x2", "rtx-4090-x2", 2, 2), ("3x4090", "3xnvidia-rtx-4090", 3, 3),
        ("16xB200", "16xnvidia-b200-sxm-180gb", 16, 8), ("8xGB200", "8xnvidia-gb200-186gb", 8, 8),
        ("144xGB300", "144xnvidia-gb300-279gb", 144, 72), ("8xMI300X", "mi300x-x8", 8, 8),
        ("2xH200 NVL", "h200-nvl-x2", 2, 2), ("8xH800", "8xnvidia-h800-sxm-80gb", 8, 8),
        ("16xV100", "dgx-2", 16, 16), ("2xGH200", "2xnvidia-gh200-96gb", 2, 1), ("8xl4", "l4-x8", 8, 8),
        ("2xA5000", "2xnvidia-rtx-a5000", 2, 2), ("2xrtx-4090", "rtx-4090-x2", 2, 2),
        ("8 H100", "dgx-h100", 8, 8), ("H100:8", "dgx-h100", 8, 8), ("p5.48xlarge", "dgx-h100", 8, 8),
        ("a3-ultragpu-8g", "hgx-h200", 8, 8), ("Standard_ND96isr_H100_v5", "dgx-h100", 8, 8),
        ("4xA100-80G", "4xnvidia-a100-sxm-80gb", 4, 4),
    ],
)  # fmt: skip
def test_a_count_with_a_card_is_its_node_at_that_size(name, title, gpus, per_node):
    hardware = load_hardware(name)
    assert (hardware.title, hardware.gpus, hardware.gpus_per_node) == (title, gpus, per_node)
    assert load_hardware(hardware.title) == hardware, "what it is called means the same"


def test_a_cut_keeps_the_wiring():
    """Pairs inside the cut stay; what a mesh's links carried to the rest is gone; NICs go with their GPUs."""
    quad = load_hardware("4xV100-32GB").cluster.node
    assert len(quad.linked) == 6 and quad.linked[0, 1] == 2 and quad.nics == 2
    assert quad.pcie_switches == [(0, 3), (1, 2)]
    assert route(load_hardware("4xMI300X"), (0, 1, 2, 3)).direct_bytes_per_s == pytest.approx(3 * 64e9)
    assert route(load_hardware("4xH100"), (0, 1, 2, 3)).switched
    assert load_hardware("4xH100").links.kind == "NVSwitch"


def test_two_nodes_talk_over_their_network():
    found = route(load_hardware("16xH200"), tuple(range(16)))
    assert found.nodes == 2 and found.ring_bytes_per_s == pytest.approx(8 * 47e9)


def test_links_without_a_switch():
    assert route(load_hardware("mi300x-x8"), tuple(range(8))).ring_bytes_per_s == pytest.approx(448e9)
    assert route(load_hardware("h200-nvl-x4"), (0, 1, 2, 3)).ring_bytes_per_s == pytest.approx(450e9)
    assert route(load_hardware("dgx-1-v100"), tuple(range(8))).ring_bytes_per_s == pytest.approx(50e9)
    assert all(
        sum(n for pair, n in load_hardware("dgx-1-v100").cluster.node.linked.items() if gpu in pair) == 6
        for gpu in range(8)
    ), "a V100 has six links"


def test_a_node_that_says_nothing_of_pcie_is_as_the_tables_saw_it():
    assert route(load_hardware("l40s-x8"), tuple(range(8))) is None
    scenario = paths.SCENARIOS / "olmoe.yaml"
    card, node = (
        predict(load(scenario, {"hardware": name, "engine.tensor_parallel_size": 8})).metrics["mean_tpot_ms"].value
        for name in ("l40s", "8xL40S")
    )
    assert card == pytest.approx(node)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("12xH100", "12 x nvidia-h100-sxm5-80gb are no whole nodes of 8; 8 or 16 are accepted"),
        ("16xL40S", "16 x nvidia-l40s-48gb: a node has 8, .*no network.* 1 to 8 are accepted, or a cluster file"),
        ("0xH100", "a count is 1 or more"),
        ("100000xH100", "too many; up to 32768 are accepted"),
        ("3xA5000", "no node of more than 2 is known; 1 to 2 are accepted, or a cluster file"),
        ("2xtpu-v3", "a torus of 16; 2 cannot be cut from it"),
        ("8xdgx-h100", "counts a cluster; a GPU is counted, as in 64xnvidia-h100"),
        ("8xh1000", r"'8xh1000' is not known; did you mean 'nvidia-h100-sxm5-80gb', 'nvidia-h100-\w+-\d+gb' or 'nvid"),
        ("rtx4099", "did you mean 'nvidia-rtx-4090', "),
        ("mi350x", "did you mean 'amd-mi355x', 'amd-mi3.*x' or 'amd-mi3.*x'\\?$"),
        ("hgx-h300", "did you mean '[hd]gx-h"),
        ("h100.yaml", "the hardware file 'h100.yaml' does not exist"),
    ],
)
def test_what_cannot_be_is_one_sentence(name, message):
    with pytest.raises(SpecError, match=message) as caught:
        load_hardware(name)
    assert len(caught.value.problems) == 1 and len(str(caught.value)) < 200
