"""Runs that are killed or damaged end as if nothing had happened.

Real processes and real signals. Dropout is on: what is random in a step is part of the promise.
"""

import os
import random
import shutil
from pathlib import Path

import psutil
import pytest
from disturbed_runs import (
    PATIENCE,
    STEPS,
    assert_same_end,
    command,
    contents,
    finish,
    kill_at,
    run_folder,
    wait_for_step,
)
from held_steps import start_held, start_held_in_a_checkpoint
from safetensors.torch import load_file
from tiny_experiments import (
    _main,
    last_step,
    metrics,
    relative_difference,
    run,
    start_function,
    weights,
)

from distilcli.corpus.store import TokenStore
from distilcli.training import checkpoints

NO_DROPOUT = ["student.dropout=0", "student.attention_dropout=0"]


@pytest.fixture(scope="module")
def killed(tiny_world, tmp_path_factory) -> Path:
    """A run with several checkpoints that was killed."""
    folder = tmp_path_factory.mktemp("killed")
    kill_at(15, folder, *command(tiny_world, folder, "train.keep_checkpoints=3"))
    assert last_step(run_folder(folder)) < STEPS
    return folder


@pytest.fixture
def killed_copy(killed, tmp_path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(killed, folder)
    return folder


@pytest.mark.slow
def test_the_same_run_twice_is_the_same(tiny_world, undisturbed, tmp_path):
    """Otherwise nothing below would mean anything; and another seed is another run."""
    finish(command(tiny_world, tmp_path))
    assert_same_end(tmp_path, undisturbed)
    finish(command(tiny_world, tmp_path / "other", "seed=43"))
    assert weights(run_folder(tmp_path / "other")) != weights(run_folder(undisturbed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_a_random_instant(tiny_world, undisturbed, tmp_path, seed):
    draw = random.Random(seed)
    step, delay = draw.randrange(STEPS), draw.uniform(0.0, 0.1)
    kill_at(step, tmp_path, *command(tiny_world, tmp_path), delay=delay)
    finish(command(tiny_world, tmp_path, "--resume"))
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.slow
def test_killed_in_bf16(tiny_world, tmp_path):
    """Masters and moments are in fp32 all the same; the last bit of them is kept."""
    in_bf16 = ["train.precision=bf16", "teacher.precision=bf16"]
    finish(command(tiny_world, tmp_path / "undisturbed", *in_bf16))
    arguments = command(tiny_world, tmp_path, *in_bf16)
    kill_at(10, tmp_path, *arguments)
    finish([*arguments, "--resume"])
    assert_same_end(tmp_path, tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("there", ["tiny", "tiny/experiment.yaml", "tiny/initial-*"])
def test_killed_before_the_first_step(tiny_world, undisturbed, tmp_path, there):
    """While the run folder and the initial student are made."""
    running = start_held(0, tmp_path / "never", *command(tiny_world, tmp_path))
    assert running.wait_until(lambda: any(tmp_path.glob(there)), pause=0), running.wait()
    running.kill()
    finish(command(tiny_world, tmp_path, "--resume"))
    assert_same_end(tmp_path, undisturbed)


IN_EPOCHS = ["train.max_steps=null", "train.num_epochs=2", "train.global_batch_size=100"]
IN_EPOCHS += ["train.save_every=1", "validation.every=0"]


@pytest.mark.slow
def test_killed_in_the_step_that_ends_an_epoch(tiny_world, tmp_path):
    """It holds samples of two epochs; the last step is a smaller one."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(command(tiny_world, whole, *IN_EPOCHS))
    kill_at(3, killed, *command(tiny_world, killed, *IN_EPOCHS))
    finish(command(tiny_world, killed, *IN_EPOCHS, "--resume"))
    assert weights(run_folder(killed)) == weights(run_folder(whole))
    assert metrics(run_folder(killed)) == metrics(run_folder(whole))


@pytest.mark.slow
def test_a_run_that_left_samples_out_does_not_go_on_with_other_batches(tiny_world, tmp_path):
    """Begun before what is left over at the end of an epoch was trained on."""
    finish(command(tiny_world, tmp_path, *IN_EPOCHS))
    root = run_folder(tmp_path) / "checkpoints"
    newest = checkpoints.load_latest(root, pytest.fail)
    state = {key: value for key, value in newest.state.items() if key != "step_plan"}
    tensors = {name: newest.tensors(name) for name in ("student", "optimizer")}
    checkpoints.save(root, newest.step, tensors, state)
    before = contents(tmp_path)
    refused = run(*command(tiny_world, tmp_path, *IN_EPOCHS, "--resume"))
    assert refused.code == 2
    left_out = len(TokenStore.open(tiny_world.store).train) % 100
    assert f"begun by an older version, which left {left_out} samples out of" in refused.stderr
    assert "start again with --force" in refused.stderr
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_killed_again_and_again(tiny_world, undisturbed, tmp_path):
    for step in (3, 9, 14, 21):
        kill_at(step, tmp_path, *command(tiny_world, tmp_path, "--resume"))
    assert not (run_folder(tmp_path) / "student").exists()
    finish(command(tiny_world, tmp_path, "--resume"))
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.slow
def test_killed_while_checkpoints_are_written(tiny_world, undisturbed, tmp_path):
    """How often checkpoints are saved may change at a resume, so that a kill can hit one."""
    checkpoints = run_folder(tmp_path) / "checkpoints"

    arguments = command(tiny_world, tmp_path, "--resume", "train.save_every=1")
    for flush in (0, 7, 13, 16):
        marker = tmp_path / f"flush-{flush}"
        running = start_held_in_a_checkpoint(flush, marker, *arguments)
        assert running.wait_until(marker.exists), running.wait()
        running.kill()
        assert any(checkpoints.glob(".step-*.distilcli-writing/new"))
    finish(command(tiny_world, tmp_path, "--resume"))
    assert_same_end(tmp_path, undisturbed)
    assert not any(checkpoints.glob(".*"))


@pytest.mark.slow
def test_half_a_checkpoint_does_not_count(tiny_world, undisturbed, killed_copy):
    """As a kill during a save and one during a rotation leave them."""
    checkpoints = run_folder(killed_copy) / "checkpoints"
    newest = max(checkpoints.glob("step-*"))
    writing, removing = (
        checkpoints / f".{name}.distilcli-writing" for name in (newest.name, "step-00000002")
    )
    for folder in (writing, removing):
        folder.mkdir()
        (folder / ".lock").touch()
    newest.rename(writing / "new")
    (writing / "new" / "checkpoint.json").unlink()
    shutil.copytree(writing / "new", removing / "removed")
    finished = finish(command(tiny_world, killed_copy, "--resume"))
    assert "damaged" not in finished.stderr
    assert_same_end(killed_copy, undisturbed)
    assert not any(checkpoints.glob(".*"))


def train_with_one_reader(*arguments: str) -> None:
    """`train`, whose first process alone can read a checkpoint, as if it had to be sent far."""
    if os.environ["RANK"] != "0":
        checkpoints.load = None
    _main(*arguments)


@pytest.mark.slow
def test_goes_on_with_another_number_of_processes(tiny_world, tmp_path):
    """Without dropout, whose random numbers belong to a process, only rounding differs."""
    longer = [*NO_DROPOUT, "train.max_steps=40"]
    finish(command(tiny_world, tmp_path / "undisturbed", *longer))
    arguments = command(tiny_world, tmp_path, *longer, "--resume")
    for step, number in ((10, 1), (20, 4), (30, 8)):
        kill_at(step, tmp_path, *arguments, num_processes=number)
        assert last_step(run_folder(tmp_path)) < 40
    finished = start_function(train_with_one_reader, arguments, num_processes=3).wait()
    assert finished.code == 0, finished.stderr
    assert "3 process(es)" in finished.stderr
    found, expected = (
        load_file(run_folder(folder) / "student" / "model.safetensors")
        for folder in (tmp_path, tmp_path / "undisturbed")
    )
    assert relative_difference(found, expected) < 1e-5
    records = metrics(run_folder(tmp_path))
    assert [record["step"] for record in records] == list(range(1, 41))
    for record, other in zip(records, metrics(run_folder(tmp_path / "undisturbed")), strict=True):
        assert record == pytest.approx(other, rel=1e-4)


# Damaged checkpoints


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "student.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(checkpoint: Path) -> None:
    file = checkpoint / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "optimizer.safetensors").unlink()


def empty_the_state(checkpoint: Path) -> None:
    (checkpoint / "checkpoint.json").write_bytes(b"")


each_damage = pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, lose_a_file, empty_the_state]
)


@pytest.mark.slow
@each_damage
def test_a_damaged_checkpoint_is_passed_over(tiny_world, undisturbed, killed_copy, damage):
    newest = max((run_folder(killed_copy) / "checkpoints").glob("step-*"))
    damage(newest)
    finished = finish(command(tiny_world, killed_copy, "--resume"))
    [warning] = [line for line in finished.stderr.splitlines() if "warning" in line]
    assert newest.name in warning
    assert "trying the one before" in warning
    assert_same_end(killed_copy, undisturbed)


def test_a_checkpoint_after_a_damaged_one_is_kept(tiny_world, undisturbed, killed_copy, tmp_path):
    """The damaged ones are newer by name; the new one must not be rotated away for them."""
    root = run_folder(killed_copy) / "checkpoints"
    [first, *damaged] = sorted(root.glob("step-*"))
    for checkpoint in damaged:
        truncate(checkpoint)
    settings = ["train.keep_checkpoints=1", "train.save_every=1"]
    arguments = command(tiny_world, killed_copy, "--resume", *settings)
    steps_before = int(first.name.removeprefix("step-"))
    running = start_held(steps_before + 2, tmp_path / "never", *arguments)
    ahead = [path for path in damaged if path.name > f"step-{steps_before + 2:08d}"]
    assert ahead

    def is_rotated() -> bool:
        return not any(path.exists() for path in ahead)

    assert running.wait_until(is_rotated), running.wait()
    running.kill()
    finished = finish(command(tiny_world, killed_copy, "--resume"))
    assert "warning" not in finished.stderr
    assert_same_end(killed_copy, undisturbed)


@each_damage
def test_nothing_is_deleted_when_every_checkpoint_is_damaged(tiny_world, killed_copy, damage):
    for checkpoint in (run_folder(killed_copy) / "checkpoints").glob("step-*"):
        damage(checkpoint)
    before = contents(killed_copy)
    finished = run(*command(tiny_world, killed_copy, "--resume"))
    assert finished.code == 2
    assert "every checkpoint is damaged" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert contents(killed_copy) == before


@pytest.mark.slow
def test_killed_while_workers_read_ahead(tiny_world, undisturbed, tmp_path):
    """Whoever reads the data, it is the same; and nobody goes on reading for a dead process."""
    workers = "train.num_workers=2"
    running = start_held(8, tmp_path / "never", *command(tiny_world, tmp_path, workers))
    wait_for_step(running, tmp_path, 7)
    children = psutil.Process(running.processes[0].pid).children(recursive=True)
    running.kill()
    finish(command(tiny_world, tmp_path, workers, "--resume"))
    assert_same_end(tmp_path, undisturbed)
    assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert not alive


# --resume where there is little to resume


def test_resume_of_nothing_starts(tiny_world, undisturbed, tmp_path):
    finish(command(tiny_world, tmp_path, "--resume"))
    assert_same_end(tmp_path, undisturbed)


def test_resume_of_a_finished_run_changes_nothing(tiny_world, undisturbed):
    before = contents(undisturbed)
    finished = finish(command(tiny_world, undisturbed, "--resume", "--json"))
    assert "this run is finished" in finished.stderr
    assert finished.json["already_finished"] is True
    assert finished.json["steps"] == STEPS
    assert contents(undisturbed) == before


def test_resume_writes_the_student_that_a_kill_prevented(tiny_world, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "copy")
    shutil.rmtree(run_folder(tmp_path / "copy") / "student")
    finish(command(tiny_world, tmp_path / "copy", "--resume"))
    assert_same_end(tmp_path / "copy", undisturbed)


# What is kept


@pytest.mark.slow
def test_student_is_the_best_and_its_checkpoint_is_kept(tiny_world, tmp_path):
    """With a learning rate that rises until it ruins it, the student is best early."""
    ruin = ["student.num_layers=4", "optim.lr=0.06", "optim.warmup_fraction=1"]
    finished = finish(command(tiny_world, tmp_path, *ruin, "--json"))
    losses = {
        record["step"]: record["held_out/loss"]
        for record in metrics(run_folder(tmp_path))
        if "held_out/loss" in record
    }
    assert list(losses) == [6, 12, 18, 24]
    best = min(losses, key=losses.__getitem__)
    assert best < 18  # so that only being the best keeps it
    assert finished.json["student_step"] == best
    assert finished.json["held_out"]["held_out/loss"] == losses[best]
    checkpoints = run_folder(tmp_path) / "checkpoints"
    kept = {f"step-{step:08d}" for step in (best, 20, 24)}
    assert {path.name for path in checkpoints.iterdir()} == kept
    student = load_file(run_folder(tmp_path) / "student" / "model.safetensors")
    saved = load_file(checkpoints / f"step-{best:08d}" / "student.safetensors")
    assert all(bool((student[name] == saved[name]).all()) for name in student)

    # Should that one checkpoint be damaged, a finished run still gives a student: the last one.
    truncate(checkpoints / f"step-{best:08d}")
    shutil.rmtree(run_folder(tmp_path) / "student")
    again = finish(command(tiny_world, tmp_path, *ruin, "--resume", "--json"))
    assert "the last one becomes the student" in again.stderr
    assert (again.json["student_step"], again.json["held_out"]) == (24, {})
    student = load_file(run_folder(tmp_path) / "student" / "model.safetensors")
    saved = load_file(checkpoints / "step-00000024" / "student.safetensors")
    assert all(bool((student[name] == saved[name]).all()) for name in student)
