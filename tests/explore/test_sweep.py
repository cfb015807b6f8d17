"""Sweeps agree with single predictions and keep one row a point."""

import pytest

import moesim
from moesim import SpecError, paths

pytest.importorskip("pandas")


def test_sweep_matches_predict(mixtral):
    axes = {"batch_size": [1, 7, 32], "input_len": [100, 2048, 10000], "output_len": [2, 64, 1500]}
    table = moesim.sweep(mixtral, axes)
    assert len(table) == 27
    for row in table.itertuples():
        load = {"batch_size": row.batch_size, "input_len": row.input_len, "output_len": row.output_len}
        exact = moesim.predict(mixtral.with_(**load))
        assert row.mean_e2el_ms == pytest.approx(exact["mean_e2el_ms"], rel=5e-3)
        assert row.mean_ttft_ms == pytest.approx(exact["mean_ttft_ms"], rel=3e-2)
        assert row.mean_tpot_ms == pytest.approx(exact["mean_tpot_ms"], rel=5e-3)
        low, high = exact.metrics["mean_e2el_ms"].low, exact.metrics["mean_e2el_ms"].high
        assert (row.mean_e2el_ms_low, row.mean_e2el_ms_high) == pytest.approx((low, high), rel=1e-2)


def test_settings_that_cannot_be_say_why(mixtral):
    table = moesim.sweep(mixtral, {"tensor_parallel_size": [1, 3, 4], "batch_size": [1, 2000]})
    by = {(r.tensor_parallel_size, r.batch_size): r for r in table.itertuples()}
    assert by[1, 1].problem == "the weights do not fit"
    assert "3 does not divide" in by[3, 1].problem
    assert by[4, 1].fits and by[4, 1].mean_tpot_ms > 0
    assert by[4, 2000].problem == "batch_size exceeds max_num_seqs"


def test_any_setting_is_an_axis(mixtral):
    table = moesim.sweep(mixtral, {"routing": [{"kind": "uniform"}, {"kind": "zipf", "s": 1.5}], "batch_size": [4]})
    assert table["mean_tpot_ms"].iloc[1] < table["mean_tpot_ms"].iloc[0]
    both = moesim.sweep(mixtral, {"quantization": ["none", "fp8", "int4"], "kv_cache_dtype": ["auto", "fp8"]})
    assert len(both) == 6 and both["fits"].all()


def test_progress_counts_every_point(mixtral):
    seen = []
    moesim.sweep(
        mixtral,
        {"tp": [2, 4], "batch_size": [1, 2, 3]},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(3, 6), (6, 6)]


def test_encoder_decoder_models_sweep_too():
    scenario = moesim.load(paths.SCENARIOS / "nllb_moe.yaml")
    table = moesim.sweep(scenario, {"batch_size": [1, 16], "output_len": [1, 64]})
    assert table["fits"].all() and (table["mean_e2el_ms"] > 0).all()


def test_a_bare_string_is_one_option_and_columns_do_not_depend_on_what_fits(mixtral):
    fits, none = moesim.sweep(mixtral, {"quantization": "fp8"}), moesim.sweep(mixtral, {"tp": [1, 3]})
    assert len(fits) == 1 and fits["fits"].all() and not none["fits"].any()
    assert set(fits.columns) - {"quantization"} == set(none.columns) - {"tp"}


@pytest.mark.parametrize("axes", [{"speed": [1]}, {"batch_size": []}, {"batch_size": [0]}, {"batch_size": [True]}])
def test_bad_axes(mixtral, axes):
    with pytest.raises(SpecError):
        moesim.sweep(mixtral, axes)


def test_under_load_doubts_are_told_and_points_can_be_simulated(mixtral):
    scenario = mixtral.with_(max_concurrency=4, input_len=256, output_len=16, num_prompts=12)
    table = moesim.sweep(scenario, {"max_concurrency": [4, 400]})
    assert table["fits"].all() and not table["doubt"][0] and table["doubt"][1]
    simulated = moesim.sweep(scenario, {"max_concurrency": [4]}, simulate=True)
    assert simulated["p99_ttft_ms"][0] == moesim.predict(scenario)["p99_ttft_ms"]
    with pytest.raises(moesim.SpecError, match="not simulated"):
        moesim.sweep(mixtral, {"batch_size": [1]}, simulate=True)
