"""The what-if page: answers as predict does, reads nothing but what ships, refuses everyone else."""

import asyncio
import random
import re
import socket
import string
import subprocess
import sys
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

import moesim
from moesim.files import yaml
from moesim.inputs.loading import from_data
from moesim.report.text import number
from moesim.web.app import app
from moesim.web.asked import asked, hardware_names
from moesim.web.fragments import answer, estimated

BASE = "http://127.0.0.1:8321"


class Client:
    """Asks the application without a network."""

    def __init__(self):
        self.app = app(8321)

    def get(self, path, method="GET", **more):
        async def asked_of():
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
                return await client.request(method, path, **more)

        return asyncio.run(asked_of())


@pytest.fixture(scope="module")
def client():
    return Client()


def test_the_page_is_whole_without_a_script(client):
    reply = client.get("/?a.model=OLMoE-1B-7B-0924&users=8&osl=32")
    assert reply.status_code == 200
    assert 'value="OLMoE-1B-7B-0924"' in reply.text and "output_throughput" in reply.text
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert not re.search(r"(src|href)=\"https?:", reply.text)


def test_answers_are_predictions(client):
    query = "a.model=OLMoE-1B-7B-0924&a.gpu=nvidia-l40s-48gb&users=4&isl=128&osl=16"
    scenario = moesim.Scenario(
        model="OLMoE-1B-7B-0924", hardware="l40s",
        workload={"users": 4, "isl": 128, "osl": 16, "num_prompts": 40},
    )  # fmt: skip
    simulated = client.get(f"/simulated?{query}").text
    assert f"<td>{number(moesim.predict(scenario)['mean_tpot_ms'])}</td>" in simulated
    quick = client.get(f"/estimated?{query}").text
    assert f"<td>{number(estimated(scenario)['mean_tpot_ms'])}</td>" in quick


def test_two_columns_are_compared(client):
    text = client.get("/estimated?b=1&a.model=OLMoE-1B-7B-0924&b.format=fp8&users=4&osl=32").text
    assert text.count('class="column"') == 2
    assert "B over A, shared errors cancelled" in text
    found = asked({"b": "1", "a.model": "OLMoE-1B-7B-0924"})
    assert found.scenarios["b"].model == "OLMoE-1B-7B-0924"


def test_the_second_column_may_do_without_expert_parallelism(client):
    both = {"b": "1", "a.tp": "2", "a.ep": "on"}
    assert asked(both).scenarios["b"].engine.enable_expert_parallel
    found = asked(both | {"b.tp": "2"}).scenarios
    assert found["a"].engine.enable_expert_parallel and not found["b"].engine.enable_expert_parallel
    assert found["b"].model == found["a"].model


def test_problems_are_sentences(client):
    text = client.get("/estimated?a.model=mixtral-8x7b&users=0&a.tp=x").text
    assert "did you mean" in text and "not a whole number from 1 to 512" in text
    assert "Traceback" not in text
    wide = client.get("/estimated?a.model=Qwen3-235B-A22B&users=1").text
    assert "does not fit" in wide and "Would fit" in wide
    assert "is not a field of the page" in client.get("/estimated?a.calibration=x.json").text


def test_downloads_are_what_was_asked(client):
    query = "a.model=OLMoE-1B-7B-0924&users=4&isl=128&osl=16&a.tp=2&a.gpu=hgx-h200"
    reply = client.get(f"/a/scenario.yaml?{query}")
    assert reply.headers["content-disposition"] == 'attachment; filename="scenario.yaml"'
    scenario = from_data(yaml.parse(reply.text, "page").data, "page")
    assert (scenario.engine.tensor_parallel_size, scenario.workload.max_concurrency) == (2, 4)
    report = client.get(f"/a/report.html?{query}").text
    assert "Latency over requests" in report
    assert client.get(f"/b/scenario.yaml?{query}").status_code == 400
    assert client.get("/a/scenario.yaml?a.model=nothing").status_code == 400


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"host": "evil.example"}, "/"),
        ({"host": "127.0.0.1:80"}, "/"),
        ({"origin": "http://evil.example"}, "/estimated"),
        ({"sec-fetch-site": "cross-site"}, "/estimated"),
        ({}, "/?" + "x" * 5000),
    ],
)
def test_strangers_are_refused(client, headers, path):
    assert client.get(path, headers=headers).status_code == 403


