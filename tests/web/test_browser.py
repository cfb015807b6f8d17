"""The page in a real browser. Needs chromium (.ci/run installs it)."""

import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
DRAG = """async (values) => {
  const slider = document.querySelector('input[type=range]'), answer = document.getElementById('answer'), took = [];
  for (const value of values) {
    const start = performance.now();
    const done = new Promise((resolve) => {
      const seen = new MutationObserver(() => { seen.disconnect(); resolve(); });
      seen.observe(answer, { childList: true });
    });
    slider.value = value;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    await done;
    took.push(performance.now() - start);
  }
  return took;
}"""


@pytest.fixture(scope="module")
def server():
    process = subprocess.Popen([sys.executable, "-m", "moesim", "web", "--port", "8377"], stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            urllib.request.urlopen("http://127.0.0.1:8377/page.css", timeout=1).read()
            break
        except OSError:
            time.sleep(0.1)
    yield "http://127.0.0.1:8377"
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def tab(browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda said: page.problems.append(said.text) if said.type == "error" else None)
    yield page
    page.close()


@pytest.mark.parametrize("columns", ["", "&b=1&b.tp=2"])
def test_a_slider_answers_while_it_moves_and_a_simulation_when_it_rests(tab, server, columns):
    tab.goto(f"{server}/?a.model=OLMoE-1B-7B-0924&osl=32{columns}")
    tab.wait_for_selector("[data-how=simulated]", timeout=30_000)
    took = sorted(tab.evaluate(DRAG, list(range(100, 900, 20))))
    middle, most = took[len(took) // 2], took[int(0.95 * len(took))]
    print(f"{1 + bool(columns)} columns, slider to answer: p50 {middle:.0f} ms, p95 {most:.0f} ms")
    tab.wait_for_selector("[data-how=simulated]", timeout=30_000)
    assert "users=" in tab.url and tab.problems == []


def test_columns_keys_and_phone(tab, server):
    tab.goto(f"{server}/?a.model=OLMoE-1B-7B-0924&osl=16&users=2")
    tab.check("input[name=b]")
    tab.wait_for_selector("fieldset:nth-of-type(2)", timeout=30_000)
    tab.select_option("select[name='b.format']", "fp8")
    tab.wait_for_selector(".compared", timeout=30_000)
    tab.focus("input[type=range]")
    before = tab.input_value("input[name=users]")
    for _ in range(30):
        tab.keyboard.press("ArrowRight")
    assert tab.input_value("input[name=users]") != before
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth <= 392")
    assert tab.problems == []


def test_the_report_opens_without_a_network(tab, tmp_path):
    import moesim

    target = tmp_path / "report.html"
    moesim.predict(moesim.load("mixtral_tp4").with_(osl=8)).to_html(target)
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(target.as_uri())
    assert tab.problems == [] and asked == [target.as_uri()]
    assert tab.locator("section").count() >= 7
