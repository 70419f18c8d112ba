"""A signal stops a run with a checkpoint; resumed, it ends as if nothing had happened.

Real processes and real signals, which arrive before a step that is held until then.
"""

import shlex
import signal
import sys
import time

import held_steps
import pytest
from disturbed_runs import (
    STEPS,
    assert_same_end,
    command,
    finish,
    run_folder,
    stop_at,
    wait_for_step,
)
from forked_scripts import ROOT, ForkedPopen
from held_steps import start_held
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_experiments import environment, last_step, metrics


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_says_how_to_go_on(tiny_world, undisturbed, tmp_path):
    """The whole thing as a shell sees it, but that it waits for the signal before a step."""
    arguments = command(tiny_world, tmp_path, "train.save_every=1000", "train.log_every=1")
    errors, gate = tmp_path / "stderr", tmp_path / "gate"
    with errors.open("w") as stream:
        process = ForkedPopen(
            [sys.executable, held_steps.__file__, "6", str(gate), *arguments],
            env=environment() | {"PYTHONPATH": str(ROOT)},
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
def test_sigint_with_a_tracker(tiny_world, undisturbed, tmp_path):
    arguments = command(tiny_world, tmp_path, "train.trackers=[tensorboard]")
    stopped = stop_at(6, tmp_path, signal.SIGINT, *arguments)
    assert stopped.code == 130
    assert stopped.stdout == ""
    [events] = (run_folder(tmp_path) / "tiny").glob("events.out.tfevents.*")
    written = EventAccumulator(str(events)).Reload().Scalars("loss/total")
    assert [event.step for event in written] == list(range(1, last_step(run_folder(tmp_path)) + 1))
    finish(shlex.split(stopped.stderr.splitlines()[-1])[1:])
    assert_same_end(tmp_path, undisturbed)
    [_, events] = sorted((run_folder(tmp_path) / "tiny").glob("events.out.tfevents.*"))
    went_on = EventAccumulator(str(events)).Reload().Scalars("loss/total")
    steps = [event.step for event in (*written, *went_on)]
    assert steps == list(range(1, STEPS + 1))
