"""A fit file is believed where every constant is one that its form could have been fitted to, and nowhere else."""

import copy
import json
from pathlib import Path

import pytest

from moesim import SpecError, load, paths, predict
from moesim.cost.fit_file import load_fits
from moesim.cost.forms import load_forms
from moesim.cost.registry import form_of

FITS = json.loads((paths.FITS / "nvidia-h100-sxm5-80gb/vllm-0.25.0.json").read_text(encoding="utf-8"))
GEMM, EXPERTS = "gemm/bfloat16", "fused_moe/bfloat16"
DATA = FITS | {"families": {name: FITS["families"][name] for name in (GEMM, EXPERTS)}}


def written(folder: Path, data) -> Path:
    path = folder / "fit.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data, indent=1), encoding="utf-8")
    return path


def changed(change):
    data = copy.deepcopy(DATA)
    change(data, data["families"][GEMM])
    return data


def set_in(*path, to):
    def change(data, _):
        at = data["families"][GEMM]
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = to

    return changed(change)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (set_in("parameters", "t_launch", "value", to=-1.0), "t_launch of 'gemm/bfloat16' is -1; from 1e-07 to"),
        (set_in("parameters", "t_launch", "value", to=1e300), "t_launch of 'gemm/bfloat16' is 1e+300; from"),
        (set_in("parameters", "t_launch", "value", to=float("nan")), "finite number"),
        (set_in("parameters", "t_launch", "value", to=True), "t_launch of 'gemm/bfloat16' is 1; from"),
        (set_in("parameters", "t_launch", "value", to="fast"), "valid number"),
        (set_in("parameters", "t_launch", "standard_error", to=-1.0), "greater than or equal to 0"),
        (set_in("parameters", to={}), "'gemm/bfloat16' lacks t_launch, t_ramp"),
        (set_in("parameters", "t_magic", to={"value": 1.0}), "'t_magic' is no parameter of 'gemm/bfloat16'"),
        (set_in("valid_range", "colour", to=[1, 2]), "'colour' is no range of 'gemm/bfloat16'"),
        (set_in("valid_range", "m", to=[2, 1]), "the valid_range of m falls from 2 to 1"),
        (set_in("residuals", "half_width", to=[]), "0 half_width stand beside"),
        (set_in("residuals", "half_width", to=[0.1, 0.1, 9.0]), "less than or equal to 5"),
        (set_in("residuals", "edges_s", to=[2e-3, 1e-3]), "edges_s do not rise"),
        (set_in("speed", to=1), "'families.gemm/bfloat16.speed' is not a known key"),
        (changed(lambda data, _: data["families"].update({"gem/bfloat16": data["families"][GEMM]})),
         "'gem/bfloat16' is no family of kernels; did you mean 'gemm/bfloat16'?"),
        (changed(lambda data, _: data.update(families={})), "has 0 entries; 1 at least"),
        (changed(lambda data, _: data.update(gpu="../../outside")), "is no name for a file"),
        (changed(lambda data, _: data.update(stack="vllm/0.25")), "is no name for a file"),
        (changed(lambda data, _: data.pop("gpu")), "'gpu' is missing"),
        ("[]", "must hold a JSON object"),
        ("{", "is not valid JSON"),
        ("\x00", "is not valid JSON"),
    ],
)  # fmt: skip
def test_what_no_fit_could_be_is_refused_with_its_line(data, said, tmp_path):
    path = written(tmp_path, data)
    with pytest.raises(SpecError) as caught:
        load_fits(str(path))
    problem = next(p for p in caught.value.problems if said in p.message)
    assert problem.where.startswith(f"{path}:")


def test_the_line_is_that_of_the_value(tmp_path):
    path = written(tmp_path, set_in("parameters", "e_mma", "value", to=-1.0))
    with pytest.raises(SpecError) as caught:
        load_fits(str(path))
    line = int(caught.value.problems[0].where.rpartition(":")[2])
    assert path.read_text(encoding="utf-8").split("\n")[line - 1].strip() == '"value": -1.0,'


@pytest.mark.parametrize("name", paths.stored_fits())
def test_every_shipped_fit_is_believed(name):
    assert load_fits(name).families


def test_every_family_that_is_fitted_has_a_form_to_be_checked_by():
    pytest.importorskip("scipy")
    from moesim.calibrate.families import FAMILIES

    load_forms()
    of_gpus = [family for family in FAMILIES if not family.name.startswith("host_")]
    assert all(form_of(family.name) is family.form for family in of_gpus)


def test_a_file_that_changes_is_read_again(tmp_path):
    path = written(tmp_path, DATA)
    scenario = load(paths.SCENARIOS / "olmoe.yaml", {"calibration": str(path), "output_len": 4, "batch_size": 1})
    before = predict(scenario)["mean_tpot_ms"]
    path.unlink()
    written(tmp_path, set_in("parameters", "e_hbm", "value", to=0.4))
    assert predict(scenario)["mean_tpot_ms"] > 1.1 * before


def test_a_fit_of_another_engine_says_so_and_widens(tmp_path):
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    ours.write_text(json.dumps(DATA), encoding="utf-8")
    theirs.write_text(json.dumps(DATA | {"stack": "sglang-0.5.12"}), encoding="utf-8")
    one, other = (
        predict(load(paths.SCENARIOS / "olmoe.yaml", {"calibration": str(path), "output_len": 4, "batch_size": 1}))
        for path in (ours, theirs)
    )
    assert one["mean_tpot_ms"] == other["mean_tpot_ms"]
    assert other.metrics["mean_tpot_ms"].high > one.metrics["mean_tpot_ms"].high
    assert any("fitted under sglang-0.5.12, not under vllm" in note for note in other.knowledge.outside)
    assert not any("fitted under" in note for note in one.knowledge.notes)
