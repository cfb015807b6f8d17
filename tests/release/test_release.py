"""What a release says of itself: one version, a licence for every data file, a lock without addresses."""

import json
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import moesim
from moesim import paths
from moesim.files import yaml

ROOT = paths.ROOT
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="not a checkout")


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert yaml.read(ROOT / "CITATION.cff").data["version"] == moesim.__version__
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] in {"Unreleased", moesim.__version__}


def matched(path: str, pattern: str) -> bool:
    """Part by part: a star takes no slash."""
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def test_every_data_file_has_one_licence():
    entries = yaml.read(ROOT / "calibration" / "licences.yaml").data["entries"]
    files = [str(path.relative_to(ROOT)) for top in ("hwspecs", "scenarios", "calibration")
             for path in (ROOT / top).rglob("*") if path.is_file() and "__pycache__" not in path.parts]  # fmt: skip
    used = set()
    for file in files:
        said = [entry for entry in entries if any(matched(file, pattern) for pattern in entry["files"])]
        assert len(said) == 1, (file, [entry["source"] for entry in said])
        assert said[0]["source"] and said[0]["licence"]
        used |= {pattern for pattern in said[0]["files"] if matched(file, pattern)}
    assert used == {pattern for entry in entries for pattern in entry["files"]}, "a pattern that fits nothing"


@pytest.mark.parametrize("sheet", sorted(paths.KERNELS.glob("*/*/meta.yaml")), ids=lambda path: path.parent.name)
def test_tables_say_their_own_licence(sheet):
    assert yaml.read(sheet).data["licence"] == "Apache-2.0 (NVIDIA)"


def test_the_lock_pins_and_hashes_everything_and_names_no_address():
    text = (ROOT / ".ci" / "requirements.lock").read_text()
    pins = re.findall(r"^([a-z0-9-]+)==(\S+) \\$", text, re.MULTILINE)
    assert len(pins) >= 30 and text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    bom = json.loads((ROOT / ".ci" / "sbom.cdx.json").read_text())
    listed = {(one["name"].lower().replace("_", "-").replace(".", "-"), one["version"]) for one in bom["components"]}
    assert set(pins) <= listed, "run .ci/lock"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[<>=\[]", one)[0].replace(".", "-") for one in project["dependencies"]}
    assert direct <= {name for name, _ in pins}


def test_what_only_some_systems_have_is_asked_for():
    """Modules and calls of POSIX alone are imported where they are used, and with something to fall back to."""
    found = []
    for path in (ROOT / "moesim").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
            if re.search(rf"^(?:import|from) {name}\b", text, re.MULTILINE):
                found.append(f"{path}: {name}")
        for call in ("os.fork(", "os.getuid(", "os.geteuid(", "os.setsid(", "os.killpg(", "os.sched_getaffinity("):
            if call in text and f'hasattr(os, "{call[3:-1]}")' not in text:
                found.append(f"{path}: {call}")
    assert not found


def test_paths_are_told_apart_by_either_separator():
    from moesim.models.names import resolve

    assert resolve("mistralai\\Mixtral-8x7B-v0.1").model == resolve("mistralai/Mixtral-8x7B-v0.1").model


def test_files_are_small_enough_to_publish():
    large = [path for path in (ROOT / "calibration").rglob("*") if path.is_file() and path.stat().st_size > 8 << 20]
    assert not large
    assert Path(moesim.__file__).parent.joinpath("py.typed").is_file()
