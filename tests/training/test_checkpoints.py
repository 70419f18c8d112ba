"""Checkpoints: whole or not there, verified when read, rotated by age and by merit."""

import json
import shutil

import pytest
import torch
from kill_points import kill_points
from safetensors import SafetensorError

from distilcli.errors import RunFolderError, WriteError
from distilcli.files.atomic import recover_all
from distilcli.training import checkpoints
from distilcli.training.checkpoints import (
    checkpoint_folder,
    load,
    load_latest,
    remove_all,
    rotate,
    save,
)


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    student = {"a.weight": torch.full((3, 4), value), "a.bias": torch.tensor([value, -0.0])}
    return {"student": student, "optimizer": {"a.weight.step": torch.tensor(value)}}


def state(step: int) -> dict:
    return {"step": step, "tokens": 10**12, "best_loss": 0.1 + 0.2, "best_step": None}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run" / "checkpoints"


def names(root) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def damage(root, step: int) -> None:
    file = checkpoint_folder(root, step) / "student.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def no_warning(text: str) -> None:
    raise AssertionError(text)


def test_what_is_saved_is_loaded(root):
    folder = save(root, 7, tensors(1.5), state(7))
    assert folder == root / "step-00000007"
    assert names(folder) == ["checkpoint.json", "optimizer.safetensors", "student.safetensors"]
    found = load(folder)
    assert (found.step, found.state, found.folder) == (7, state(7), folder)
    for name, expected in tensors(1.5).items():
        loaded = found.tensors(name)
        assert loaded.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(loaded[key], tensor)
            assert torch.equal(torch.signbit(loaded[key]), torch.signbit(tensor))


def test_parameters_and_views_can_be_saved(root):
    """As training gives them: with gradients, and not contiguous."""
    weight = torch.nn.Parameter(torch.arange(12.0).view(3, 4))
    folder = save(root, 1, {"student": {"w": weight, "t": weight.t()}}, {})
    loaded = load(folder).tensors("student")
    assert torch.equal(loaded["t"], weight.detach().t())


def test_saving_the_same_step_again_replaces_it(root):
    save(root, 7, tensors(1.0), state(7))
    folder = save(root, 7, tensors(2.0), state(7))
    assert load(folder).tensors("optimizer")["a.weight.step"] == 2.0
    assert names(root) == ["step-00000007"]


def test_no_kill_leaves_half_a_checkpoint_under_its_name(root, monkeypatch):
    def prepare() -> None:
        if root.exists():
            remove_all(root)
        save(root, 1, tensors(1.0), state(1))

    seen = set()
    for _ in kill_points(lambda: save(root, 2, tensors(2.0), state(2)), prepare, monkeypatch):
        newest = load_latest(root, no_warning)
        assert newest is not None
        seen.add(newest.step)
        assert newest.tensors("student")["a.weight"][0, 0] == newest.step
        rotate(root, newest.step, 2, None)  # as the next run does it
        assert steps(root) == list(range(1, newest.step + 1))
    assert seen == {1, 2}


def test_no_kill_leaves_half_a_checkpoint_when_the_same_step_is_saved_again(root, monkeypatch):
    """As after a resume that passed over a damaged one."""
    seen = set()
    for _ in kill_points(
        lambda: save(root, 7, tensors(2.0), state(7)),
        lambda: save(root, 7, tensors(1.0), state(7)),
        monkeypatch,
    ):
        recover_all(root)
        found = load_latest(root, no_warning)
        assert found is not None
        seen.add(float(found.tensors("student")["a.weight"][0, 0]))
        assert names(root) == ["step-00000007"]
    assert seen == {1.0, 2.0}


def test_no_kill_leaves_half_a_checkpoint_while_older_ones_go(root, monkeypatch):
    def prepare() -> None:
        for step in (1, 2, 3):
            save(root, step, tensors(step), state(step))

    for _ in kill_points(lambda: rotate(root, 3, 1, None), prepare, monkeypatch):
        for folder in root.glob("step-*"):
            load(folder)
        rotate(root, 3, 3, None)
        assert set(steps(root)) <= {1, 2, 3}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("full")])
def test_a_full_disk_is_said_and_leaves_nothing(root, monkeypatch, error):
    save(root, 1, tensors(1.0), state(1))

    def fail(*_):
        raise error

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(
        RunFolderError, match="step-00000002: the checkpoint cannot be written"
    ) as e:
        save(root, 2, tensors(2.0), state(2))
    assert "disk space" in e.value.hint
    assert names(root) == ["step-00000001"]
    assert load(checkpoint_folder(root, 1)).step == 1


def test_a_file_in_the_place_of_the_folder(root):
    root.parent.mkdir()
    root.write_text("not a folder")
    with pytest.raises(RunFolderError, match="cannot be written"):
        save(root, 1, tensors(1.0), state(1))
    assert root.read_text() == "not a folder"


# Reading


def test_every_byte_is_verified(root):
    folder = save(root, 1, tensors(1.0), state(1))
    for file in sorted(folder.glob("*.safetensors")):
        whole = file.read_bytes()
        for position in range(0, len(whole), 37):
            broken = bytearray(whole)
            broken[position] ^= 0x10
            file.write_bytes(broken)
            with pytest.raises(RunFolderError, match=f"{file.name}: damaged"):
                load(folder)
        file.write_bytes(whole)
    load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', '{"step": 1, "state": {}}'])
