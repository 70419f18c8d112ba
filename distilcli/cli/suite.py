"""`distilcli suite`: what teacher and students reach on tasks, over several seeds."""

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from distilcli.cli import ablation
from distilcli.cli.console import Console
from distilcli.cli.results import show_and_write
from distilcli.config.experiment import TaskExperiment
from distilcli.config.reading import build, load_of_run, masked_lm_only
from distilcli.config.suite import DISTILLED, STUDENT, TEACHER, Suite
from distilcli.config.tasks import GlueName
from distilcli.distillation.task_rows import look_at_rows
from distilcli.errors import ConfigError, DistilError, ModelError
from distilcli.evaluation.calibration import RELIABILITY_TITLES
from distilcli.files.json_text import to_json
from distilcli.suites.ablations import is_ablation
from distilcli.suites.plan import SUITES, SuiteRun, builtin_suite, load_suite, plan
from distilcli.suites.published import GLUE_MACRO, SQUAD_DISTILLED, SQUAD_EXACT_MATCH
from distilcli.suites.reliability import add_reliability
from distilcli.suites.results import table
from distilcli.suites.runs import finished_scores, measure_teachers, recover_runs, take
from distilcli.training.folder_checks import check_apart, check_places
from distilcli.training.results_file import check_results
from distilcli.training.run_folder import RunFolder
from distilcli.training.run_lock import locked_run


@dataclass(frozen=True)
class WantedSuite:
    """The command line.

    Attributes:
        suite: name of a built-in suite, or a file.
        data: folder with the data of a built-in suite; None: the hub.
        models: the student of a built-in suite (or a run, whose student and teacher are meant),
            then other models to fine-tune beside it.
        teacher: of a built-in suite.
        seeds: how many.
        jobs: runs at a time; None: one a GPU, or one.
        output: folder of the suite; None: as the suite says.
    """

    suite: str
    data: Path | None
    models: Sequence[str]
    teacher: str | None
    seeds: int
    jobs: int | None
    output: Path | None


def run(wanted: WantedSuite, overrides: list[str], console: Console) -> None:
    """Take the runs of a suite that are not done, then show all of them."""
    if "LOCAL_RANK" in os.environ:
        raise ConfigError(
            "a suite starts processes of its own", "Start it plainly; --jobs says how many."
        )
    overrides = [*overrides, *_place(wanted)]
    if _is_ablation(wanted):
        ablation.run(Path(wanted.suite), wanted.seeds, wanted.jobs, overrides, console)
        return
    suite, where = _suite(wanted, overrides, console)
    runs = plan(suite, wanted.seeds, where, overrides)
    for run_of_suite in runs:
        check_places(run_of_suite.experiment)
    if wanted.data is not None:
        check_apart({"the suite's folder": suite.folder}, {"--data": wanted.data})
    check_results(suite.folder)
    with locked_run(
        suite.folder, 0.0, console.note
    ):  # a suite at a time: they would mix their runs
        recover_runs(suite.folder, runs)
        _take(suite, runs, wanted.jobs, console)


def _take(suite: Suite, runs: list[SuiteRun], jobs: int | None, console: Console) -> None:
    _check_rows(runs, console)
    gpus = torch.cuda.device_count()
    results, failed = take(runs, jobs or gpus or 1, gpus, console.note)
    try:
        measure_teachers(suite, runs, results)
    except DistilError as error:  # what was run for hours is shown all the same
        console.warn(error.message)
        failed.append("a teacher that is fine-tuned already")
    add_reliability(suite, runs, results, console.note, console.warn)
    record = table(suite, results)
    record = show_and_write(record, suite.folder, lambda: _show(record, console), console)
    if failed:
        failure = DistilError(
            f"{len(failed)} runs failed: {', '.join(failed)}",
            f"Each has a .log in {suite.folder}; remove the cause and start the suite again.",
        )
        console.result(record | failure.record())
        raise failure
    console.result(record)


def _place(wanted: WantedSuite) -> list[str]:
    """The folder that is asked for, as overrides."""
    if wanted.output is None:
        return []
    # Quoted, since override values are YAML: a folder may be called 2024.
    place = {"output_dir": str(wanted.output.parent), "name": wanted.output.name}
    return [f"{key}={to_json(value)}" for key, value in place.items()]


def _is_ablation(wanted: WantedSuite) -> bool:
    """Whether an ablation is named, and no suite of tasks; ConfigError: neither is."""
    if wanted.suite in SUITES:
        return False
    where = Path(wanted.suite)
    if not where.is_file():
        raise ConfigError(
            f"suite {wanted.suite}: there is no such suite and no such file",
            f"Give one of {', '.join(SUITES)}, or a file.",
        )
    if wanted.models or wanted.teacher or wanted.data:
        raise ConfigError(
            "the file of a suite names its models and data", "Override them: teacher=..."
        )
    return is_ablation(where)


def _suite(wanted: WantedSuite, overrides: list[str], console: Console) -> tuple[Suite, Path]:
    where = Path(wanted.suite)
    if wanted.suite not in SUITES:
        return load_suite(where, overrides), where
    teacher, student, others = _models(wanted)
    section = {"kind": "checkpoint", "model": student}
    tree, left_out = builtin_suite(wanted.suite, wanted.data, teacher, section)
    baselines = {
        label: {"kind": "checkpoint", "model": model} for label, model in _labelled(others).items()
    }
    if any(word.startswith("train.num_epochs=") for word in overrides):
        for task in tree["tasks"].values():  # what is asked for wins over our own choice
            task.pop("train", None)
    for name in left_out:
        console.note(f"{wanted.data}: no folder {name}; that task is left out")
    suite = build(tree | {"baselines": baselines}, overrides, lambda _: Suite, where)
    assert isinstance(suite, Suite)
    return suite, where


