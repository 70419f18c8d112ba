"""`distilcli suite` of an ablation: a base experiment and changes of it, over several seeds."""

import os
from pathlib import Path
from typing import Any

import torch

from distilcli.cli.console import Console
from distilcli.cli.results import show_and_write
from distilcli.config.ablation import BASE, Ablation
from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.run_kinds import kind_of
from distilcli.distillation.task_rows import look_at_rows
from distilcli.errors import DistilError
from distilcli.evaluation.result import duration, is_share
from distilcli.files.json_text import to_json
from distilcli.suites.ablation_results import ablation_table
from distilcli.suites.ablations import load_ablation, plan_ablation, plan_probes
from distilcli.suites.plan import SuiteRun
from distilcli.suites.results import Results, shown
from distilcli.suites.run_lengths import RunLength, length_of, seconds_per_step, steps_within
from distilcli.suites.runs import finished_scores, recover_runs, take
from distilcli.training.folder_checks import check_places
from distilcli.training.results_file import check_results
from distilcli.training.run_lock import locked_run

# Of masked-LM training those that say most, in this order; of a task the first ones.
_SHOWN = ("accuracy", "agreement", "loss")


# What the data of a run do not depend on; all else may decide which tokens it reads.
_NOT_DATA = {"name", "output_dir", "seed", "loss", "optim", "train", "validation"}


def run(path: Path, seeds: int, jobs: int | None, overrides: list[str], console: Console) -> None:
    """Take the runs of an ablation that are not done, then show all of them."""
    ablation = load_ablation(path, overrides)
    timed = ablation.equal == "seconds"
    # Until the probes have run, nobody knows how long the runs are; all else is checked now.
    any_length = dict.fromkeys((BASE, *ablation.changes), 1) if timed else None
    runs = plan_ablation(ablation, seeds, path, overrides, any_length)
    probes = plan_probes(ablation, path, overrides) if timed else []
    for run_of_ablation in (*probes, *runs):
        check_places(run_of_ablation.experiment)
    check_results(ablation.folder)
    with locked_run(ablation.folder, 0.0, console.note):
        recover_runs(ablation.folder, [*probes, *runs])
        if timed:
            steps = _steps_of(ablation, probes, jobs, console)
            runs = plan_ablation(ablation, seeds, path, overrides, steps)
        _prepare(runs, console)
        results, failed = _take(runs, jobs, console)
    record = ablation_table(ablation, results, _lengths(runs, results, console))
    if timed:
        record["seconds_per_step"] = {probe.model: seconds_per_step(probe) for probe in probes}
    record = show_and_write(record, ablation.folder, lambda: _show(record, console), console)
    if failed:
        failure = _failure(failed, ablation)
        console.result(record | failure.record())
        raise failure
    console.result(record)


def _take(runs: list[SuiteRun], jobs: int | None, console: Console) -> tuple[Results, list[str]]:
    gpus = torch.cuda.device_count()
    return take(runs, jobs or gpus or 1, gpus, console.note)


def _lengths(
    runs: list[SuiteRun], results: Results, console: Console
) -> dict[tuple[str, int], RunLength]:
    """How long the runs that are done were, as far as that is known."""
    lengths = {}
    for run in runs:
        if (run.task, run.model, run.seed) in results:
            try:
                lengths[run.model, run.seed] = length_of(run)
            except DistilError as error:  # what was trained for hours is shown all the same
                console.warn(error.message)
    return lengths


def _failure(failed: list[str], ablation: Ablation) -> DistilError:
    return DistilError(
        f"{len(failed)} runs failed: {', '.join(failed)}",
        f"Each has a .log in {ablation.folder}; remove the cause and start the ablation again.",
    )


def _steps_of(
    ablation: Ablation, probes: list[SuiteRun], jobs: int | None, console: Console
) -> dict[str, int]:
    """How many steps of each change fit into the budget, which short runs show."""
    assert ablation.budget is not None
    _prepare(probes, console)
    _, failed = _take(probes, jobs, console)
    if failed:
        raise _failure(failed, ablation)
    steps = {probe.model: steps_within(ablation.budget, probe) for probe in probes}
    for name, number in steps.items():
        console.note(f"{name}: {number:,} steps in {duration(ablation.budget)}")
    return steps


def _prepare(runs: list[SuiteRun], console: Console) -> None:
    """Make the data of all runs, or look at it, before any of them starts."""
    seen = set()
    for run in runs:
        data = to_json(run.experiment.model_dump(mode="json", exclude=_NOT_DATA), sort_keys=True)
        if data in seen or finished_scores(run) is not None:
            continue
        seen.add(data)
        if isinstance(run.experiment, TaskExperiment):
            look_at_rows(run.experiment, console)
        else:
            kind_of(run.experiment).prepare(os.cpu_count() or 1, console)


# What people see


def _show(record: dict[str, Any], console: Console) -> None:
    """Medians, ranges and differences to the base: a table each, a row for each change."""
    changes = record["changes"]
    if not changes:
        return
    scores = _scores_shown(changes)
    rows = [[name, *_medians(scores, one)] for name, one in changes.items()]
    title = f"{record['ablation']}: medians over seeds (shares in percent, losses in nats)"
    console.table(title, ["change", *scores, "steps", "tokens", "time"], rows)
    ranges = [[name, *(_range(score, one) for score in scores)] for name, one in changes.items()]
    if any(cell != "-" for row in ranges for cell in row[1:]):
        console.table("lowest - highest (seeds)", ["change", *scores], ranges)
    _show_differences(changes, scores, console)
    if record["published"]:
        console.say(f"paper: {record['published']}")


def _show_differences(changes: dict[str, Any], scores: list[str], console: Console) -> None:
    compared = {name: one for name, one in changes.items() if one.get("differences")}
    if not compared:
        return
    paper = ["paper"] if any("published" in one for one in compared.values()) else []
    rows = []
    for name, one in compared.items():
        cells = [_difference(score, one["differences"].get(score)) for score in scores]
        rows.append([name, *cells, *(_signed(one.get("published")) for _ in paper)])
    title = "difference to the base, mean over seeds with its 95 % interval"
    console.table(title, ["change", *scores, *paper], rows)


def _scores_shown(changes: dict[str, Any]) -> list[str]:
    """Three scores at most, which every change has."""
    first, *others = (list(one["scores"]) for one in changes.values())
    common = [score for score in first if all(score in other for other in others)]
    if {"loss", "accuracy"} <= set(common):
        return [score for score in _SHOWN if score in common]
    return common[:3]


def _medians(scores: list[str], change: dict[str, Any]) -> list[str]:
    medians = [shown(score, change["scores"][score]["median"]) for score in scores]
    length = change["length"]
    if length is None:
        return [*medians, "-", "-", "-"]
    counts = [f"{length[key]:,.0f}" for key in ("steps", "tokens")]
    return [*medians, *counts, duration(length["seconds"])]


def _range(score: str, change: dict[str, Any]) -> str:
    summary = change["scores"][score]
    if len(summary["seeds"]) == 1:
        return "-"
    lowest, highest = (shown(score, summary[key]) for key in ("lowest", "highest"))
    return f"{lowest} - {highest} ({len(summary['seeds'])})"


def _difference(score: str, found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    factor, digits = (100.0, 2) if is_share(score) else (1.0, 3)
    mean = f"{factor * found['mean']:+.{digits}f}"
    if found["interval"] is None:
        return mean
    half = (found["interval"][1] - found["interval"][0]) / 2
    return f"{mean} +- {factor * half:.{digits}f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+g}"
