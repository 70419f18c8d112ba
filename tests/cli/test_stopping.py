"""Commands that are told to stop, wherever they are: one line, how to go on, and an exit code."""

import contextlib
import importlib
import os
import re
import shlex
import signal
import time
from pathlib import Path

import held_steps
import pytest
from tiny_experiments import Running, _main, last_step, metrics, run, start_function
from tiny_suites import regression_model, suite_file
from tiny_tasks import TinyTasks, make_tasks

from distilcli import signals

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGUSR1: 143}


def patiently(*arguments: str) -> None:
    """The command, to which all signals are one request, however slow the machine is."""
    signals._SECONDS_OF_ONE_REQUEST = 1e9
    _main(*arguments)


def stalled(place: str, marker: str, *arguments: str) -> None:
    """The command, which comes to a place in the first process and goes no further."""
    module, _, name = place.rpartition(".")

    def wait_for_ever(*_: object, **__: object) -> None:
        Path(marker).touch()
        while True:
            time.sleep(0.01)

    if os.environ.get("RANK", "0") == "0":
        setattr(importlib.import_module(module), name, wait_for_ever)
    patiently(*arguments)


def stop_at(
    place: str, marker: Path, number: int, *arguments: str, num_processes: int = 1
) -> Running:
    running = start_function(stalled, [place, str(marker), *arguments], num_processes)
    assert running.wait_until(marker.exists), running.wait()
    running.signal(number)
    return running


# While training


