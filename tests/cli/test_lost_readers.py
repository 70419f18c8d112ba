"""Training outlives whoever reads what it says: a pipe, a disk, a terminal that goes away."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_experiments import Finished, TinyWorld, _main, metrics, start_function


def broken_pipe() -> int:
    """What is left of a pipe to `head` once that has read enough."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed_terminal() -> int:
    """Writing to it is an input/output error."""
    master, slave = os.openpty()
    os.close(master)
    return slave


GONE: dict[str, Callable[[], int]] = {
    "broken pipe": broken_pipe,
    "full disk": full_disk,
    "closed terminal": closed_terminal,
}


def without(how: str, descriptors: str, *arguments: str) -> None:
    """The command, some of whose descriptors nobody reads."""
    for descriptor in map(int, descriptors):
        os.dup2(GONE[how](), descriptor)
        # As Python opens them at its start: knowing what they are connected to.
        name = {1: "stdout", 2: "stderr"}[descriptor]
        setattr(sys, name, open(descriptor, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    _main(*arguments)


def train_without(
    how: str, descriptors: str, world: TinyWorld, folder: Path, *more: str
) -> Finished:
    settings = [f"output_dir={folder}", "train.max_steps=3", "train.save_every=3", *more]
    arguments = ["train", "--config", str(world.config), *settings]
    return start_function(without, [how, descriptors, *arguments]).wait()


def assert_whole(run_folder: Path) -> None:
    assert [record["step"] for record in metrics(run_folder)] == [1, 2, 3]
    assert (run_folder / "checkpoints" / "step-00000003" / "student.safetensors").exists()
    assert (run_folder / "student" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", GONE)
def test_lines_for_people_are_dropped(tiny_world, tmp_path, how):
    finished = train_without(how, "2", tiny_world, tmp_path, "--json")
    assert (finished.code, finished.stderr) == (0, "")
    assert finished.json["steps"] == 3
    assert_whole(tmp_path / "tiny")


def test_head_takes_one_line_and_leaves(tiny_world, tmp_path):
    """distilcli train 2>&1 | head -1: that reader wants no more, so it is no failure."""
    finished = train_without("broken pipe", "12", tiny_world, tmp_path)
    assert finished.code == 0
    assert_whole(tmp_path / "tiny")


def test_a_result_that_is_lost_is_a_failure_of_its_own(tiny_world, tmp_path):
    """Everything is done and kept; that it could not be said is said."""
    finished = train_without("closed terminal", "1", tiny_world, tmp_path)
    assert finished.code == 1
    last, hint = finished.stderr.splitlines()[-2:]
    assert last.startswith("error: the result cannot be written to standard output (")
    assert hint
    assert_whole(tmp_path / "tiny")
