"""Files are written whole or not at all, whoever else writes, and whatever stands in the way."""

import os
import stat
import threading

import pytest

from moesim.files.writing import whole, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "x.csv"
    target.write_text("before")
    with pytest.raises(ZeroDivisionError), whole(target) as half:
        half.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "before" and names(tmp_path) == ["x.csv"]


def test_nobody_elses_file_is_touched(tmp_path):
    victim, own = tmp_path / "victim", tmp_path / "x.csv.part"
    victim.write_text("mine")
    own.symlink_to(victim)
    write_whole(tmp_path / "x.csv", "new")
    assert victim.read_text() == "mine" and own.is_symlink()
    assert names(tmp_path) == ["victim", "x.csv", "x.csv.part"]


def test_a_link_is_written_through(tmp_path):
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text("before")
    real.chmod(0o640)
    link.symlink_to(real)
    write_whole(link, "after")
    assert link.is_symlink() and real.read_text() == "after" and stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_whole(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no file that can be replaced") as caught:
        write_whole(tmp_path / "pipe", "x")
    assert caught.value.filename == str(tmp_path / "pipe")


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        write_whole(tmp_path / "file" / "x.csv", "x")
    assert caught.value.filename == str(tmp_path / "file" / "x.csv")
    with pytest.raises(OSError) as caught, whole(tmp_path / "y.csv") as half:
        raise OSError(28, "No space left on device", str(half))
    assert caught.value.filename == str(tmp_path / "y.csv") and names(tmp_path) == ["file"]


def test_writers_at_once_leave_one_whole_file(tmp_path):
    target, texts = tmp_path / "x.txt", [str(i) * 200_000 for i in range(6)]
    threads = [threading.Thread(target=lambda t=text: [write_whole(target, t) for _ in range(8)]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in texts and names(tmp_path) == ["x.txt"]
