"""Results as people look at them: printed, in a notebook, as tables and pictures."""

import pytest

import moesim


@pytest.fixture(scope="module")
def prediction():
    return moesim.predict(moesim.load("mixtral_tp4").with_(osl=64))


def test_print_is_the_summary(prediction):
    text = str(prediction)
    assert text.startswith("Mixtral-8x7B-v0.1 on 4 x h100-sxm")
    assert "TPOT, mean" in text and len(text) < 5000
    assert len(repr(prediction)) < 2000


def test_explain_is_the_tree(prediction):
    assert "experts" in prediction.explain() and "formulas:" in prediction.explain()


def test_a_frame_has_units(prediction):
    pytest.importorskip("pandas")
    table = prediction.to_frame()
    assert table.loc["mean_tpot_ms", "unit"] == table.attrs["units"]["mean_tpot_ms"] == "ms"
    assert table.loc["mean_tpot_ms", "value"] == prediction["mean_tpot_ms"]
    assert table.loc["output_throughput", "unit"] == "tok/s"


def test_a_plot_has_three_panels(prediction):
    pytest.importorskip("matplotlib")
    figure = prediction.plot()
    assert len(figure.axes) == 3
    import matplotlib.pyplot as plt

    plt.close(figure)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: moesim.compare(s, s.with_(tp=8)),
        moesim.tornado,
        lambda s: moesim.capacity(s.with_(users=2, isl=64, osl=8), moesim.Slo(ttft_s=0.03)),
    ],
)
def test_other_results_print_their_report(make):
    text = str(make(moesim.load("mixtral_tp4").with_(osl=8)))
    assert "Mixtral" in text or "max_concurrency" in text or "clients" in text


def test_a_scenario_of_plain_maps():
    scenario = moesim.Scenario(
        model="Mixtral-8x7B-v0.1", gpu="4xh100-sxm", workload={"users": 16, "isl": 1024, "osl": 64}, engine={"tp": 4}
    )
    assert scenario.workload.max_concurrency == 16
    assert scenario.engine.tensor_parallel_size == 4


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("'foo' is not a known key", {"foo": 1}),
        ("input should be greater than or equal to 1", {"workload": {"batch_size": -1, "isl": 4, "osl": 4}}),
        ("3 does not divide the 32 attention heads", {"engine": {"tp": 3}}),
        ("'hardware' is missing", {"hardware": None}),
    ],
)
def test_a_bad_scenario_says_what_a_file_s_would(said, changes):
    given = {"model": "Mixtral-8x7B-v0.1", "hardware": "h100-sxm", "workload": {"isl": 4, "osl": 4}} | changes
    with pytest.raises(moesim.SpecError) as error:
        moesim.Scenario(**{name: value for name, value in given.items() if value is not None})
    assert said in str(error.value)


def test_names_that_ship():
    assert moesim.load("mixtral_tp4").model == "Mixtral-8x7B-v0.1"
    with pytest.raises(moesim.SpecError, match="did you mean 'mixtral_tp4'"):
        moesim.load("mixtral_tp5")