def test_its_own_script_is_not(client):
    assert client.get("/estimated?osl=8", headers={"origin": BASE}).status_code == 200
    assert client.get("/", method="POST").status_code == 405
    assert client.get("/../etc/passwd").status_code == 404


NASTY = (
    "", "-1", "1e9", "NaN", "../../etc/passwd", "/etc/passwd", "pyproject.toml", "config.json", "\x00", "é" * 9, "٣",
    "9" * 199, "${jndi:x}", "{{7*7}}", "<script>alert(1)</script>", "' OR 1=1", "h100-sxm[hbm_bandwidth*1e9]", "11111",
)  # fmt: skip
KEYS = (
    "users", "isl", "osl", "b", "a.model", "a.gpu", "a.tp", "a.pp", "a.dp", "a.ep", "a.format", "b.model", "b.gpu",
    "c.model", "a.calibration", "a.workload.trace_file",
)  # fmt: skip


def mutated(seed):
    rng = random.Random(seed)
    found = {}
    for _ in range(rng.randint(0, 5)):
        junk = "".join(rng.choice(string.printable) for _ in range(rng.randint(0, 30)))
        small = str(rng.randint(0, 9))
        value = rng.choice([rng.choice(NASTY), junk, small, rng.choice(hardware_names()), rng.choice(KEYS)])
        found[rng.choice(KEYS)] = value
    return {"users": "2", "osl": "4", "isl": "16", "a.model": "OLMoE-1B-7B-0924", **found}


@pytest.mark.parametrize("block", range(4))
def test_mutated_requests_never_break_it(client, block, monkeypatch):
    """No traceback, nothing read beyond what ships, no script of theirs in the answer."""
    from pathlib import Path

    read, opened = [], Path.open

    def watched(self, *rest, **more):
        read.append(str(self))
        return opened(self, *rest, **more)

    monkeypatch.setattr(Path, "open", watched)
    root = tuple(str(moesim.paths.ROOT / name) for name in ("scenarios", "hwspecs", "calibration"))
    for seed in range(60):
        reply = client.get("/estimated", params=mutated(1000 * block + seed))
        assert reply.status_code in {200, 403}, reply.text
        assert "<script" not in reply.text and "Traceback" not in reply.text and "root:" not in reply.text
    assert all(
        (name.startswith(root) and "calibration" in name) or "scenarios" in name or "hwspecs" in name for name in read
    )


def test_an_answer_of_nothing_known_is_a_sentence():
    assert 'role="alert"' in answer(asked({"a.gpu": "/etc/passwd"}).scenarios, "estimated")


def test_a_busy_port_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        found = subprocess.run(
            [sys.executable, "-m", "moesim", "web", "--port", port],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert found.returncode == 2
    assert f"127.0.0.1:{port} cannot be had" in found.stderr and "Traceback" not in found.stderr


def test_the_address_is_the_question(client):
    page = client.get("/?users=7&osl=9").text
    link = re.search(r'href="(/a/scenario.yaml\?[^"]+)"', page)[1].replace("&amp;", "&")
    query = parse_qs(urlsplit(link).query)
    assert query["users"] == ["7"] and query["osl"] == ["9"]


@pytest.mark.parametrize("query", [{"a.ep": "maybe"}, {"a.model": "x" * 201}, {"users": "0" * 200 + "7"}])
def test_nothing_that_is_said_is_dropped(query):
    found = asked(query).scenarios["a"]
    assert isinstance(found, moesim.SpecError), query


def test_the_page_simulates_more_than_a_burst(client):
    found = asked({"users": "512"}).scenarios["a"]
    assert found.workload.num_prompts == 4 * 512


def test_an_estimate_says_its_doubt(client):
    text = client.get("/estimated?users=512&isl=4096&osl=1024").text
    assert "An estimate: " in text
    assert "An estimate: " not in client.get("/estimated?users=4&isl=256&osl=256").text
