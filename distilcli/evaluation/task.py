"""Models beside their teacher on the dev examples of a task: scores, size and speed."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from distilcli.evaluation.asked import ALL_TEACHERS, TEACHER, Asked
from distilcli.evaluation.calibration import FLIPS_MEANS, RELIABILITY_TITLES, reliability_of
from distilcli.evaluation.dev_examples import measured_outputs
from distilcli.evaluation.result import Result, Table, number, percent
from distilcli.evaluation.speed import Pass, measure_passes
from distilcli.models.families import num_parameters, size_mib
from distilcli.models.padded_teacher import TaskModel
from distilcli.tasks.decisions import Decisions
from distilcli.tasks.task import OpenTask


def compare_on_task(
    models: dict[str, TaskModel],
    paths: dict[str, str],
    task: OpenTask,
    asked: Asked,
    tokens_per_micro_batch: int,
    accelerator: Accelerator,
    on_note: Callable[[str], None],
    shares: Sequence[float] = (),
    known: np.ndarray | None = None,
) -> Result:
    """Measure models on the dev examples of a task.

    Args:
        models: by what they are called; teachers, where there are some, first.
        paths: folder or hub name of each.
        task: with the examples to be measured on as its dev split.
        asked: which examples those are, whether speed is measured, on how many inputs.
        tokens_per_micro_batch: of one forward pass.
        accelerator: names the device.
        on_note: told what is being measured.
        shares: of each teacher in the mean of several, which is then measured too.
        known: outputs for the dev inputs of a teacher that is a file, not among `models`.

    Raises:
        NonFiniteLossError: an output is NaN or infinite.
    """
    found = _quality(
        models, paths, task, tokens_per_micro_batch, accelerator, on_note, shares, known
    )
    passes: dict[str, list[Pass]] = {}
    if asked.speed:
        passes = measure_passes(models, task.dev, asked.num_sequences, on_note)
    for model, record in found.items():
        record["passes"] = [asdict(one) for one in passes.get(model, [])]
    result = {
        "score": task.score,
        "positive": task.positive,
        "dev": list(asked.dev) or None,
        "models": found,
    }
    lines = lines_of_passes(passes)
    if TEACHER in found:
        lines.append(f"agreement: {task.agreement_means}")
        if "flips" in found[TEACHER]:
            lines.append(f"flips: {FLIPS_MEANS}")
    return Result(_table_of(found, passes, task, asked.dev), lines, result)


def _quality(
    models: dict[str, TaskModel],
    paths: dict[str, str],
    task: OpenTask,
    tokens_per_micro_batch: int,
    accelerator: Accelerator,
    on_note: Callable[[str], None],
    shares: Sequence[float],
    known: np.ndarray | None,
) -> dict[str, dict[str, Any]]:
    """By label: path, scores, size, and what is kept of the teacher, which comes first."""
    found: dict[str, dict[str, Any]] = {}
    of_teacher: np.ndarray | None = None
    decided: Decisions | None = None  # by the teacher
    reference: float | None = None
    of_teachers: list[np.ndarray] = []
    of_file: dict[str, list[TaskModel]] = {} if known is None else {TEACHER: []}
    for name, members in (of_file | _with_mean(models, len(shares))).items():
        on_note(f"measuring scores of {name}")
        if not members:
            assert known is not None
            outputs = known
        elif name == ALL_TEACHERS:
            outputs = _mean_outputs(task, of_teachers, shares)
        else:
            outputs = measured_outputs(task, members[0], accelerator, tokens_per_micro_batch, name)
            of_teachers.append(outputs)
        scores = task.ordered_scores(outputs)
        decisions = task.decisions(outputs)
        if name == TEACHER:
            of_teacher, reference, decided = outputs, scores[task.score], decisions
        found[name] = {
            "path": paths[name],
            "scores": scores,
            "retained": scores[task.score] / reference if reference and reference > 0 else None,
            "agreement": None if of_teacher is None else task.agreement(outputs, of_teacher),
            **({} if decisions is None else asdict(reliability_of(decisions, decided))),
            "parameters": sum(map(num_parameters, members)) if members else None,
            "size_mib": sum(map(size_mib, members)) if members else None,
        }
    return found


def _with_mean(models: dict[str, TaskModel], num_teachers: int) -> dict[str, list[TaskModel]]:
    """What is measured, by name: the models, and the mean of all teachers after the last one."""
    found = {name: [model] for name, model in models.items()}
    if num_teachers < 2:
        return found
    teachers = dict(list(found.items())[:num_teachers])
    return teachers | {ALL_TEACHERS: list(models.values())[:num_teachers]} | found


def _mean_outputs(
    task: OpenTask, outputs: Sequence[np.ndarray], shares: Sequence[float]
) -> np.ndarray:
    """Outputs for all dev inputs that have the mean of the teachers' distributions."""
    lengths = task.dev.lengths.tolist()
    mean = task.outputs.mean([torch.from_numpy(one) for one in outputs], shares, lengths)
    found: np.ndarray = mean.numpy()
    return found


