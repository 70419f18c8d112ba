"""`distilcli eval` of a run on a task: scores, size and speed beside its teacher."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from distilcli.cli.console import Console, percent
from distilcli.cli.evaluated import TEACHER, Wanted, models_to_measure
from distilcli.cli.prepare import look_at_rows
from distilcli.cli.results import results_folder, show_and_write
from distilcli.config.data import RowFiles
from distilcli.config.experiment import TaskExperiment
from distilcli.config.tasks import GlueTask, Task
from distilcli.errors import ConfigError
from distilcli.evaluation.dev_examples import measured_outputs
from distilcli.evaluation.speed import Pass, measure_passes
from distilcli.models.families import num_parameters, size_mib
from distilcli.models.heads import load_finetuned, load_finetuned_teacher, teacher_labels
from distilcli.tasks import glue
from distilcli.tasks.task import OpenTask
from distilcli.training.processes import single_accelerator


def run(wanted: Wanted, experiment: TaskExperiment, console: Console) -> None:
    """Measure the teacher and the students of runs, or named models, on the dev examples."""
    _refuse_what_does_not_fit(wanted)
    folder = results_folder(wanted.models, wanted.output, experiment, bool(wanted.dev))
    if wanted.dev:
        experiment = _with_other_dev(experiment, wanted.dev)
    task = look_at_rows(experiment, console)
    paths = models_to_measure(wanted, experiment)
    teacher = load_finetuned_teacher(experiment, task)
    models: dict[str, PreTrainedModel] = {} if teacher is None else {TEACHER: teacher}
    models |= {label: load_finetuned(path, task) for label, path in paths.items()}
    if experiment.teacher is not None:
        paths = {TEACHER: experiment.teacher.model, **paths}
    found = _quality(models, paths, task, experiment.train.tokens_per_micro_batch, console)
    passes: dict[str, list[Pass]] = {}
    if wanted.speed:
        passes = measure_passes(models, task.dev, wanted.num_sequences, console.note)
    for model, record in found.items():
        record["passes"] = [asdict(one) for one in passes.get(model, [])]
    dev = list(wanted.dev) or None
    result = {
        "experiment": experiment.name,
        "score": task.score,
        "positive": task.positive,
        "dev": dev,
        "models": found,
    }

    def show() -> None:
        _show(found, passes, task, _title(task, wanted.dev), console)
        if teacher is not None:
            console.say(f"agreement: {task.agreement_means}")

    console.result(show_and_write(result, folder, show, console))


def _refuse_what_does_not_fit(wanted: Wanted) -> None:
    """Raises `ConfigError` where an option says nothing of a task."""
    if wanted.text:
        raise ConfigError(
            "--text measures masked-LM models, and this experiment is on a task",
            "Measure its student on other examples: --dev FILES.",
        )
    if wanted.documents is not None or wanted.teacher is not None:
        option = "--documents" if wanted.documents is not None else "--teacher"
        raise ConfigError(f"{option} goes with --text")
    if wanted.num_sequences is not None and not wanted.speed:
        raise ConfigError(
            "--num-sequences: on a task it says how many inputs are timed",
            "Give --speed too, or leave it out: scores are of all dev examples.",
        )


def _with_other_dev(experiment: TaskExperiment, files: tuple[str, ...]) -> TaskExperiment:
    """The experiment with other dev examples, in columns of the same names."""
    task: Task = experiment.task
    if isinstance(task, GlueTask):
        task = glue.expand(task, teacher_labels(experiment))
    rows = RowFiles(files=list(files))
    if isinstance(task.dev, RowFiles):
        # What was said of the files before holds for others of their kind.
        same_kind = Path(files[0]).suffix == Path(task.dev.files[0]).suffix
        rows = task.dev.model_copy(
            update={"files": rows.files, "format": task.dev.format if same_kind else "auto"}
        )
    return experiment.model_copy(update={"task": task.model_copy(update={"dev": rows})})


def _quality(
    models: dict[str, PreTrainedModel],
    paths: dict[str, str],
    task: OpenTask,
    tokens_per_micro_batch: int,
    console: Console,
) -> dict[str, dict[str, Any]]:
    """By label: path, scores, size, and what is kept of the teacher, which comes first."""
    accelerator = single_accelerator()
    found: dict[str, dict[str, Any]] = {}
    of_teacher: np.ndarray | None = None
    reference: float | None = None
    for name, model in models.items():
        console.note(f"measuring scores of {name}")
        outputs = measured_outputs(task, model, accelerator, tokens_per_micro_batch, name)
        scores = task.ordered_scores(outputs)
        if name == TEACHER:
            of_teacher, reference = outputs, scores[task.score]
        found[name] = {
            "path": paths[name],
            "scores": scores,
            "retained": scores[task.score] / reference if reference else None,
            "agreement": None if of_teacher is None else task.agreement(outputs, of_teacher),
            "parameters": num_parameters(model),
            "size_mib": size_mib(model),
        }
    return found


def _title(task: OpenTask, dev: tuple[str, ...]) -> str:
    title = f"{task.num_examples[1]:,} dev examples"
    title = f"{title} of {', '.join(dev)}" if dev else title
    cut = task.cuts[1]
    return (
        f"{title}, {cut.inputs:,} of them cut ({cut.share:.1%} of the tokens)"
        if cut.inputs
        else title
    )


def _show(
    found: dict[str, dict[str, Any]],
    passes: dict[str, list[Pass]],
    task: OpenTask,
    title: str,
    console: Console,
) -> None:
    """One column a model, so that the table fits a terminal."""
    records = list(found.values())
    rows = [
        [task.title(name), *(percent(record["scores"][name]) for record in records)]
        for name in records[0]["scores"]
    ]
    rows += [
        ["retained", *(percent(record["retained"]) for record in records)],
        ["agreement", *(percent(record["agreement"]) for record in records)],
        ["parameters", *(f"{record['parameters']:,}" for record in records)],
        ["MiB", *(f"{record['size_mib']:.1f}" for record in records)],
    ]
    timed = next(iter(passes.values()), [])
    for index, first in enumerate(timed):
        each = [passes[name][index] for name in found]
        where = f"{first.inputs:,} inputs, {first.device}"
        rows.append([f"{where}, one by one, s", *(f"{one.single_seconds:.2f}" for one in each)])
        rows.append([f"{where}, batched, s", *(f"{one.batched_seconds:.2f}" for one in each)])
        rows.append(["  in batches of", *(str(one.best_batch_size) for one in each)])
    console.table(title, ["", *found], rows)
    if timed:
        console.say(
            f"seconds: fp32, medians of 3 passes after a warm-up, {timed[0].threads} CPU thread(s)"
        )
    else:
        console.say("speed was not measured: --speed")
