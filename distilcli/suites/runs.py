"""Taking the runs of a suite: each in a process of its own, several at a time, none twice.

A run is `distilcli train --resume`; when it is done its scores are written beside its student, and
its checkpoints and its teacher's outputs go. Whoever starts the suite again takes only what has no
scores yet.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import Accelerator

from distilcli.config.experiment import BaseExperiment, TaskExperiment
from distilcli.config.models import TaskTeacher
from distilcli.config.reading import dump
from distilcli.config.suite import TEACHER, Suite
from distilcli.config.yaml_tree import read_yaml
from distilcli.distillation.identity import changed
from distilcli.distillation.task_parts import open_task_of
from distilcli.distillation.tasks import identity_of_models
from distilcli.distillation.teacher_outputs import remove_outputs
from distilcli.errors import (
    ConfigError,
    DistilError,
    Interrupted,
    ModelError,
    RunFolderError,
    WriteError,
)
from distilcli.evaluation.calibration import reliability_of
from distilcli.evaluation.dev_examples import measured_outputs
from distilcli.files.atomic import recover_all, unwritten, write_atomically
from distilcli.files.json_text import parse_json, to_json
from distilcli.models.task_models import load_finetuned_teacher
from distilcli.signals import StopSignals, exit_signal
from distilcli.suites.plan import SuiteRun
from distilcli.suites.results import Results, shown
from distilcli.training import checkpoints
from distilcli.training.processes import single_accelerator
from distilcli.training.run_folder import RunFolder

_SECONDS_BETWEEN_LOOKS = 0.2
_LAST_LINES = 5


def take(
    runs: list[SuiteRun], num_jobs: int, gpus: int, on_note: Callable[[str], None]
) -> tuple[Results, list[str]]:
    """Take all runs that are not done, and give the scores of all.

    Args:
        runs: in this order, as far as their teachers are there.
        num_jobs: how many at a time.
        gpus: over which they are spread; 0: they share the cores.
        on_note: told what begins and ends.

    Returns:
        Scores, and the names of the runs that failed or whose teacher did.

    Raises:
        Interrupted: a signal came; what was running has stopped after a checkpoint.
    """
    results: Results = {}
    waiting = []
    for run in runs:
        scores = finished_scores(run)
        if scores is None:
            waiting.append(run)
        else:
            results[run.task, run.model, run.seed] = scores
    on_note(f"{len(results)} runs are done, {len(waiting)} are to do, {num_jobs} at a time")
    failed: list[SuiteRun] = []
    running: dict[int, _Job] = {}  # by place: the GPU, or the share of the cores
    with StopSignals().listening() as stop, _ending(running):
        while waiting or running:
            _start_what_can(waiting, running, failed, results, num_jobs, gpus, on_note)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            if stop.received:
                _stop_all(running)
                raise Interrupted(
                    "stopped; what was running has a checkpoint, and this goes on from it:",
                    "distilcli suite",
                    exit_signal(stop.received),
                )
            for place, job in list(running.items()):
                if job.process.poll() is None:
                    continue
                del running[place]
                scores = job.finish()
                if scores is None:
                    failed.append(job.run)
                    on_note(f"{job.run.name} failed: see {job.log}")
                    for line in job.last_lines():
                        on_note(f"  {line}")
                else:
                    results[job.run.task, job.run.model, job.run.seed] = scores
                    on_note(f"{job.run.name}: {_said(scores)}, {len(waiting)} to do")
    return results, [run.name for run in failed]


def _start_what_can(
    waiting: list[SuiteRun],
    running: "dict[int, _Job]",
    failed: list[SuiteRun],
    results: Results,
    num_jobs: int,
    gpus: int,
    on_note: Callable[[str], None],
) -> None:
    """Fill the free places with runs whose teachers are there; give up those whose failed."""
    gone = {(run.task, run.seed) for run in failed if run.model == TEACHER}
    for run in [run for run in waiting if run.needs_teacher and (run.task, run.seed) in gone]:
        waiting.remove(run)
        failed.append(run)
        on_note(f"{run.name} is given up: its teacher failed")
    for place in range(num_jobs):
        if place in running:
            continue
        for run in waiting:
            if not run.needs_teacher or (run.task, TEACHER, run.seed) in results:
                waiting.remove(run)
                running[place] = _Job(run, place, num_jobs, gpus)
                break


def _said(scores: dict[str, float]) -> str:
    if not scores:
        return "done"  # without anything that it could be measured on
    name, value = next(iter(scores.items()))
    return f"{name} {shown(name, value)}"


@contextmanager
def _ending(running: "dict[int, _Job]") -> Iterator[None]:
    """Whatever goes wrong here, no run goes on unseen."""
    try:
        yield
    finally:
        _stop_all(running)


def _stop_all(running: "dict[int, _Job]") -> None:
    for job in running.values():
        if job.process.poll() is None:
            job.process.send_signal(signal.SIGTERM)
    for job in running.values():
        job.process.wait()


class _Job:
    """A run in a process of its own; what it says goes to a file."""

    def __init__(self, run: SuiteRun, place: int, num_jobs: int, gpus: int) -> None:
        self.run = run
        folder = run.experiment.run_folder
        config, self.log = _files_beside(run)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(config, dump(run.experiment))
            log = self.log.open("w", encoding="utf-8")
        except OSError as error:
            raise unwritten(
                f"{folder.parent}:", error, ConfigError, "Choose another folder with --output."
            ) from error
        environment = dict(os.environ)
        if gpus:
            # Of the GPUs that we were given, which need not be the first.
            given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            names = given.split(",") if given else [str(index) for index in range(gpus)]
            environment["CUDA_VISIBLE_DEVICES"] = names[place % len(names)]
        elif num_jobs > 1:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // num_jobs))
        words = ["train", "--config", str(config), "--resume", "--json"]
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "distilcli", *words],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,  # a Ctrl-C is passed on once, by us
            )

    def finish(self) -> dict[str, float] | None:
        """The scores, written beside the student; None if the run failed."""
        assert self.process.stdout is not None
        with self.process.stdout as output:
            said = output.read()
        if self.process.returncode != 0:
            return None
        held_out = parse_json(said)["held_out"]
        scores = {key.removeprefix("held_out/"): value for key, value in held_out.items()}
        write_scores(self.run, scores)
        experiment = self.run.experiment
        with suppress(OSError, WriteError):  # what cannot be removed, or is not ours, stays
            checkpoints.remove_all(RunFolder(experiment.run_folder).checkpoints)
            teacher = experiment.teacher
            if self.run.needs_teacher and isinstance(teacher, TaskTeacher) and teacher.cache:
                remove_outputs(Path(teacher.cache))  # of this run alone
        return scores

    def last_lines(self) -> list[str]:
        """The end of what it said."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]