def patiently_held(gate: str, *arguments: str) -> None:
    """`patiently`, which does not take its fourth step before it has been told to stop."""
    held_steps.hold(3, lambda: held_steps.wait_for(Path(gate)))
    patiently(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_however_often_it_is_told(tiny_world, tmp_path, number):
    """The checkpoint, the line that says so and the exit code: signals rain until the end."""
    arguments = [
        "--config",
        str(tiny_world.config),
        f"output_dir={tmp_path}",
        "train.max_steps=500",
    ]
    folder, gate = tmp_path / "tiny", tmp_path / "gate"
    running = start_function(patiently_held, [str(gate), "train", *arguments])
    assert running.wait_until(lambda: last_step(folder) >= 3), running.wait()
    running.signal(number)
    gate.touch()
    while running.processes[0].is_alive():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            running.signal(number)
        time.sleep(0.02)
    stopped = running.wait()
    assert stopped.code == CODES[number]
    step = last_step(folder)
    assert 3 <= step < 500
    *_, said, hint = stopped.stderr.splitlines()
    assert said == (
        f"error: stopped by {number.name} after step {step}; "
        "a checkpoint is written, and this goes on from it:"
    )
    assert (folder / "checkpoints" / f"step-{step:08d}" / "student.safetensors").exists()
    assert hint == shlex.join(["distilcli", "train", *arguments, "--resume"])


def test_after_the_last_step_nothing_is_stopped(tiny_world, tmp_path):
    """The student is written, and that is all that was to do."""
    marker = tmp_path / "marker"
    settings = [f"output_dir={tmp_path}", "train.max_steps=2"]
    arguments = ["train", "--config", str(tiny_world.config), *settings]
    running = start_function(told_at_the_end, [str(marker), *arguments])
    finished = running.wait()
    assert marker.exists()
    assert (finished.code, "stopped" in finished.stderr) == (0, False)
    assert (tmp_path / "tiny" / "student" / "model.safetensors").exists()


def told_at_the_end(marker: str, *arguments: str) -> None:
    from distilcli.distillation import objective

    save = objective.save_model

    def tell(*given: object) -> None:
        Path(marker).touch()
        signal.raise_signal(signal.SIGTERM)
        save(*given)

    objective.save_model = tell
    patiently(*arguments)


# Before and beside training


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_before_the_first_step(tiny_world, tmp_path, number):
    settings = [f"output_dir={tmp_path}", "train.max_steps=2"]
    arguments = ["train", "--config", str(tiny_world.config), *settings]
    place = "distilcli.distillation.masked_lm.keep_or_save_initial_student"
    stopped = stop_at(place, tmp_path / "marker", number, *arguments).wait()
    assert stopped.code == CODES[number]
    hint = shlex.join(["distilcli", *arguments, "--resume"])
    assert stopped.stderr.splitlines() == [
        f"error: stopped by {number.name}; what is finished is kept, and this goes on from it:",
        hint,
    ]
    assert run(*shlex.split(hint)[1:]).code == 0
    assert len(metrics(tmp_path / "tiny")) == 2


def test_prepare_goes_on_from_its_shards(tiny_world, tmp_path):
    data = tiny_world.experiment()["data"] | {"store": str(tmp_path / "store")}
    config = tiny_world.write_config(tmp_path / "own.yaml", data=data)
    arguments = ["prepare", "--config", str(config), "--num-proc", "1"]
    place = "distilcli.corpus.prepare.Totals"
    stopped = stop_at(place, tmp_path / "marker", signal.SIGINT, *arguments)
    finished = stopped.wait()
    assert finished.code == 130
    assert finished.stderr.splitlines() == [
        "error: stopped by SIGINT; what is finished is kept, and this goes on from it:",
        shlex.join(["distilcli", *arguments]),
    ]
    [shard] = (tmp_path / "store" / "shards").iterdir()
    before = shard.stat().st_mtime_ns
    assert run(*arguments).code == 0
    assert shard.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("distilcli.cli.init_student.save_verified", ["init-student"]),
        ("distilcli.distillation.masked_lm.evaluate", ["eval", "TEACHER"]),
        ("distilcli.cli.train.preflight", ["train", "--dry-run"]),
    ],
)
def test_what_writes_nothing_on_the_way_starts_again(tiny_world, tmp_path, place, words):
    words = [str(tiny_world.teacher) if word == "TEACHER" else word for word in words]
    arguments = [*words, "--config", str(tiny_world.config), f"output_dir={tmp_path / 'runs'}"]
    stopped = stop_at(place, tmp_path / "marker", signal.SIGHUP, *arguments).wait()
    assert stopped.code == 129
    *_, said, hint = stopped.stderr.splitlines()
    assert said == "error: stopped by SIGHUP; the same command starts again:"
    assert hint == shlex.join(["distilcli", *arguments])
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def test_eval_on_a_task_and_a_suite(tasks, tmp_path):
    expert = str(regression_model(tmp_path / "expert", 1))
    config = str(tasks.write_config(tmp_path / "own.yaml", "regression"))
    suite = str(suite_file(tmp_path / "suite.yaml", tasks, "regression"))
    for place, words in (
        ("distilcli.evaluation.task.measured_outputs", ["eval", expert, "--config", config]),
        ("distilcli.cli.suite.look_at_rows", ["suite", suite]),
    ):
        marker = tmp_path / place
        stopped = stop_at(place, marker, signal.SIGTERM, *words).wait()
        assert stopped.code == 143
        *_, said, hint = stopped.stderr.splitlines()
        assert said == "error: stopped by SIGTERM; the same command starts again:"
        assert hint == shlex.join(["distilcli", *words])


# Several processes


def test_a_process_that_waits_for_the_first_one_stops_too(tiny_world, tmp_path):
    arguments = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    marker = tmp_path / "marker"
    place = "distilcli.distillation.masked_lm.keep_or_save_initial_student"
    running = start_function(stalled, [place, str(marker), *arguments], num_processes=2)
    assert running.wait_until(marker.exists), running.wait()
    second = running.processes[1].pid
    assert second is not None
    os.kill(second, signal.SIGTERM)
    running.processes[1].join(60)
    assert running.processes[1].exitcode == 143
    running.signal(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.code == 143
    # The first one alone speaks.
    assert stopped.stderr.count("stopped by SIGTERM") == 1
    assert stopped.stderr.splitlines()[-1].endswith("--resume")


def test_a_process_that_waits_for_one_that_is_gone(tiny_world, tmp_path):
    arguments = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    place = "distilcli.distillation.masked_lm.keep_or_save_initial_student"
    running = stop_at(place, tmp_path / "marker", signal.SIGINT, *arguments, num_processes=2)
    stopped = running.wait()
    assert [process.exitcode for process in running.processes] == [130, 1]
    assert "Traceback" not in stopped.stderr
    assert re.search(
        r"^error on rank 1: another process of the run ended before its first step \(",
        stopped.stderr,
        re.MULTILINE,
    )
