"""The README's pictures of the page and the report: python benchmarks/screenshots.py. Needs chromium and playwright."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

import moesim
from moesim.paths import ROOT

PLOTS = ROOT / "docs" / "plots"
PORT = 8378
QUESTION = "b=1&users=64&isl=1024&osl=256&b.format=fp8"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def main() -> None:
    server = subprocess.Popen([sys.executable, "-m", "moesim", "web", "--port", str(PORT)], stderr=subprocess.DEVNULL)
    time.sleep(3)
    try:
        with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.goto(f"http://127.0.0.1:{PORT}/?{QUESTION}")
            page.wait_for_selector("[data-how=simulated]", timeout=60_000)
            page.screenshot(path=PLOTS / "web.png", full_page=True)
            report = Path(folder) / "report.html"
            scenario = moesim.load("mixtral_tp4")
            moesim.predict(scenario).to_html(report)
            page.set_viewport_size({"width": 900, "height": 900})
            page.goto(report.as_uri())
            page.screenshot(path=PLOTS / "report.png", full_page=True)
            browser.close()
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
