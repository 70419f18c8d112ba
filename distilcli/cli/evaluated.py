"""What `distilcli eval` is asked to measure: models by their labels, and whose experiment they are.

A run folder stands for its students, a folder inside one for itself; both bring their experiment.
"""

from dataclasses import dataclass
from pathlib import Path

from distilcli.cli.results import run_of
from distilcli.config.experiment import BaseExperiment, Experiment, TaskExperiment
from distilcli.config.reading import load_any
from distilcli.errors import ConfigError, ModelError
from distilcli.training.run_folder import RunFolder

TEACHER = "teacher"


@dataclass(frozen=True)
class Wanted:
    """The command line.

    Attributes:
        models: folders of runs and models, or names on the hub.
        config: experiment file; None: that of the first run among the models.
        overrides: settings laid over it.
        output: folder of results.json; None: see `results.results_folder`.
        num_sequences: held-out sequences to look at, or inputs of a task to time; None: all.
        speed: whether speed is measured; None: on text, not on a task.
        text: files to measure on instead of held-out text.
        documents: what one document of a text file among them is; None: as in the experiment.
        dev: files to measure on instead of a task's dev examples.
        teacher: to compare with on `text`, where no experiment names one.
    """

    models: list[str]
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    output: Path | None = None
    num_sequences: int | None = None
    speed: bool | None = None
    text: tuple[str, ...] = ()
    documents: str | None = None
    dev: tuple[str, ...] = ()
    teacher: str | None = None


def experiment_of(wanted: Wanted) -> Experiment | TaskExperiment | None:
    """The experiment that is named, or that of the first run; None where there is neither.

    Raises:
        ConfigError: see `load_any`; or settings are to be overridden, and there are none.
    """
    if wanted.config is not None:
        return load_any(wanted.config, wanted.overrides)
    run = next((run for run in map(run_of, wanted.models) if run is not None), None)
    if run is not None:
        return load_any(run.experiment, wanted.overrides)
    if wanted.overrides:
        raise ConfigError(
            f"{wanted.overrides[0]!r}: there is no experiment whose settings this could override",
            "Give --config FILE or a run folder, such as runs/NAME.",
        )
    return None


def models_to_measure(wanted: Wanted, experiment: BaseExperiment | None) -> dict[str, str]:
    """Label to path of every model: of a run its student, at start too where that is kept.

    Raises:
        ModelError: there is none, or a run has no student yet.
    """
    is_task = isinstance(experiment, TaskExperiment)
    groups = [_models_of(name, is_task) for name in wanted.models]
    if not groups and experiment is not None:
        groups = [_students_of(RunFolder(experiment.run_folder), is_task)]
        if not groups[0]:
            raise ModelError(
                f"{experiment.run_folder}: there is no student to evaluate",
                "Run distilcli train first, or name a model.",
            )
    found: dict[str, str] = {}
    for label, path in (pair for group in groups for pair in group):
        taken = label in found or label == TEACHER
        found[path if taken else label] = path
    return found


def _models_of(name: str, is_task: bool) -> list[tuple[str, str]]:
    """Labels and paths of what one name stands for."""
    run = run_of(name)
    if run is None:
        return [(name, name)]
    if run.root != Path(name):
        return [(_label(run, Path(name), is_task), name)]
    students = _students_of(run, is_task)
    if not students:
        raise ModelError(f"{run.root}: this run has no student yet", "Train it to its end.")
    return students


def _students_of(run: RunFolder, is_task: bool) -> list[tuple[str, str]]:
    """Labels and paths of the students of a run, as far as they are there."""
    folders = (folder for folder in (run.initial_student, run.student) if folder.exists())
    return [(_label(run, folder, is_task), str(folder)) for folder in folders]


def _label(run: RunFolder, folder: Path, is_task: bool) -> str:
    if is_task and folder.name == run.student.name:
        return run.root.absolute().name
    what = {run.initial_student.name: "at start", run.student.name: "trained"}
    return f"{run.root.absolute().name} {what.get(folder.name, folder.name)}"
