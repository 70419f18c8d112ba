"""Runs of several processes that are stopped, hang or are lost; and two runs for one folder."""

import os
import signal
import time
from pathlib import Path

import held_steps
import psutil
import pytest
from disturbed_runs import (
    PATIENCE,
    STEPS,
    assert_same_end,
    command,
    finish,
    run_folder,
    start_torchrun,
    wait_for_step,
)
from held_steps import start_held
from tiny_experiments import _main, last_step, metrics, run, start_function, weights

from distilcli.distillation.loss_modules import Distillation


def everyone(family: psutil.Process) -> list[psutil.Process]:
    """As a scheduler sends a signal; torchrun then tells its processes once more."""
    return [family, *family.children(recursive=True)]


def the_second(family: psutil.Process) -> list[psutil.Process]:
    """One that says nothing itself; as soon as it has ended torchrun ends those that are left."""
    ranks = sorted(family.children(), key=lambda child: child.pid)
    assert len(ranks) == 2
    return ranks[1:]


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
    assert "error: step 7: of 2 processes, no answer from rank 1" in error
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
    assert "error: after an exchange that failed: of 2 processes, no answer from rank 1" in errors
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
