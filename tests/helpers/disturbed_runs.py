"""Runs of the tiny experiment that are killed or stopped, and what must be the same in the end."""

import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import held_steps
from forked_scripts import ROOT, ForkedPopen
from held_steps import start_held
from tiny_experiments import (
    Finished,
    Running,
    TinyWorld,
    environment,
    last_step,
    metrics,
    run,
    weights,
)

STEPS = 24  # train.max_steps of the tiny experiment, which saves every 4 and validates every 6
PATIENCE = 600.0  # seconds, for what is to end by itself


def command(world: TinyWorld, folder: Path, *more: str) -> list[str]:
    """`train` with its run folder in `folder`."""
    return ["train", "--config", str(world.config), f"output_dir={folder}", *more]


def run_folder(folder: Path) -> Path:
    return folder / "tiny"


def start_torchrun(
    step: int, gate: Path, command: list[str], stderr: int | IO[str] = subprocess.DEVNULL
) -> ForkedPopen:
    """The command as two processes of torchrun, which wait for a gate before a step."""
    return ForkedPopen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", held_steps.__file__, str(step), str(gate), *command),
        ],
        env=environment() | {"PYTHONPATH": str(ROOT)},
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
