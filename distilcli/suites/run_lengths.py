"""How long runs were, from what they wrote down of each step."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from distilcli.errors import DistilError
from distilcli.files.json_text import parse_json
from distilcli.suites.plan import SuiteRun
from distilcli.training.run_folder import RunFolder

# Of a run that only shows how long a step takes: steps, and steps between two looks at the clock.
# The first look is at steps in which things are loaded and compiled, the last has the validation.
PROBE_STEPS, PROBE_EVERY = 40, 10


@dataclass(frozen=True)
class RunLength:
    """What a run has trained for.

    Attributes:
        steps: optimiser steps.
        tokens: that it has trained on.
        seconds: of training, without the start.
    """

    steps: int
    tokens: int
    seconds: float


def length_of(run: SuiteRun) -> RunLength:
    """How long a finished run was.

    Raises:
        DistilError: its records cannot be read.
    """
    return _length(_records(run))


def seconds_per_step(probe: SuiteRun) -> float:
    """How long a step takes, as a finished probe has it.

    Raises:
        DistilError: its records cannot be read.
    """
    clean = range(PROBE_EVERY + 1, PROBE_STEPS - PROBE_EVERY + 1)
    length = _length(record for record in _records(probe) if record["step"] in clean)
    return length.seconds / len(clean)


def steps_within(seconds: float, probe: SuiteRun) -> int:
    """How many steps fit into some seconds of training; 1 at least.

    Raises:
        DistilError: the probe's records cannot be read.
    """
    return max(1, round(seconds / seconds_per_step(probe)))


def _length(records: Iterable[dict[str, Any]]) -> RunLength:
    """Of an interval between two looks at the clock, all records have the same speed."""
    steps, tokens, seconds = 0, 0, 0.0
    for speed, interval in itertools.groupby(records, lambda one: one["speed/tokens_per_second"]):
        counts = [record["speed/tokens"] for record in interval]
        steps += len(counts)
        tokens += sum(counts)
        seconds += sum(counts) / speed
    return RunLength(steps, tokens, seconds)


def _records(run: SuiteRun) -> list[dict[str, Any]]:
    path = RunFolder(run.experiment.run_folder).metrics
    try:
        return [parse_json(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise DistilError(
            f"{path}: cannot be read ({error})", "Remove the folder of that run, and start again."
        ) from error