def test_a_state_that_is_none(root, text):
    folder = save(root, 1, tensors(1.0), state(1))
    (folder / "checkpoint.json").write_text(text)
    with pytest.raises(RunFolderError, match="not a whole checkpoint"):
        load(folder)


@pytest.mark.parametrize("name", ["student.safetensors", "checkpoint.json"])
def test_a_missing_file(root, name):
    """A checkpoint that lacks one of its files is not loaded."""
    folder = save(root, 1, tensors(1.0), state(1))
    (folder / name).unlink()
    with pytest.raises(RunFolderError, match="not a whole checkpoint"):
        load(folder)


def test_latest_is_the_newest_that_is_whole(root):
    for step in (4, 8, 12):
        save(root, step, tensors(step), state(step))
    warnings: list[str] = []

    def newest() -> int:
        warnings.clear()
        found = load_latest(root, warnings.append)
        assert found is not None
        return found.step

    assert (newest(), warnings) == (12, [])
    damage(root, 12)
    assert newest() == 8
    assert len(warnings) == 1
    assert "step-00000012" in warnings[0]
    damage(root, 8)
    assert newest() == 4
    assert len(warnings) == 2


def test_latest_when_all_are_damaged(root):
    for step in (4, 8):
        save(root, step, tensors(step), state(step))
        damage(root, step)
    warnings: list[str] = []
    with pytest.raises(RunFolderError, match="every checkpoint is damaged") as error:
        load_latest(root, warnings.append)
    assert error.value.exit_code == 2
    assert len(warnings) == 2
    assert len(names(root)) == 2


def test_latest_of_none(root):
    """No folder, or only a checkpoint that is half written, is no checkpoint."""
    assert load_latest(root, no_warning) is None
    root.mkdir(parents=True)
    (root / ".step-00000004.distilcli-writing").mkdir()
    assert load_latest(root, no_warning) is None


# Rotation


def steps(root) -> list[int]:
    return [int(name.removeprefix("step-")) for name in names(root)]


@pytest.mark.parametrize(
    ("keep", "best", "expected"),
    [
        (1, None, [5]),
        (2, None, [4, 5]),
        (2, 1, [1, 4, 5]),
        (2, 5, [4, 5]),
        (9, 3, [1, 2, 3, 4, 5]),
        (1, 99, [5]),  # the best one is gone already
    ],
)
def test_rotation_keeps_the_newest_and_the_best(root, keep, best, expected):
    for step in range(1, 6):
        save(root, step, tensors(step), state(step))
    rotate(root, 5, keep, best)
    assert steps(root) == expected
    for step in expected:
        assert load(checkpoint_folder(root, step)).step == step


def test_rotation_counts_from_the_one_just_written(root):
    """After a resume from step 1, because those of 8 and 9 were damaged."""
    for step in (1, 8, 9, 2):
        save(root, step, tensors(step), state(step))
    rotate(root, 2, 1, None)
    assert steps(root) == [2]


def test_rotation_sweeps_up_what_kills_left(root):
    save(root, 1, tensors(1), state(1))
    for name in ("step-00000002/new", "step-00000001/removed"):
        step, _, below = name.partition("/")
        folder = root / f".{step}.distilcli-writing"
        (folder / below).mkdir(parents=True)
        (folder / ".lock").touch()
        (folder / below / "student.safetensors").write_bytes(b"half")
    rotate(root, 1, 2, None)
    assert names(root) == ["step-00000001"]


def test_rotation_leaves_what_is_no_checkpoint(root):
    for step in (1, 2, 3, 4):
        save(root, step, tensors(step), state(step))
    for name in ("step-00000001-backup", "step-best", "step-1", "notes"):
        shutil.copytree(checkpoint_folder(root, 1), root / name)
    (checkpoint_folder(root, 2) / "thesis.tex").touch()
    checkpoint_folder(root, 3).rename(checkpoint_folder(root, 99))  # a copy under another's name
    before = {path for path in root.rglob("*") if "step-00000001/" not in f"{path}/"}
    rotate(root, 4, 1, None)
    assert set(root.rglob("*")) == before
    newest = load_latest(root, lambda _: None)
    assert newest is not None
    assert newest.step in (3, 4)


def test_a_foreign_file_in_the_place_of_a_checkpoint_is_named_and_stays(root):
    folder = checkpoint_folder(root, 4)
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    for task in (lambda: save(root, 4, tensors(1.0), state(4)), lambda: remove_all(root)):
        with pytest.raises(WriteError, match=r"step-00000004: holds .* not write: thesis\.tex"):
            task()
    assert [path.name for path in root.rglob("*")] == ["step-00000004", "thesis.tex"]


def test_removing_all_leaves_nothing_of_ours(root):
    for step in (1, 2):
        save(root, step, tensors(step), state(step))
    damage(root, 1)
    (checkpoint_folder(root, 2) / "checkpoint.json").write_text("{")
    remove_all(root)
    assert not root.exists()
    remove_all(root)  # of nothing


def test_a_checkpoint_has_the_permissions_of_any_file(root):
    folder = save(root, 1, tensors(1.0), state(1))
    (root / "any").touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {(root / "any").stat().st_mode}


def test_the_record_is_plain_json(root):
    """No pickle: whoever opens a checkpoint runs no code."""
    folder = save(root, 3, tensors(1.0), state(3))
    record = json.loads((folder / "checkpoint.json").read_text())
    assert record["step"] == 3
    assert set(record["sha256"]) == {"student.safetensors", "optimizer.safetensors"}
