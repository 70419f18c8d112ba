"""`distilcli` that waits before a step until it is let go on: for whatever must find it training.

A run of these tests takes some milliseconds a step. Whoever waits for a step and then sends a
signal comes after the last step whenever the machine is busy; a run that is held cannot end first.

As a program, for torchrun: python held_steps.py STEP GATE ARGUMENTS
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_experiments import Running, _main, start_function

from distilcli.signals import StopSignals
from distilcli.training.steps import Stepper


def start_held(step: int, gate: Path, *arguments: str, num_processes: int = 1) -> Running:
    """Start `distilcli ARGUMENTS`; no process takes step `step`, from 0, until `gate` exists.

    It hears signals while it waits, and acts on them when it is let go on.
    """
    return start_function(held, [str(step), str(gate), *arguments], num_processes)


def held(step: str, gate: str, *arguments: str) -> None:
    """What a process of `start_held` does."""
    hold_until_open(int(step), gate)
    _main(*arguments)


def hold_until_open(step: int, gate: str) -> None:
    """Take no step from `step` on until the file `gate` exists.

    A signal that asks to stop makes the file `gate.told`.
    """
    hold(step, lambda: wait_for(Path(gate)))
    receive = StopSignals.receive

    def receive_and_tell(stop: StopSignals, *given: Any) -> None:
        receive(stop, *given)
        Path(f"{gate}.told").touch()

    StopSignals.receive = receive_and_tell


def hold(step: int, wait: Callable[[], None]) -> None:
    """Call a function before step `step`, from 0, and before every later one."""
    take = Stepper.take

    def take_later(stepper: Stepper, number: int, *rest: Any) -> Any:
        if number >= step:
            wait()
        return take(stepper, number, *rest)

    Stepper.take = take_later


def wait_for(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.005)


def start_held_in_a_checkpoint(number: int, marker: Path, *arguments: str) -> Running:
    """Start `distilcli ARGUMENTS`, which writes checkpoints up to a flush to disk, from 0.

    There it stays for good, and `marker` says so.
    """
    return start_function(held_in_a_checkpoint, [str(number), str(marker), *arguments])


def held_in_a_checkpoint(number: str, marker: str, *arguments: str) -> None:
    """What the process of `start_held_in_a_checkpoint` does."""
    flush, calls = os.fsync, []

    def flush_or_stay(descriptor: int) -> None:
        if threading.current_thread().name == "checkpoint":
            calls.append(descriptor)
        while len(calls) > int(number):
            Path(marker).touch()
            time.sleep(0.005)
        flush(descriptor)

    os.fsync = flush_or_stay
    _main(*arguments)


if __name__ == "__main__":
    held(*sys.argv[1:])
