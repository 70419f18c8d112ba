"""Runs that are killed, stopped and damaged end as if nothing had happened.

Real processes and real signals. Dropout is on: what is random in a step is part of the promise.
"""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import held_steps
import psutil
import pytest
from held_steps import start_held, start_held_in_a_checkpoint
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_experiments import (
    Finished,
    Running,
    TinyWorld,
    _main,
    environment,
    last_step,
    metrics,
    relative_difference,
    run,
    start_function,
    weights,
)

from distilcli.corpus.store import TokenStore
from distilcli.distillation.loss_modules import Distillation
from distilcli.training import checkpoints

STEPS = 24  # train.max_steps of the tiny experiment, which saves every 4 and validates every 6
PATIENCE = 600.0  # seconds, for what is to end by itself
NO_DROPOUT = ["student.dropout=0", "student.attention_dropout=0"]


def command(world: TinyWorld, folder: Path, *more: str) -> list[str]:
    """`train` with its run folder in `folder`."""
    return ["train", "--config", str(world.config), f"output_dir={folder}", *more]


def run_folder(folder: Path) -> Path:
    return folder / "tiny"


def start_torchrun(
    step: int, gate: Path, command: list[str], stderr: int | IO[str] = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """The command as two processes of a real torchrun, which wait for a gate before a step."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", held_steps.__file__, str(step), str(gate), *command),
        ],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


def finish(command: list[str], num_processes: int = 1) -> Finished:
    finished = run(*command, num_processes=num_processes)
    assert finished.code == 0, finished.stderr
    return finished


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill_at(
    step: int, folder: Path, *arguments: str, num_processes: int = 1, delay: float = 0.0
) -> None:
    """Start a command and SIGKILL it some time after a step has reached metrics.jsonl.

    It goes on meanwhile, but never to its end, however late the kill comes.
    """
    last = step + (10 if delay else 1)
    running = start_held(last, folder / "never", *arguments, num_processes=num_processes)
    wait_for_step(running, folder, step)
    time.sleep(delay)
    running.kill()


def wait_for_step(running: Running, folder: Path, step: int) -> None:
    """Wait until a step has reached metrics.jsonl."""
    assert running.wait_until(lambda: last_step(run_folder(folder)) >= step), running.wait()


def stop_at(step: int, folder: Path, number: int, *arguments: str) -> Finished:
    """Start a command and send it a signal when so many steps are done, long before its end."""
    gate = folder / "gate"
    running = start_held(step, gate, *arguments)
    wait_for_step(running, folder, step)
    running.signal(number)
    gate.touch()
    return running.wait()


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    """Student, optimiser and every record of every step, to the last bit."""
    assert weights(run_folder(folder)) == weights(run_folder(undisturbed))
    records = metrics(run_folder(folder))
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert records == metrics(run_folder(undisturbed))


@pytest.fixture(scope="module")
def undisturbed(tiny_world, tmp_path_factory) -> Path:
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(command(tiny_world, folder))
    return folder


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


# SIGKILL


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


@pytest.mark.slow
@pytest.mark.parametrize("processes", [(2, 1), (1, 2), (2, 1, 2)])
def test_goes_on_with_another_number_of_processes(tiny_world, tmp_path, processes):
    """Without dropout, whose random numbers belong to a process, only rounding differs."""
    steps = 25 * len(processes)
    longer = [*NO_DROPOUT, f"train.max_steps={steps}"]
    finish(command(tiny_world, tmp_path / "undisturbed", *longer))
    arguments = command(tiny_world, tmp_path, *longer, "--resume")
    *before, last = processes
    for index, number in enumerate(before):
        kill_at(25 * (index + 1), tmp_path, *arguments, num_processes=number)
        assert last_step(run_folder(tmp_path)) < steps
    finished = finish(arguments, num_processes=last)
    assert f"{last} process(es)" in finished.stderr
    found, expected = (
        load_file(run_folder(folder) / "student" / "model.safetensors")
        for folder in (tmp_path, tmp_path / "undisturbed")
    )
    assert relative_difference(found, expected) < 1e-5
    records = metrics(run_folder(tmp_path))
    assert [record["step"] for record in records] == list(range(1, steps + 1))
    for record, other in zip(records, metrics(run_folder(tmp_path / "undisturbed")), strict=True):
        assert record["loss/total"] == pytest.approx(other["loss/total"], rel=1e-4)


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


# Signals


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_says_how_to_go_on(tiny_world, undisturbed, tmp_path):
    """The whole thing as a shell sees it, but that it waits for the signal before a step."""
    arguments = command(tiny_world, tmp_path, "train.save_every=1000", "train.log_every=1")
    errors, gate = tmp_path / "stderr", tmp_path / "gate"
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, held_steps.__file__, "6", str(gate), *arguments],
            env=environment(),
            stderr=stream,
        )
        while last_step(run_folder(tmp_path)) < 4 and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        gate.touch()
        assert process.wait() == 143
    assert "SIGTERM" in errors.read_text()
    stopped_after = last_step(run_folder(tmp_path))
    assert 4 <= stopped_after < STEPS
    newest = max((run_folder(tmp_path) / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{stopped_after:08d}"

    [program, *words] = shlex.split(errors.read_text().splitlines()[-1])
    assert program == "distilcli"
    finished = finish(words)
    assert f"resumed after step {stopped_after} of {STEPS}" in finished.stderr
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.slow
def test_sigusr1_stops_as_sigterm_does(tiny_world, undisturbed, tmp_path):
    """Schedulers send it ahead of the time limit."""
    stopped = stop_at(7, tmp_path, signal.SIGUSR1, *command(tiny_world, tmp_path))
    assert stopped.code == 143
    assert "stopped by SIGUSR1" in stopped.stderr
    finish(shlex.split(stopped.stderr.splitlines()[-1])[1:])
    assert_same_end(tmp_path, undisturbed)


def test_sigterm_between_log_lines(tiny_world, undisturbed, tmp_path):
    """All ranks know of it at every step; records that wait are written with the checkpoint."""
    arguments = command(tiny_world, tmp_path, "train.log_every=1000", "validation.every=1000")
    # The records of the first four steps come with their checkpoint; those of two more wait.
    running = start_held(6, gate := tmp_path / "gate", *arguments)
    wait_for_step(running, tmp_path, 4)
    running.signal(signal.SIGTERM)
    gate.touch()
    assert running.wait().code == 143
    stopped_after = last_step(run_folder(tmp_path))
    newest = max((run_folder(tmp_path) / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{stopped_after:08d}"
    finish(command(tiny_world, tmp_path, "--resume", "validation.every=1000"))
    records = metrics(run_folder(tmp_path))
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))


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


@pytest.mark.slow
def test_sigint_with_a_tracker(tiny_world, undisturbed, tmp_path):
    arguments = command(tiny_world, tmp_path, "train.trackers=[tensorboard]")
    stopped = stop_at(6, tmp_path, signal.SIGINT, *arguments)
    assert stopped.code == 130
    assert stopped.stdout == ""
    [events] = tmp_path.rglob("events.out.tfevents.*")
    written = EventAccumulator(str(events)).Reload().Scalars("loss/total")
    assert [event.step for event in written] == list(range(1, last_step(run_folder(tmp_path)) + 1))
    finish(shlex.split(stopped.stderr.splitlines()[-1])[1:])
    assert_same_end(tmp_path, undisturbed)


def everyone(family: psutil.Process) -> list[psutil.Process]:
    """As a scheduler sends a signal; torchrun then tells its processes once more."""
    return [family, *family.children(recursive=True)]


def the_second(family: psutil.Process) -> list[psutil.Process]:
    """One that says nothing itself; as soon as it has ended torchrun ends those that are left."""
    children = family.children(recursive=True)
    return [child for child in children if child.environ().get("RANK") == "1"]


@pytest.mark.slow
@pytest.mark.parametrize("told", [everyone, the_second])
def test_sigterm_under_torchrun(tiny_world, finished_by_two, tmp_path, told):
    """Whoever of the processes is told, all stop at one step, and the run goes on."""
    arguments = command(tiny_world, tmp_path, "train.trackers=[tensorboard]")
    gate = tmp_path / "gate"
    with (
        (tmp_path / "stderr").open("w") as stream,
        start_torchrun(9, gate, arguments, stderr=stream) as torchrun,
    ):
        while last_step(run_folder(tmp_path)) < 8 and torchrun.poll() is None:
            time.sleep(0.001)
        processes = told(psutil.Process(torchrun.pid))
        assert processes
        for process in processes:
            process.terminate()
        gate.touch()
        torchrun.wait(timeout=PATIENCE)
    errors = (tmp_path / "stderr").read_text()
    stopped_after = last_step(run_folder(tmp_path))
    assert stopped_after < STEPS
    newest = max((run_folder(tmp_path) / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{stopped_after:08d}"
    [hint] = [line for line in errors.splitlines() if line.strip().startswith("torchrun")]
    assert hint.strip().endswith("--resume")
    finish([*arguments, "--resume"], num_processes=2)
    assert_same_end(tmp_path, finished_by_two)


def test_a_signal_to_one_process_stops_all_at_the_same_step(tiny_world, tmp_path):
    gate = tmp_path / "gate"
    running = start_held(6, gate, *command(tiny_world, tmp_path), num_processes=2)
    wait_for_step(running, tmp_path, 5)
    running.signal(signal.SIGTERM)
    gate.touch()
    assert running.wait().code == 143
    assert [process.exitcode for process in running.processes] == [143, 143]


# Processes that are lost, and a folder that is taken


@pytest.fixture(scope="module")
def finished_by_two(tiny_world, tmp_path_factory) -> Path:
    """The run of two processes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("two")
    finish(command(tiny_world, folder), num_processes=2)
    return folder


def assert_the_second_is_named(errors: str) -> None:
    [error, hint] = errors.strip().splitlines()[-2:]
    assert re.search(r"error: .*: not every process of 2 answers \(.*Ranks 1 failed", error)
    assert "--resume" in hint
    assert "Traceback" not in errors


def train_and_hang_between_steps(marker: str, *arguments: str) -> None:
    """`train`, whose second process stops before its seventh step."""

    def stop() -> None:
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGSTOP)

    if os.environ["RANK"] == "1":
        held_steps.hold(6, stop)
    _main(*arguments)