def _scores_file(run: SuiteRun) -> Path:
    return RunFolder(run.experiment.run_folder).scores


def write_scores(run: SuiteRun, scores: dict[str, float]) -> None:
    """Write the scores of a finished run, which is not taken again then."""
    path = _scores_file(run)
    try:
        write_atomically(path, to_json(scores, indent=1) + "\n")
    except OSError as error:
        raise unwritten(
            f"{path}:", error, WriteError, "Free disk space, then start the suite again."
        ) from error


def _files_beside(run: SuiteRun) -> tuple[Path, Path]:
    """What lies beside a run's folder: its experiment, and what it said."""
    folder = run.experiment.run_folder
    return folder.with_name(f"{folder.name}.yaml"), folder.with_name(f"{folder.name}.log")


def _refuse_foreign(run: SuiteRun) -> None:
    """Refuse to replace files beside a run's folder that have our names and are not ours."""
    config, log = _files_beside(run)
    try:
        tree = read_yaml(config, "") if config.exists() else {}
    except ConfigError:
        tree = {}
    if {"name", "output_dir", "train"} <= tree.keys() and tree["name"] == run.experiment.name:
        return
    for path in (config, log):
        if path.exists():
            raise RunFolderError(
                f"{path}: not replaced, because nothing in it says that distilcli wrote it",
                "Choose another folder with --output, or move that file elsewhere.",
            )


def recover_runs(folder: Path, runs: list[SuiteRun]) -> None:
    """Clear what a killed suite left half written in its folder and beside its runs."""
    folders = {run.experiment.run_folder for run in runs}
    for path in sorted({folder, *folders, *(run_folder.parent for run_folder in folders)}):
        recover_all(path)


def finished_scores(run: SuiteRun) -> dict[str, float] | None:
    """The scores of a run that is finished, else None.

    Raises:
        RunFolderError: it was made with other settings or models, or files of someone else have its
            names.
        DistilError: its scores cannot be read.
    """
    path = _scores_file(run)
    _refuse_foreign(run)
    folder = RunFolder(run.experiment.run_folder)
    folder.check(run.experiment, resume=True, force=False)
    try:
        scores: dict[str, float] = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DistilError(f"{path}: cannot be read ({error})", "Remove it.") from error
    _refuse_other_models(run, folder)
    return scores


def _refuse_other_models(run: SuiteRun, folder: RunFolder) -> None:
    """Refuse the scores of a run whose teacher or first weights are others by now.

    The rows are not compared: reading those of every task would take minutes before each suite.
    """
    try:
        now = identity_of_models(run.experiment)
    except ModelError:
        return  # gone, as a teacher may be once its students are trained
    differing = changed(folder.read_identity() or {}, now)
    if differing:
        raise RunFolderError(
            f"{folder.root}: its scores are of other models: {', '.join(differing)} changed since",
            "Remove that folder, and the run is taken again; or put back what changed.",
        )


def measure_teachers(suite: Suite, runs: list[SuiteRun], results: Results) -> None:
    """Add the scores of teachers that were fine-tuned before, the same for every seed."""
    accelerator = single_accelerator()
    for name, task in suite.tasks.items():
        students = [run for run in runs if run.task == name and run.experiment.teacher is not None]
        if task.teacher is None or not students:
            continue
        scores = _teacher_scores(students[0].experiment, accelerator)
        results |= {(name, TEACHER, run.seed): scores for run in students}


def _teacher_scores(experiment: BaseExperiment, accelerator: Accelerator) -> dict[str, float]:
    assert isinstance(experiment, TaskExperiment)
    task = open_task_of(experiment)
    teacher = load_finetuned_teacher(experiment, task)
    assert teacher is not None
    assert experiment.teacher is not None
    tokens = experiment.train.tokens_per_micro_batch
    name = f"teacher {experiment.teacher.model}"
    outputs = measured_outputs(task, teacher, accelerator, tokens, name)
    decisions = task.decisions(outputs)
    beside = {} if decisions is None else reliability_of(decisions, decisions).known()
    return task.ordered_scores(outputs) | beside