def _models(wanted: WantedSuite) -> tuple[str, str, Sequence[str]]:
    """Teacher, student and others."""
    if not wanted.models:
        raise ConfigError(
            f"suite {wanted.suite}: no student", "Name a run folder, or a model and --teacher."
        )
    first, *others = wanted.models
    teacher = wanted.teacher
    own = RunFolder(Path(first))
    if own.experiment.exists():
        experiment = masked_lm_only(load_of_run(own.experiment), own.experiment)
        teacher = teacher or (experiment.teacher.model if experiment.teacher else None)
        first = _student_of(first)
    if teacher is None:
        raise ConfigError(f"suite {wanted.suite}: no teacher", "Name one with --teacher.")
    return teacher, first, others


def _student_of(name: str) -> str:
    """A model's own name, or the trained student of a run folder."""
    own = RunFolder(Path(name))
    if not own.experiment.exists():
        return name
    if not own.student.exists():
        raise ModelError(f"{name}: this run has no student yet", "Train it to its end.")
    return str(own.student)


def _labelled(names: Sequence[str]) -> dict[str, str]:
    """A label for each model, which can be a folder's name and is no other's."""
    labels: dict[str, str] = {}
    taken = {TEACHER, STUDENT, DISTILLED}
    for name in names:
        own = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name).lstrip("._-")[:100] or "model"
        tries = (own if count == 1 else f"{own}-{count}" for count in itertools.count(1))
        label = next(one for one in tries if one not in taken)
        taken.add(label)
        labels[label] = _student_of(name)
    return labels


def _check_rows(runs: list[SuiteRun], console: Console) -> None:
    """Read the rows of every task that still has runs, so that mistakes are found early."""
    names = dict.fromkeys(run.task for run in runs if finished_scores(run) is None)
    for name in names:
        console.note(f"{name}: looking at its rows")
        experiment = next(r.experiment for r in runs if r.task == name and not r.needs_teacher)
        assert isinstance(experiment, TaskExperiment)
        try:
            look_at_rows(experiment, console)
        except DistilError as error:  # whose hints are of one experiment
            raise error.reworded({" task.": f" tasks.{name}.task."}) from error


def _show(record: dict[str, Any], console: Console) -> None:
    """A table that fits a terminal: a row for each task, a column for each model."""
    tasks, macro = record["tasks"], record["macro"]
    models = list(dict.fromkeys(model for task in tasks.values() for model in task["models"]))
    rows = []
    for name, task in tasks.items():
        found, score = task["models"], _score_of(task)
        known = task.get("published")
        published = " / ".join(f"{value:g}" for value in known.values()) if known else "-"
        rows.append([name, score, *(_cell(found.get(model)) for model in models), published])
    if macro:
        cells = [_cell({"median": macro[model]["mean"]} | macro[model]) for model in models]
        whole = len(tasks) == len(get_args(GlueName)) and all(t["is_glue"] for t in tasks.values())
        published = " / ".join(f"{value:g}" for value in GLUE_MACRO) if whole else "-"
        rows.append(["mean", f"{macro['tasks']} tasks", *cells, published])
    title = f"{record['suite']}: dev scores (percent kept of the teacher's), medians over seeds"
    console.table(title, ["task", "score", *models, "published"], rows)
    ranges = [
        [name, *(_range(task["models"].get(model)) for model in models)]
        for name, task in tasks.items()
    ]
    if any(cell != "-" for row in ranges for cell in row[1:]):
        console.table("lowest - highest (seeds)", ["task", *models], ranges)
    beside = [
        [name, *(_reliability(task["models"].get(model)) for model in models)]
        for name, task in tasks.items()
    ]
    if any(cell != "-" for row in beside for cell in row[1:]):
        title = f"{' / '.join(RELIABILITY_TITLES.values())} in percent, medians over seeds"
        console.table(title, ["task", *models], beside)
    console.say(
        "student: fine-tuned on labels alone; distilled: from the fine-tuned teacher; published: "
        "BERT-base / DistilBERT on the whole data (Sanh et al. 2019)"
    )
    of_one = [
        f"{task['positive']} ({name})"
        for name, task in tasks.items()
        if task["positive"] is not None and _score_of(task) in ("f1", "accuracy_f1")
    ]
    if of_one:
        console.say(f"F1 is of the class {', '.join(of_one)}")
    if "SQuAD" in tasks:
        console.say(
            f"SQuAD there: exact match {SQUAD_EXACT_MATCH.bert} and "
            f"{SQUAD_EXACT_MATCH.distilbert}; DistilBERT with task distillation "
            f"{SQUAD_DISTILLED[0]}, F1 {SQUAD_DISTILLED[1]}"
        )


def _score_of(task: dict[str, Any]) -> str:
    """By which the models of one task are compared; - where no run is done."""
    return next((str(summary["score"]) for summary in task["models"].values()), "-")


def _cell(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "-"
    # Without the sign, in a column that a table of 80 characters has room for.
    kept = f" ({100 * summary['retained']:.1f})" if "retained" in summary else ""
    return f"{100 * summary['median']:.1f}{kept}"


def _reliability(summary: dict[str, Any] | None) -> str:
    if summary is None or not summary["reliability"]:
        return "-"
    found = (summary["reliability"].get(key) for key in RELIABILITY_TITLES)
    return " / ".join("-" if value is None else f"{100 * value:.1f}" for value in found)


def _range(summary: dict[str, Any] | None) -> str:
    if summary is None or len(summary["seeds"]) == 1:
        return "-"
    lowest, highest = (f"{100 * summary[key]:.1f}" for key in ("lowest", "highest"))
    return f"{lowest} - {highest} ({len(summary['seeds'])})"
