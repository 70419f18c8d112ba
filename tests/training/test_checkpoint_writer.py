"""Checkpoints are written behind the back of training, and what goes wrong there is told."""

import threading

import pytest
import torch
from safetensors.torch import load_file

from distilcli.errors import WriteError
from distilcli.training import checkpoints
from distilcli.training.checkpoint_writer import CheckpointWriter


@pytest.fixture
def gate(monkeypatch):
    """Holds up every write until it is opened."""
    opened = threading.Event()
    save = checkpoints.save

    def save_behind_the_gate(*arguments):
        assert opened.wait(timeout=600)
        return save(*arguments)

    monkeypatch.setattr(checkpoints, "save", save_behind_the_gate)
    yield opened
    opened.set()


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"student": {"weight": torch.full((3,), value)}}


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, gate):
    writer = CheckpointWriter(tmp_path, keep=2)
    state = tensors(1.0)
    writer.write(4, state, {"step": 4}, best_step=None)  # returns although nothing can be written
    assert not list(tmp_path.iterdir())
    state["student"]["weight"].fill_(2.0)
    gate.set()
    writer.wait()
    [folder] = tmp_path.iterdir()
    assert folder.name == "step-00000004"
    assert load_file(folder / "student.safetensors")["weight"].tolist() == [1.0] * 3
    assert checkpoints.load(folder).state == {"step": 4}


def test_one_write_at_a_time_and_older_ones_go(tmp_path):
    writer = CheckpointWriter(tmp_path, keep=2)
    for step in range(1, 6):
        writer.write(step, tensors(step), {}, best_step=1)
    writer.wait()
    names = sorted(folder.name for folder in tmp_path.iterdir())
    assert names == ["step-00000001", "step-00000004", "step-00000005"]


@pytest.mark.parametrize("failing", ["save", "rotate"])
@pytest.mark.parametrize("told_by", ["write", "wait"])
def test_what_a_write_runs_into_is_told_once(tmp_path, monkeypatch, failing, told_by):
    def fail(*_):
        raise WriteError("disk full") if failing == "save" else PermissionError("read-only")

    writer = CheckpointWriter(tmp_path, keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, failing, fail)
        writer.write(1, tensors(1.0), {}, best_step=None)
        with pytest.raises(WriteError, match=r"disk full|read-only"):
            writer.wait() if told_by == "wait" else writer.write(2, tensors(2.0), {}, None)
    writer.wait()
    writer.write(3, tensors(3.0), {}, best_step=None)
    writer.wait()
    assert checkpoints.load(tmp_path / "step-00000003").step == 3


def test_the_end_waits_for_nothing_when_nothing_was_written(tmp_path):
    CheckpointWriter(tmp_path, keep=1).wait()
    assert not list(tmp_path.iterdir())
