"""`distilcli eval`: students beside their teacher, as a table and as results.json."""

from pathlib import Path

from distilcli.assembly import (
    check_vocabulary,
    experiment_tokenizer,
    load_teacher,
    open_store,
)
from distilcli.commands import evaluate_task
from distilcli.commands.results import results_folder, settle_runs, show_and_write
from distilcli.config import Experiment
from distilcli.console import Console, number, percent
from distilcli.errors import ConfigError
from distilcli.evaluation import Evaluation, evaluate
from distilcli.experiment_file import load_any
from distilcli.models import load_masked_lm
from distilcli.run_folder import RunFolder
from distilcli.task_config import TaskExperiment

_TEACHER = "teacher"


def run(
    names: list[str],
    config: Path | None,
    overrides: list[str],
    output: Path | None,
    num_sequences: int | None,
    console: Console,
) -> None:
    """Evaluate the teacher and the named models or runs."""
    settle_runs(names)
    experiment = _experiment_of(names, config, overrides)
    folder = results_folder(names, output, experiment)
    if isinstance(experiment, TaskExperiment):
        evaluate_task.run(names, experiment, folder, num_sequences, console)
        return
    paths = _students(names, experiment)
    teacher = load_teacher(experiment)
    models = {} if teacher is None else {_TEACHER: teacher}
    models |= {label: load_masked_lm(path, role="student") for label, path in paths.items()}
    tokenizer = experiment_tokenizer(experiment)
    store = open_store(experiment, tokenizer)
    for name, model in models.items():
        check_vocabulary(model, store, name)
    teacher_name = _TEACHER if teacher is not None else None
    rows = evaluate(models, teacher_name, experiment, store, tokenizer, console.note, num_sequences)
    record = {
        "experiment": experiment.name,
        "models": {row.name: {"path": paths.get(row.name), **row.record()} for row in rows},
    }
    console.result(show_and_write(record, folder, lambda: _show(rows, console), console))


def _experiment_of(
    names: list[str], config: Path | None, overrides: list[str]
) -> Experiment | TaskExperiment:
    if config is not None:
        return load_any(config, overrides)
    for name in names:
        own = RunFolder(Path(name)).experiment
        if own.exists():
            return load_any(own, overrides)
    raise ConfigError(
        "no experiment to evaluate with", "Give --config FILE or a run folder, such as runs/NAME."
    )


def _students(names: list[str], experiment: Experiment) -> dict[str, str]:
    """Label to path: of a run its student at start and trained, else the named model."""
    students: dict[str, str] = {}
    for name in names or [str(experiment.run_folder)]:
        run = RunFolder(Path(name))
        parent = RunFolder(Path(name).parent)
        if run.experiment.exists():
            for folder in (run.initial_student, run.student):
                if folder.exists():
                    students[_label(run, folder)] = str(folder)
        elif parent.experiment.exists():
            students[_label(parent, Path(name))] = name
        elif names:
            students[name] = name
    if not students:
        raise evaluate_task.no_student(experiment)
    return students


def _label(run: RunFolder, folder: Path) -> str:
    what = {run.initial_student.name: "at start", run.student.name: "trained"}
    return f"{run.root.absolute().name} {what.get(folder.name, folder.name)}"


def _show(rows: list[Evaluation], console: Console) -> None:
    """One column a model, so that the table fits a terminal."""
    speeds = [row.speed for row in rows]
    figures = {
        "accuracy": [percent(row.scores.accuracy) for row in rows],
        "retained": [percent(row.retained) for row in rows],
        "loss": [number(row.scores.loss) for row in rows],
        "perplexity": [number(row.scores.perplexity, 2) for row in rows],
        "agreement": [percent(row.scores.agreement) for row in rows],
        "KL to teacher": [number(row.scores.kl) for row in rows],
        "parameters": [f"{row.parameters:,}" for row in rows],
        "MiB": [f"{row.size_mib:.1f}" for row in rows],
        "latency, ms": [f"{speed.latency_ms:.1f}" for speed in speeds],
        "sequences/s": [f"{speed.sequences_per_second:.1f}" for speed in speeds],
    }
    table = [[name, *values] for name, values in figures.items()]
    title = f"{rows[0].scores.num_masked:,} masked held-out tokens"
    console.table(title, ["", *(row.name for row in rows)], table)
    speed = speeds[0]
    console.say(
        f"latency: one sequence of {speed.length} tokens; sequences/s: in batches of "
        f"{speed.batch_size}; CPU, {speed.threads} thread(s), medians"
    )
