"""`distilcli eval` of a run on a task: scores, size and speed beside its teacher."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from distilcli.commands.prepare import tell_of_task
from distilcli.commands.results import show_and_write
from distilcli.config import BaseExperiment
from distilcli.console import Console, percent
from distilcli.errors import ModelError
from distilcli.models import num_parameters, size_mib
from distilcli.run_folder import RunFolder
from distilcli.task_config import TaskExperiment
from distilcli.tasks.models import load_finetuned, load_teacher
from distilcli.tasks.objective import measured_scores, open_task_of
from distilcli.tasks.speed import Pass, measure_passes

_TEACHER = "teacher"


def run(
    names: list[str],
    experiment: TaskExperiment,
    folder: Path,
    num_inputs: int | None,
    console: Console,
) -> None:
    """Measure the teacher and the students of runs, or named models, on the dev examples."""
    task = open_task_of(experiment)
    task.overlap.refuse_same()
    tell_of_task(task, console)
    teacher = load_teacher(experiment, task)
    models: dict[str, PreTrainedModel] = {} if teacher is None else {_TEACHER: teacher}
    paths = _students(names, experiment)
    models |= {label: load_finetuned(path, task) for label, path in paths.items()}
    accelerator = Accelerator()
    found: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        console.note(f"measuring scores of {name}")
        found[name] = {
            "path": paths.get(name),
            "scores": measured_scores(
                task, model, accelerator, experiment.train.tokens_per_micro_batch, name
            ),
            "parameters": num_parameters(model),
            "size_mib": size_mib(model),
        }
    passes = measure_passes(models, task.dev, num_inputs, console.note)
    for name, record in found.items():
        reference = found[_TEACHER]["scores"][task.score] if teacher is not None else 0.0
        record["retained"] = record["scores"][task.score] / reference if reference else None
        record["passes"] = [asdict(one) for one in passes[name]]
    result = {"experiment": experiment.name, "score": task.score, "models": found}

    def show() -> None:
        _show(found, passes, task.num_examples[1], console)

    console.result(show_and_write(result, folder, show, console))


def _students(names: list[str], experiment: TaskExperiment) -> dict[str, str]:
    """Label to path: of a run its trained student, else the named model."""
    students: dict[str, str] = {}
    for name in names or [str(experiment.run_folder)]:
        run = RunFolder(Path(name))
        if run.student.exists():
            label = run.root.absolute().name
            taken = label in students or label == _TEACHER
            students[name if taken else label] = str(run.student)
        elif run.experiment.exists():
            raise ModelError(f"{run.root}: this run has no student yet", "Train it to its end.")
        elif names:
            students[name] = name
    if not students:
        raise no_student(experiment)
    return students


def no_student(experiment: BaseExperiment) -> ModelError:
    """The error where no model is named, and the experiment's run has none yet."""
    return ModelError(
        f"{experiment.run_folder}: there is no student to evaluate",
        "Run distilcli train first, or name a model.",
    )


def _show(
    found: dict[str, dict[str, Any]],
    passes: dict[str, list[Pass]],
    num_examples: int,
    console: Console,
) -> None:
    """One column a model, so that the table fits a terminal."""
    records = list(found.values())
    rows = [[name, *(percent(r["scores"][name]) for r in records)] for name in records[0]["scores"]]
    rows += [
        ["retained", *(percent(record["retained"]) for record in records)],
        ["parameters", *(f"{record['parameters']:,}" for record in records)],
        ["MiB", *(f"{record['size_mib']:.1f}" for record in records)],
    ]
    for index, first in enumerate(next(iter(passes.values()))):
        each = [passes[name][index] for name in found]
        where = f"{first.inputs:,} inputs, {first.device}"
        rows.append([f"{where}, one by one, s", *(f"{one.single_seconds:.2f}" for one in each)])
        rows.append([f"{where}, batched, s", *(f"{one.batched_seconds:.2f}" for one in each)])
        rows.append(["  in batches of", *(str(one.best_batch_size) for one in each)])
    console.table(f"{num_examples:,} dev examples", ["", *found], rows)
    first = next(iter(passes.values()))[0]
    console.say(
        f"seconds: fp32, medians of 3 passes after a warm-up, {first.threads} CPU thread(s)"
    )
