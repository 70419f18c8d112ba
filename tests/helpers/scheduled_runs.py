"""Runs of a suite with something in place of their processes."""

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_experiments import start
from tiny_suites import PAIRS, TAGS, runs_of

from distilcli.suites import runs
from distilcli.suites.plan import SuiteRun
from distilcli.suites.results import Results


class FakeJob:
    """A run that takes some looks, in the place of `_Job`.

    Attributes:
        started: every job so far.
        looks: by name of the run, how often it is asked before it has ended.
        failing: names of the runs that fail.
    """

    started: list["FakeJob"]
    looks: dict[str, int]
    failing: set[str]

    def __init__(self, run: SuiteRun, place: int, num_jobs: int, gpus: int) -> None:
        self.run, self.place, self.process = run, place, self
        self.left = self.looks.get(run.name, 1)
        self.signals: list[int] = []
        self.waited = self.finished = False
        self.started.append(self)

    def poll(self) -> int | None:
        if self.waited:
            return 0
        self.left -= 1
        return 0 if self.left < 0 else None

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def wait(self) -> int:
        self.waited = True
        return 0

    def finish(self) -> dict[str, float] | None:
        self.finished = True
        return None if self.run.name in self.failing else {"accuracy": self.run.seed / 8}

    @property
    def log(self) -> Path:
        return Path(f"{self.run.name}.log")

    def last_lines(self) -> list[str]:
        return ["the end of", self.run.name]


class Scheduled:
    """Runs that are taken with fake jobs, and what is checked between two looks."""

    def __init__(self, runs: list[SuiteRun], num_jobs: int, looks: list[int], failing: set[str]):
        self.runs, self.num_jobs, self.failing = runs, num_jobs, failing
        names = [run.name for run in runs]
        own = {"started": [], "failing": failing, "looks": dict(zip(names, looks, strict=False))}
        self.job_class = type("Job", (FakeJob,), own)
        self.notes: list[str] = []
        self.at_look: list[Any] = []

    @property
    def started(self) -> list[FakeJob]:
        return self.job_class.started

    def take(self) -> tuple[Results, list[str]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "_Job", self.job_class)
            patch.setattr(runs, "time", SimpleNamespace(sleep=self.look))
            return runs.take(self.runs, self.num_jobs, 0, self.notes.append)

    def look(self, _seconds: float) -> None:
        """Between two looks: as many run as can, each at a place of its own."""
        running = [job for job in self.started if not job.finished]
        done = {job.run.name for job in self.started if job.finished} - self.failing
        names = {job.run.name for job in self.started}
        ready = [
            run
            for run in self.runs
            if run.name not in names
            and (not run.needs_teacher or f"{run.task}/teacher-{run.seed}" in done)
        ]
        assert len(running) <= self.num_jobs
        assert len(running) == self.num_jobs or not ready
        places = [job.place for job in running]
        assert len(set(places)) == len(places)
        assert set(places) <= set(range(self.num_jobs))
        for action in self.at_look:
            action()


MIXED = {
    "output_dir": "nowhere",
    "tasks": {"pairs": {"task": PAIRS}, "tags": {"task": TAGS, "teacher": "expert"}},
    "baselines": {"other": {"kind": "checkpoint", "model": "m"}},
}
MIXED_RUNS = list(runs_of(seeds=2, **MIXED).values())


class Forked:
    """In place of `subprocess.Popen`: the command in a process that has imported everything."""

    def __init__(self, words: list[str], stderr: Any, **_: Any) -> None:
        assert words[:3] == [sys.executable, "-m", "distilcli"]
        self.running = start(*words[3:])
        self.log = Path(stderr.name)
        self.returncode: int | None = None
        self.stdout: io.StringIO | None = None

    def poll(self) -> int | None:
        if self.returncode is None and not self.running.processes[0].is_alive():
            self.wait()
        return self.returncode

    def wait(self) -> None:
        if self.returncode is None:
            finished = self.running.wait()
            self.log.write_text(finished.stderr, encoding="utf-8")
            self.returncode, self.stdout = finished.code, io.StringIO(finished.stdout)

    def send_signal(self, number: int) -> None:
        self.running.signal(number)


def started_as(popen: type) -> SimpleNamespace:
    """What a suite uses of `subprocess`, with something in place of `Popen`."""
    return SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE)
