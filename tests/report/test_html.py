"""The page of a prediction: one file, no network, every number in it."""

import re
import xml.etree.ElementTree as ET

import pytest

import moesim
from moesim.cli.main import main
from moesim.report.html.page import report_html, sentence
from moesim.report.html.provenance import constants
from moesim.report.html.svg import Axis, Mark, bars, stacked
from moesim.report.html.watch import Watch, _level


@pytest.fixture(scope="module")
def pages():
    """(scenario, prediction, page) of each kind."""
    found = {}
    for name, changes in {
        "mixtral_tp4": {"osl": 32},
        "gpt_oss_120b_served": {"num_prompts": 40},
        "qwen3_235b_dp8_ep8": {"osl": 16},
        "fiddler_rtx_4090": {},
    }.items():
        watch = Watch()
        scenario = moesim.load(name).with_(**changes)
        prediction = moesim.predict(scenario, timeline=watch if scenario.workload.arrivals != "batch" else None)
        found[name] = (scenario, prediction, report_html(prediction, watch=watch))
    return found


def test_a_page_needs_no_network_and_is_small(pages):
    for _, _, page in pages.values():
        assert not re.search(r"(src|href)\s*=\s*\"(https?:)?//", page)
        assert "<script" not in page and "@import" not in page and "url(" not in page
        assert len(page) < 300_000


def test_a_page_is_well_formed(pages):
    for _, _, page in pages.values():
        body = page[page.index("<main>") : page.index("</main>") + len("</main>")]
        ET.fromstring(re.sub(r"<td class=n>", '<td class="n">', body.replace("class='", 'class="').replace("'>", '">')))


def test_every_metric_is_there(pages):
    from moesim.report.text import number

    for _, prediction, page in pages.values():
        for name, metric in prediction.metrics.items():
            if metric is not None and not name.startswith("std_"):
                assert f"<td>{name}</td><td class=n>{number(metric.value)}</td>" in page


def test_sections_of_a_run(pages):
    page = pages["gpt_oss_120b_served"][2]
    for name in ("Metrics", "Memory of each GPU", "Where the time goes", "Operations under the roofline",
                 "Latency over requests", "The run over time", "GPUs of the plan", "How well it is known",
                 "Where every constant comes from", "The scenario"):  # fmt: skip
        assert f"<h2>{name}</h2>" in page
    assert page.count("GPU 3, node 0: TP rank 3") == 1
    assert "What moves it" not in page


def test_the_scenario_in_the_page_is_the_scenario(pages):
    import base64

    from moesim.files import yaml
    from moesim.inputs.loading import from_data

    for scenario, _, page in pages.values():
        coded = re.search(r"base64,([\w+/=]+)", page)
        text = base64.b64decode(coded[1]).decode()
        assert from_data(yaml.parse(text, "page").data, "page") == scenario


def test_every_constant_has_a_source(pages):
    for _, prediction, _ in pages.values():
        found = constants(prediction)
        assert found and all(one.source for one in found)
    fitted = [c for c in constants(pages["mixtral_tp4"][1]) if c.of == "fused_moe/bfloat16"]
    assert {"e_hbm", "e_mma"} <= {c.name for c in fitted}
    assert all(c.error for c in fitted)


def test_names_are_escaped():
    scenario = moesim.load("mixtral_tp4").with_(osl=8)
    page = report_html(moesim.predict(scenario.model_copy(update={"description": "<script>alert(1)</script>"})))
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_the_sentence_has_the_numbers(pages):
    _, prediction, _ = pages["mixtral_tp4"]
    said = sentence(prediction)
    assert said.startswith("First token after ") and f"{prediction['output_throughput']:,.0f} output tokens" in said
    assert "decode is bound by experts (memory)" in said.lower()


def test_levels_over_time():
    assert _level([(0.0, 2.0), (1.0, 3.0)], [0.0, 1.0, 2.0, 3.0]) == [1, 2, 1, 0]


def test_scales():
    assert Axis(0, 10, 100, 200).at(5) == 150
    assert Axis(1, 100, 0, 200, log=True).at(10) == pytest.approx(100)
    assert Axis(1, 1000, 0, 1, log=True).ticks() == [1, 10, 100, 1000]


def test_widths_are_shares():
    widths = [float(w) for w in re.findall(r'height="34.00"', stacked([Mark("a", 1), Mark("b", 3)], "x")) and
              re.findall(r'width="([\d.]+)" height="34.00"', stacked([Mark("a", 1), Mark("b", 3)], "x"))]  # fmt: skip
    assert widths == [225.0, 675.0]
    assert bars([Mark("a", -1), Mark("b", 2)], "x", both_ways=True).count("<rect") == 2


def test_a_notebook_gets_a_fragment(pages):
    html = pages["mixtral_tp4"][1]._repr_html_()
    assert html.startswith('<div class="moesim">') and "</body>" not in html


def test_the_command(tmp_path, capsys):
    target = tmp_path / "report.html"
    assert main(["report", "mixtral_tp4", "--osl", "8", "-o", str(target), "--jobs", "1"]) == 0
    assert "What moves it" in target.read_text()
    assert main(["report", "mixtral_tp4", "-o", str(tmp_path / "x.pdf")]) == 2
    assert "must end in .html" in capsys.readouterr().err
