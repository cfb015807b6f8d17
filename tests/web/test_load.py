"""The page under load: many ask at once, some hang up, some are strangers; it answers, and its memory stays."""

import os
import random
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moesim import paths

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.slow
MODELS = ("OLMoE-1B-7B-0924", "Qwen3-30B-A3B", "Mixtral-8x7B-v0.1", "nowhere")


@pytest.fixture
def served():
    words = [sys.executable, "-m", "moesim", "web", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    yield process, process.stderr.readline().split()[0]
    process.kill()
    process.communicate()


def memory_mib(process) -> float:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def asked(url: str, seed: int) -> int:
    rng = random.Random(seed)
    kind = rng.randrange(10)
    if kind == 0:
        # Someone who asks and hangs up, or says half of what they meant.
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as line:
            line.sendall(
                rng.choice((b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02", b"GET /simulated?users=8 HTTP/1.1\r\n\r\n"))
            )
        return 0
    query = {"a.model": rng.choice(MODELS), "a.tp": rng.choice(("1", "2", "x")), "users": str(rng.choice((1, 8, 64))),
             "isl": "128", "osl": str(rng.choice((1, 16, 64)))}  # fmt: skip
    path = rng.choice(("/", "/estimated", "/simulated", "/a/scenario.yaml", "/page.js", "/page.css"))
    headers = {"host": "evil.example"} if kind == 1 else {}
    if kind == 2:
        query["b"] = "1" * 5000
    with httpx.Client(timeout=60) as client:
        return client.get(url + path, params=query, headers=headers).status_code


def test_many_at_once(served):
    process, url = served
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda seed: asked(url, seed), range(60)))
        before = memory_mib(process)
        codes = set(pool.map(lambda seed: asked(url, seed), range(60, 400)))
    # 503 is more at once than the server takes.
    assert codes <= {0, 200, 400, 403, 503} and {200, 403} <= codes
    assert memory_mib(process) < before + 100 and memory_mib(process) < 500
    assert httpx.get(url, timeout=60).status_code == 200
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode in (0, 130) and "Traceback" not in said
