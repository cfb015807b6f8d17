"""Commands that are ended, meet a full disk or each other, write to a closed pipe or a poor terminal."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from moesim import paths
from tests.faults.commands import COMMANDS, ended, files, moments, session_of, undisturbed, whole

pytest.importorskip("pandas")
by_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name.replace(" ", "_"))
SHORT = ("predict", "mixtral_tp4", "--osl", "4", "--isl", "64")


@cache
def reference(command_name):
    command = next(one for one in COMMANDS if one.name == command_name)
    with TemporaryDirectory() as folder:
        return undisturbed(command, Path(folder))


@pytest.mark.slow
@by_command
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_an_ended_command_leaves_whole_files_and_no_process(command, how, tmp_path):
    seconds, left = reference(command.name)
    (after_s,) = moments(seconds, 1, random.Random(command.name + how.name))
    assert ended(command, tmp_path, how, after_s, left) == []


@pytest.mark.slow
@by_command
def test_a_full_disk_is_a_sentence_and_leaves_nothing(command, tmp_path):
    command.prepare(tmp_path)
    before = files(tmp_path)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    process = command.started(tmp_path, preexec_fn=small_files)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("moesim: ") and ".part" not in said
    left = files(tmp_path)
    assert all(len(left[name]) <= 100 for name in set(left) - set(before)) and not [n for n in left if ".part" in n]


@pytest.mark.slow
@by_command
def test_two_writers_leave_whole_files(command, tmp_path):
    command.prepare(tmp_path)
    _, alone = reference(command.name)
    both = [command.started(tmp_path) for _ in range(2)]
    ends = [(process.communicate(timeout=240)[1], process.returncode) for process in both]
    codes = {code for _, code in ends}
    assert codes <= {0, 2, 3} and codes & {0, 3}
    assert not any("Traceback" in said for said, _ in ends), ends
    assert whole(command, tmp_path, alone, killed=False) == [] and set(command.writes) <= set(files(tmp_path))
    assert not [left for process in both for left in session_of(process.pid)]


def run(*words, **more):
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT)} | more.pop("env", {})
    return subprocess.run([sys.executable, "-m", "moesim", *words], env=environment, capture_output=True, timeout=120,
                          check=False, **more)  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1252", "latin-1"])
def test_poor_terminals_are_written_to(encoding):
    done = run("predict", "fiddler_rtx_4090", "--osl", "4", env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0 and not done.stderr
    text = done.stdout.decode(encoding)
    assert "Mixtral" in text and ("#" in text or "\u2588" in text), "lanes are drawn of something"


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m moesim models --json | head -c 10"
    done = subprocess.run(["bash", "-c", command], env={**os.environ, "PYTHONPATH": str(paths.ROOT)},
                          capture_output=True, timeout=120, check=False)  # fmt: skip
    assert not done.stderr and len(done.stdout) == 10


def test_nobody_is_at_home():
    done = run(*SHORT, env={"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"}, cwd="/")
    assert done.returncode == 0 and not done.stderr


def test_a_folder_that_takes_no_files_is_said_before_anything_is_computed():
    done = run("sweep", "mixtral_tp4", "--axis", "batch_size=1,2", "-o", "/proc/x.csv")
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"/proc/x.csv" in done.stderr


def with_workers(folder):
    """A command whose workers are at work."""
    process = next(one for one in COMMANDS if "--jobs" in one.words).started(folder)
    for _ in range(500):
        if len(session_of(process.pid)) > 2:
            return process
        time.sleep(0.01)
    process.kill()
    pytest.fail("no worker was seen")


def test_workers_do_not_outlive_the_one_who_asked(tmp_path):
    process = with_workers(tmp_path)
    process.kill()
    process.communicate()
    for _ in range(100):
        if not session_of(process.pid):
            return
        time.sleep(0.1)
    pytest.fail(f"left: {session_of(process.pid)}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_a_terminal_that_closes_ends_all_of_a_command(how, tmp_path):
    process = with_workers(tmp_path)
    os.killpg(process.pid, how)
    said = process.communicate(timeout=60)[1]
    assert process.returncode in (130, -how, 0) and "Traceback" not in said, said
