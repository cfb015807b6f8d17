"""The plan search, the study and their pictures, from Python and from the command line."""

import pytest

from moesim import SpecError, load, paths, plans, predict
from moesim.cli import main
from moesim.models.plan import Plan
from moesim.report.plan_text import plans_text, traffic
from moesim.report.study import FAMILIES, settings, study

OLMOE, MIXTRAL = (paths.SCENARIOS / f"{name}.yaml" for name in ("olmoe", "mixtral_tp4"))


def small(path=OLMOE):
    return load(path).with_(batch_size=16, input_len=128, output_len=8)


def test_every_legal_plan_is_listed_once_and_ranked():
    found = plans(small(), 4)
    described = [c.plan.describe() for c in found]
    assert len(set(described)) == len(described) == 17
    assert all(c.plan.world == 4 for c in found)
    values = [c.prediction["output_throughput"] for c in found if c.prediction]
    assert values == sorted(values, reverse=True)
    assert found[0].reason == "" and all(c.reason for c in found[1:])
    by_time = plans(small(), 4, "mean_ttft_ms")
    times = [c.prediction["mean_ttft_ms"] for c in by_time if c.prediction]
    assert times == sorted(times)


def test_plans_that_do_not_fit_come_last_with_what_is_missing():
    found = plans(load(MIXTRAL).with_(input_len=128, output_len=4), 1)
    assert [c.fits for c in found] == [False]
    assert "does not fit" in found[0].reason and "GiB too much" in found[0].reason
    mixed = plans(load(MIXTRAL).with_(input_len=128, output_len=4, batch_size=4), 2)
    assert mixed[0].fits and "legal plans" in plans_text(mixed, "output_throughput")


def test_the_deciding_term_is_an_operation_of_the_loser():
    found = plans(small(), 2)
    loser = next(c for c in found if c.plan == Plan(pp=2))
    name = loser.reason.partition(" in ")[0]
    assert loser.prediction is not None
    assert name in {leaf.name for phase in loser.prediction.cost.children for leaf in _leaves(phase)}


def _leaves(cost):
    return [cost] if not cost.children else [leaf for child in cost.children for leaf in _leaves(child)]


def test_plans_refuse_in_a_sentence():
    with pytest.raises(SpecError, match="has 8 GPUs; 9 are asked for"):
        plans(small(), 9)
    with pytest.raises(SpecError, match="'speed' is not a metric"):
        plans(small(), 2, "speed")


def test_traffic_counts_every_step():
    """A TP all-reduce of 16 sequences: two a layer and one for the embedding, each decode step."""
    result = predict(small().with_(tp=2))
    moved = {(phase, name): sent for phase, name, _, sent, _ in traffic(result)}
    each = 2 * (1 / 2) * 16 * 2048 * 2
    assert moved["decode", "all_reduce"] == pytest.approx(7 * (2 * 16 + 1) * each)


def test_cli_plan(capsys, tmp_path):
    picture = tmp_path / "plan.png"
    arguments = ["plan", str(OLMOE), "--gpus", "2", "--batch-size", "8", "--output-len", "8", "--explain"]
    assert main([*arguments, "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "legal plans" in out and "links carry" in out and "formulas:" in out
    assert picture.stat().st_size > 10_000
    assert main(["plan", str(OLMOE), "--gpus", "0"]) == 2
    assert main(["plan", str(OLMOE), "--gpus", "2", "--picture", "x.gif"]) == 2
    assert main(["plan", str(OLMOE), "--gpus", "2", "--picture", str(tmp_path / "no" / "x.png")]) == 2
    assert main(["plan", str(OLMOE), "--gpus", "2", "--metric", "speed"]) == 2
    assert main(["plan", str(MIXTRAL), "--gpus", "1"]) == 3


@pytest.mark.parametrize("hardware", ["h100-pod-4", "a6000-x3", "tpu-v3-slice"])
def test_pictures_of_clusters(tmp_path, hardware):
    from moesim.report.plan_picture import draw_plan

    gpus = {"h100-pod-4": {"dp": 16, "ep": True, "batch_size": 32}, "a6000-x3": {"pp": 2}, "tpu-v3-slice": {"tp": 4}}
    result = predict(small().with_(hardware=hardware, **gpus[hardware]))
    assert draw_plan(result, tmp_path / "plan.svg").read_text().count("GPU") > 3


def test_the_study_covers_what_it_names():
    rows = study([small()], [1, 2, 4])
    assert [r[2] for r in rows if r[1] == 4] == list(FAMILIES)
    assert [r[2] for r in rows if r[1] == 1] == ["TP"]
    assert settings("PP+EP", 2) is None and settings("DP+EP", 8)["data_parallel_size"] == 8


def test_the_stored_study_has_not_drifted(tmp_path):
    from moesim.report.study import study_text

    rows = study([load(MIXTRAL), load(OLMOE)], [1, 2, 4, 8])
    page = (paths.ROOT / "docs" / "study.md").read_text()
    assert study_text(rows) == page, "run `moesim study scenarios/mixtral_tp4.yaml scenarios/olmoe.yaml -o docs`"


def test_cli_study(tmp_path, capsys):
    assert main(["study", str(OLMOE), "--gpus", "1,2", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "study.md").is_file() and (tmp_path / "plots" / "study.png").is_file()
    assert main(["study", str(OLMOE), "--gpus", "1,x", "-o", str(tmp_path)]) == 2
    assert "is not a list of numbers" in capsys.readouterr().err


def test_the_picture_names_the_links_each_operation_uses(tmp_path):
    """Slices are exchanged inside a node, tokens between nodes."""
    from moesim.report.plan_picture import draw_plan

    result = predict(load(paths.SCENARIOS / "mixtral_8x22b_coordinated.yaml"))
    drawn = draw_plan(result, tmp_path / "plan.svg").read_text()
    lines = {line.split(" among ")[0].split("<!-- ")[-1]: line for line in drawn.splitlines() if " among " in line}
    assert "over NVSwitch" in lines["prefill: dispatch slices"]
    assert "over 2 nodes" in lines["decode: dispatch"]
