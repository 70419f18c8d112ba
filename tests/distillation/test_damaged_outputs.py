"""A teacher's outputs on disk after damage, kills and full disks: refused, or made anew."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_outputs import LENGTHS, NUM_PARTS, compute, cut_short, names
from safetensors.numpy import load_file as load_arrays
from task_models import make_inputs, make_model
from transformers import PreTrainedModel

from distilcli.distillation import teacher_outputs
from distilcli.distillation.teacher_outputs import TeacherOutputs
from distilcli.errors import DataError, DataLostError, NonFiniteLossError, WriteError


@pytest.fixture
def kept(small_parts, tmp_path) -> tuple[TeacherOutputs, PreTrainedModel]:
    """An entry that is complete, not looked at yet, and its teacher."""
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    compute(TeacherOutputs(tmp_path, teacher, inputs, False), teacher)
    return TeacherOutputs(tmp_path, teacher, inputs, False), teacher


def part_of(cached: TeacherOutputs, number: int) -> Path:
    return cached.folder / f"part-{number:05d}.safetensors"


def overwrite(path: Path) -> None:
    path.write_bytes(b"\x00" * path.stat().st_size)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[8:])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, overwrite, empty, drop_header, flip_a_bit])
def test_a_damaged_part_is_refused_and_made_anew_once_removed(kept, damage):
    cached, teacher = kept
    before = part_of(cached, 1).read_bytes()
    damage(part_of(cached, 1))
    cached.of([0, 3, 8])  # of other parts
    with pytest.raises(DataError, match="damaged") as caught:
        cached.of([0, 4])
    assert caught.value.exit_code == 2
    assert str(part_of(cached, 1)) in caught.value.message
    assert "Remove it" in caught.value.hint
    part_of(cached, 1).unlink()
    assert not cached.is_complete
    assert compute(cached, teacher) == [(1, 1)]
    assert part_of(cached, 1).read_bytes() == before


@pytest.mark.parametrize("size", [0, 300])
def test_a_part_that_is_cut_short_while_it_is_used_is_told(kept, size):
    """After it was looked at; mapped, it would end the process (SIGBUS)."""
    cached, _ = kept
    path = part_of(cached, 1)
    whole, (expected, _) = path.read_bytes(), cached.of([4, 7])
    os.truncate(path, size)
    with pytest.raises(DataLostError, match=r"cut short: .* while it was being read") as caught:
        cached.of([4, 7])
    assert caught.value.exit_code == 1
    assert str(path) in caught.value.message
    assert caught.value.hint == "Remove it; it is made anew. Then go on with --resume."
    path.write_bytes(whole)
    assert cached.of([4, 7])[0].tolist() == expected.tolist()


@pytest.mark.parametrize("head", ["token", "sequence"])
def test_outputs_that_are_not_finite_are_not_kept(small_parts, tmp_path, head):
    """Every weight is finite; the head's products are not."""
    teacher, inputs = make_model("bert", head), make_inputs(LENGTHS, head)
    with torch.no_grad():
        teacher.classifier.bias.fill_(3e38)
        teacher.classifier.weight.fill_(3e38)
    cached = TeacherOutputs(tmp_path, teacher, inputs, False)
    with pytest.raises(NonFiniteLossError, match="the teacher's outputs for training inputs"):
        compute(cached, teacher)
    assert not list(tmp_path.rglob("part-*"))


def test_a_part_of_another_entry_is_refused(kept, tmp_path):
    """Of the same sizes, so that nothing else would tell it."""
    cached, _ = kept
    other = make_model("bert", "token", seed=1)
    elsewhere = TeacherOutputs(tmp_path, other, cached.inputs, False)
    compute(elsewhere, other)
    part_of(cached, 0).write_bytes(part_of(elsewhere, 0).read_bytes())
    with pytest.raises(DataError, match="made for something else") as caught:
        cached.of([0])
    assert str(part_of(cached, 0)) in caught.value.message


class Killed(BaseException):
    """Nothing in the package catches it, as nothing catches SIGKILL."""


def test_a_kill_leaves_whole_parts_only(small_parts, tmp_path, monkeypatch):
    teacher, inputs = make_model("bert", "span"), make_inputs(LENGTHS, "span")
    undisturbed = TeacherOutputs(tmp_path / "other", teacher, inputs, True)
    compute(undisturbed, teacher)
    save, calls = teacher_outputs.save_file, []

    def save_half(tensors: dict, path: Path, **more: Any) -> None:
        save(tensors, path, **more)
        calls.append(path)
        if len(calls) == 2:
            os.truncate(path, path.stat().st_size // 2)
            raise Killed

    monkeypatch.setattr(teacher_outputs, "save_file", save_half)
    cached = TeacherOutputs(tmp_path, teacher, inputs, True)
    with pytest.raises(Killed):
        compute(cached, teacher)
    assert [path.name for path in cached.folder.glob("part-*")] == ["part-00000.safetensors"]
    assert not cached.is_complete
    assert compute(cached, teacher) == [(1, 2), (2, 2)]  # those that are missing
    for number in range(NUM_PARTS):
        assert part_of(cached, number).read_bytes() == part_of(undisturbed, number).read_bytes()


def test_a_full_disk_is_named_and_leaves_nothing_half_written(small_parts, tmp_path, monkeypatch):
    teacher, inputs = make_model("bert", "span"), make_inputs(LENGTHS, "span")
    save = teacher_outputs.save_file

    def save_or_fail(tensors: dict, path: Path, **more: Any) -> None:
        save(tensors, path, **more)
        if "00001" in str(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(teacher_outputs, "save_file", save_or_fail)
    cached = TeacherOutputs(tmp_path, teacher, inputs, False)
    with pytest.raises(WriteError, match="No space left") as caught:
        compute(cached, teacher)
    assert caught.value.exit_code == 1
    assert str(part_of(cached, 1)) in caught.value.message
    assert "teacher.cache" in caught.value.hint
    assert names(cached.folder) == ["part-00000.safetensors"]
    assert load_arrays(part_of(cached, 0)).keys() == {"outputs"}


def test_a_folder_that_cannot_be_made_is_named(small_parts, tmp_path):
    teacher, inputs = make_model("bert", "span"), make_inputs(LENGTHS, "span")
    (tmp_path / "file").write_text("in the way")
    cached = TeacherOutputs(tmp_path / "file", teacher, inputs, False)
    with pytest.raises(WriteError, match="cannot be written"):
        compute(cached, teacher)