@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_ends_the_run(tiny_world, finished_by_two, tmp_path):
    arguments = command(tiny_world, tmp_path, "train.timeout_seconds=4")
    stopped = tmp_path / "stopped"
    running = start_function(train_and_hang_between_steps, [str(stopped), *arguments], 2)
    first, _ = running.processes
    first.join(timeout=PATIENCE)
    waited = time.time() - stopped.stat().st_mtime
    code, errors = first.exitcode, (running.folder / "0.stderr").read_text(encoding="utf-8")
    running.kill()
    assert code == 1, errors
    assert waited >= 4
    assert_the_second_is_named(errors)
    finish([*arguments, "--resume"], num_processes=2)
    assert_same_end(tmp_path, finished_by_two)


def train_and_hang(*arguments: str) -> None:
    """`train`, whose second process stops in the middle of its fourth micro-batch."""
    forward = Distillation.forward
    calls = []

    def forward_or_hang(*given):
        calls.append(given)
        if os.environ["RANK"] == "1" and len(calls) == 4:
            os.kill(os.getpid(), signal.SIGSTOP)
        return forward(*given)

    Distillation.forward = forward_or_hang
    _main(*arguments)


@pytest.mark.slow
def test_a_process_that_hangs_within_a_step_is_named(tiny_world, finished_by_two, tmp_path):
    """The others wait for its gradients, in vain, and then look who is there."""
    arguments = command(tiny_world, tmp_path, "train.timeout_seconds=4")
    running = start_function(train_and_hang, arguments, num_processes=2)
    [first, _] = running.processes
    first.join(timeout=PATIENCE)
    code, errors = first.exitcode, (running.folder / "0.stderr").read_text(encoding="utf-8")
    running.kill()
    assert code == 1, errors
    assert re.search(
        r"error: after an exchange that failed: not every process of 2 answers", errors
    )
    assert "Ranks 1 failed" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_one_run_at_a_time_in_a_folder(tiny_world, undisturbed, tmp_path):
    """The second waits a while, says why, and harms nothing."""
    arguments, gate = command(tiny_world, tmp_path), tmp_path / "gate"
    running = start_held(3, gate, *arguments)
    wait_for_step(running, tmp_path, 3)
    second = run(*arguments, "--resume", "train.timeout_seconds=2")
    assert second.code == 2
    assert "another process is still in this folder; waiting" in second.stderr
    assert "another process trains here" in second.stderr
    gate.touch()
    assert running.wait().code == 0
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.slow
def test_processes_whose_torchrun_is_killed_stop_and_the_next_run_waits(tiny_world, tmp_path):
    finish(command(tiny_world, tmp_path / "undisturbed", "train.max_steps=60"), num_processes=2)
    arguments = command(tiny_world, tmp_path, "train.max_steps=60", "--resume")
    gate = tmp_path / "gate"
    with start_torchrun(8, gate, arguments) as torchrun:
        while last_step(run_folder(tmp_path)) < 5 and torchrun.poll() is None:
            time.sleep(0.001)
        orphans = psutil.Process(torchrun.pid).children(recursive=True)
        torchrun.kill()
    gate.touch()
    assert len(orphans) >= 2
    finish(arguments, num_processes=2)
    assert not psutil.wait_procs(orphans, timeout=PATIENCE)[1]
    assert weights(run_folder(tmp_path)) == weights(run_folder(tmp_path / "undisturbed"))
    records = metrics(run_folder(tmp_path))
    assert records == metrics(run_folder(tmp_path / "undisturbed"))


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
