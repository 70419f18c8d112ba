"""Files and folders are written whole or not at all, whenever the writer is killed."""

import os
import stat
from pathlib import Path

import pytest
from kill_points import kill_points
from tiny_experiments import start_function

from distilcli.errors import ModelError, WriteError
from distilcli.files.atomic import (
    locked,
    recover,
    recover_all,
    remove_folder,
    replacing,
    unwritten,
    write_atomically,
)


def make(folder: Path, content: str) -> None:
    with replacing(folder) as new:
        new.mkdir()
        (new / "a").write_text(content)
        (new / "b").write_text(content)


def content_of(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in ("a", "b")}


# Folders


@pytest.mark.parametrize("with_old", [False, True], ids=["new", "replaced"])
def test_a_folder_is_the_old_or_the_new_after_every_kill(tmp_path, monkeypatch, with_old):
    folder = tmp_path / "runs" / "student"
    seen = set()

    def prepare() -> None:
        if with_old:
            make(folder, "old")
        elif folder.exists():
            remove_folder(folder)

    for _ in kill_points(lambda: make(folder, "new"), prepare, monkeypatch):
        recover(folder)
        if folder.exists():
            [content] = content_of(folder)
            seen.add(content)
        else:
            assert not with_old
            seen.add("nothing")
        if folder.parent.exists():
            assert {path.name for path in folder.parent.iterdir()} <= {"student"}
    assert seen == {"old" if with_old else "nothing", "new"}
    assert content_of(folder) == {"new"}


def test_the_next_writer_needs_no_recovery(tmp_path, monkeypatch):
    folder = tmp_path / "student"
    for _ in kill_points(lambda: make(folder, "new"), lambda: make(folder, "old"), monkeypatch):
        make(folder, "newest")
        assert content_of(folder) == {"newest"}
        assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_removed_folder_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "step-00000008"
    seen = set()
    for _ in kill_points(lambda: remove_folder(folder), lambda: make(folder, "old"), monkeypatch):
        recover_all(tmp_path)
        seen.add(folder.exists())
        if folder.exists():
            assert content_of(folder) == {"old"}
        assert {path.name for path in tmp_path.iterdir()} <= {"step-00000008"}
    assert seen == {True, False}


def test_what_fails_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "student"
    make(folder, "old")

    def make_half() -> None:
        with replacing(folder) as new:
            new.mkdir()
            (new / "a").write_text("half")
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        make_half()
    assert content_of(folder) == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_second_rename_that_fails_brings_the_old_folder_back(tmp_path, monkeypatch):
    folder = tmp_path / "student"
    make(folder, "old")
    rename = os.rename

    def fail_for_the_new(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="no"):
        make(folder, "new")
    assert content_of(folder) == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_only_a_scratch_folder_is_cleared(tmp_path):
    """It has its lock in it, or nothing yet; one that a person made has neither name nor lock."""
    theirs = tmp_path / ".thesis.distilcli-writing"
    theirs.mkdir()
    (theirs / "chapter").write_text("mine")
    link = tmp_path / ".link.distilcli-writing"
    link.symlink_to(theirs)
    ours = tmp_path / ".student.distilcli-writing"
    ours.mkdir()
    recover_all(tmp_path)
    assert (theirs / "chapter").read_text() == "mine"
    assert link.is_symlink()
    assert not ours.exists()


# Files


def test_a_file_is_the_old_or_the_new_after_every_kill(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    seen = set()

    def write(text: str) -> None:
        write_atomically(path, text)

    for _ in kill_points(lambda: write("new"), lambda: write("old"), monkeypatch):
        recover_all(tmp_path)
        seen.add(path.read_text())
        assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert seen == {"old", "new"}


def test_a_folder_in_the_way_of_a_file_stays(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(IsADirectoryError):
        write_atomically(path, "text")
    assert [file.name for file in tmp_path.rglob("*")] == ["metrics.jsonl", "mine"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "far" / "results.json")
    write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "far" / "results.json").read_text() == "text"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_get_the_permissions_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        make(tmp_path / "folder", "text")
        with replacing(tmp_path / "file") as new:
            new.touch(mode=0o600)  # as safetensors does
    finally:
        os.umask(before)
    for path in (tmp_path / "file", tmp_path / "folder" / "a"):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


# Locks


def hold(path: str) -> None:
    with locked(Path(path), 0.0):
        Path(f"{path}.held").touch()
        while True:
            os.read(os.open(f"{path}.release", os.O_RDONLY), 1)
            return


def test_a_lock_is_of_one_process_and_ends_with_it(tmp_path):
    path = tmp_path / ".lock"
    os.mkfifo(f"{path}.release")
    running = start_function(hold, [str(path)])
    assert running.wait_until(Path(f"{path}.held").exists)
    waited: list[bool] = []
    with (
        pytest.raises(BlockingIOError, match="another process is writing"),
        locked(path, 0.1, lambda: waited.append(True)),
    ):
        pass
    assert waited == [True]
    running.kill()
    with locked(path, 0.0):
        pass


def write_and_hang(path: str) -> None:
    with replacing(Path(path)) as new:
        new.write_text("half")
        Path(f"{path}.held").touch()
        os.read(os.open(f"{path}.release", os.O_RDONLY), 1)


def test_what_a_process_is_writing_is_not_cleared(tmp_path):
    path = tmp_path / "results.json"
    os.mkfifo(f"{path}.release")
    running = start_function(write_and_hang, [str(path)])
    assert running.wait_until(Path(f"{path}.held").exists)
    [scratch] = tmp_path.glob(".*")
    recover_all(tmp_path)
    assert (scratch / "new").read_text() == "half"
    Path(f"{path}.release").write_text("x")
    assert running.wait().code == 0
    assert path.read_text() == "half"
    assert not list(tmp_path.glob(".*"))


# What cannot be written


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (OSError(28, "No space left on device"), WriteError, 1),
        (OSError(122, "Disk quota exceeded"), WriteError, 1),
        (RuntimeError("I/O error: No space left on device (os error 28)"), WriteError, 1),
        (OSError(13, "Permission denied"), ModelError, 2),
        (OSError("disk"), ModelError, 2),
    ],
)
def test_a_full_disk_has_one_exit_code(error, kind, code):
    found = unwritten("x: the model", error, ModelError, "Free it.")
    assert type(found) is kind
    assert found.exit_code == code
    assert found.message == f"x: the model cannot be written ({error})"