def _table_of(
    found: dict[str, dict[str, Any]],
    passes: dict[str, list[Pass]],
    task: OpenTask,
    dev: tuple[str, ...],
) -> Table:
    """One column a model, so that the table fits a terminal."""
    records = list(found.values())
    rows = [
        [task.title(name), *(percent(record["scores"][name]) for record in records)]
        for name in records[0]["scores"]
    ]
    rows += [
        ["retained", *(percent(record["retained"]) for record in records)],
        ["agreement", *(percent(record["agreement"]) for record in records)],
        *(
            [title, *(percent(record[key]) for record in records)]
            for key, title in RELIABILITY_TITLES.items()
            if key in records[0]
        ),
        ["parameters", *(_counted(record["parameters"]) for record in records)],
        ["MiB", *(number(record["size_mib"], 1) for record in records)],
    ]
    rows += rows_of_passes(passes, list(found))
    return Table(_title(task, dev), ["", *found], rows)


def rows_of_passes(passes: dict[str, list[Pass]], names: Sequence[str]) -> list[list[str]]:
    """Rows of a table with a column for each model: how long its passes took."""
    rows: list[list[str]] = []
    for index, first in enumerate(next(iter(passes.values()), [])):
        each = [passes[name][index] if name in passes else None for name in names]
        where = f"{first.inputs:,} inputs, {first.device}"
        columns = [_figures_of(one) for one in each]
        titles = f"{where}, one by one, s", f"{where}, batched, s", "  in batches of"
        rows += [[title, *figures] for title, *figures in zip(titles, *columns, strict=True)]
    return rows


def _counted(parameters: int | None) -> str:
    """Of a model; a file has none."""
    return "-" if parameters is None else f"{parameters:,}"


def _figures_of(one: Pass | None) -> tuple[str, str, str]:
    """Of a model; neither the mean of several teachers nor a file is timed."""
    if one is None:
        return "-", "-", "-"
    return f"{one.single_seconds:.2f}", f"{one.batched_seconds:.2f}", str(one.best_batch_size)


def _title(task: OpenTask, dev: tuple[str, ...]) -> str:
    title = f"{task.num_examples[1]:,} dev examples"
    title = f"{title} of {', '.join(dev)}" if dev else title
    cut = task.cuts[1]
    if not cut.inputs:
        return title
    return f"{title}, {cut.inputs:,} of them cut ({cut.share:.1%} of the tokens)"


def lines_of_passes(passes: dict[str, list[Pass]]) -> list[str]:
    """How speed was measured, or that it was not."""
    timed = next(iter(passes.values()), [])
    if not timed:
        return ["speed was not measured: --speed"]
    return [f"seconds: fp32, medians of 3 passes after a warm-up, {timed[0].threads} CPU thread(s)"]
