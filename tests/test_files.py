"""Files that are replaced whole or not at all."""

import fcntl
import os
import stat

import numpy as np
import pytest

from skwsdhq import TagEnhancer, load
from skwsdhq.persistence import save
from skwsdhq.utils.files import replacing, turn


def write(path, content=b"new"):
    with replacing(path) as file:
        file.write(content)


def parts(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".part"))


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_a_file_hands_on_its_mode(tmp_path, mode):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    path.chmod(mode)
    write(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_mode_that_open_gives(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write(tmp_path / "model")
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nobody_else_reads_a_private_file_while_it_is_written(tmp_path):
    path = tmp_path / "model"
    path.touch(mode=0o600)
    with replacing(path):
        (part,) = (p for p in tmp_path.iterdir() if p != path)
        assert stat.S_IMODE(part.stat().st_mode) == 0o600


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(tmp_path, exists):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "model", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path / "there") == ["model"]


def test_links_in_a_circle_are_an_error(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match=r"[ab]"):
        write(tmp_path / "a")
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_stays(tmp_path, make):
    make(tmp_path / "model")
    with pytest.raises(OSError, match=r"is a folder|no regular file"):
        write(tmp_path / "model")
    assert not (tmp_path / "model").is_file()
    assert parts(tmp_path) == []


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, MemoryError])
def test_an_error_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "model"
    path.write_bytes(b"old")

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert parts(tmp_path) == []


def test_parts_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    path = tmp_path / "model"
    left, held, other = (tmp_path / f".{n}.part" for n in ("model.1.0a", "model.2.0b", "mod.3"))
    for part in (left, held, other):
        part.write_bytes(b"half")
    with open(held, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(path)
    assert parts(tmp_path) == [other.name, held.name]
    write(path)
    assert parts(tmp_path) == [other.name]


def test_a_killed_process_leaves_nothing_behind_for_long(tmp_path):
    path = tmp_path / "model"
    child = os.fork()
    if child == 0:  # pragma: no cover
        with replacing(path) as file:
            file.write(b"half")
            file.flush()
            os._exit(9)
    os.waitpid(child, 0)
    assert len(parts(tmp_path)) == 1
    assert not path.exists()
    write(path)
    assert parts(tmp_path) == []


def test_two_at_once_do_not_take_each_others_part(tmp_path):
    path = tmp_path / "model"
    with replacing(path) as first:
        first.write(b"first")
        write(path, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert parts(tmp_path) == []


@pytest.mark.parametrize("letters", ["x" * 255, "é" * 127])
def test_long_names(tmp_path, letters):
    write(tmp_path / letters)
    assert os.listdir(tmp_path) == [letters]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".model.0.part").write_bytes(b"somebody may be at it")
    write(tmp_path / "model")
    assert parts(tmp_path) == [".model.0.part"]
    assert (tmp_path / "model").read_bytes() == b"new"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write(tmp_path / "nowhere" / "model")


def test_saved_models_are_replaced_so(tmp_path):
    enhancer = TagEnhancer().fit([["dog"], ["cat"], ["dog", "cat"]])
    (tmp_path / "model").touch(mode=0o600)
    (tmp_path / ".model.77.0a.part").touch()
    (tmp_path / "link").symlink_to("model")
    save(enhancer, tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["link", "model"]
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o600
    again = load(tmp_path / "link")
    np.testing.assert_array_equal(again.concept_names_, enhancer.concept_names_)


def test_a_turn_is_taken_by_one_at_a_time(tmp_path):
    def is_free():
        with open(tmp_path / "lock", "rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    with turn(tmp_path / "lock"):
        assert not is_free()
    assert is_free()
