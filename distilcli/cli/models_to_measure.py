"""What `distilcli eval` is asked to measure: models by their labels, and whose experiment they are.

A run folder stands for its students, a folder inside one for itself; both bring their experiment.
"""

from dataclasses import dataclass, field
from pathlib import Path

from distilcli.cli.results import run_of
from distilcli.config.kinds import AnyExperiment
from distilcli.config.reading import load_any_experiment, load_of_run
from distilcli.config.stages import StagedExperiment
from distilcli.distillation.run_kind import AnyKind
from distilcli.errors import ConfigError, ModelError
from distilcli.evaluation.asked import ALL_TEACHERS, TEACHER, Asked, teacher_names
from distilcli.training.run_folder import RunFolder


@dataclass(frozen=True)
class Wanted:
    """The command line.

    Attributes:
        models: folders of runs and models, or names on the hub.
        asked: what of them is measured, and on what.
        config: experiment file; None: that of the first run among the models.
        overrides: settings laid over it.
        output: folder of results.json; None: see `results.results_folder`.
    """

    models: list[str]
    asked: Asked = field(default_factory=Asked)
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    output: Path | None = None


def experiment_of(wanted: Wanted) -> AnyExperiment | None:
    """The experiment that is named, or that of the first run; None where there is neither.

    Of several stages it is the last one, whose student is that of the run.

    Raises:
        ConfigError: see `load_experiment`; or settings are to be overridden, and there are none.
    """
    if wanted.config is not None:
        found = load_any_experiment(wanted.config, wanted.overrides)
        return found.as_one(-1) if isinstance(found, StagedExperiment) else found
    run = next((run for run in map(run_of, wanted.models) if run is not None), None)
    if run is not None:
        return load_of_run(run.experiment, wanted.overrides)
    if wanted.overrides:
        raise ConfigError(
            f"{wanted.overrides[0]!r}: there is no experiment whose settings this could override",
            "Give --config FILE or a run folder, such as runs/NAME.",
        )
    return None


def model_of(name: str) -> str:
    """The model that is named: of a run its student.

    Raises:
        ModelError: the run has none yet.
    """
    found = run_of(name)
    if found is None or found.root != Path(name):
        return name
    if not found.student.exists():
        raise ModelError(f"{found.root}: this run has no student yet", "Train it to its end.")
    return str(found.student)


def models_to_measure(wanted: Wanted, kind: AnyKind) -> dict[str, str]:
    """Label to path of every model: of a run its student, at start too where that is kept.

    Raises:
        ModelError: there is none, or a run has no student yet.
    """
    groups = [_models_of(name, kind) for name in wanted.models]
    if not groups:
        run_folder = kind.experiment.run_folder
        groups = [_students_of(RunFolder(run_folder), kind)]
        if not groups[0]:
            raise ModelError(
                f"{run_folder}: there is no student to evaluate",
                "Run distilcli train first, or name a model.",
            )
    found: dict[str, str] = {}
    teacher = kind.experiment.teacher
    of_teachers = {TEACHER}
    if teacher is not None and len(teacher.by_key) > 1:
        of_teachers |= {*teacher_names(len(teacher.by_key)), ALL_TEACHERS}
    for label, path in (pair for group in groups for pair in group):
        taken = label in found or label in of_teachers
        found[path if taken else label] = path
    return found


def _models_of(name: str, kind: AnyKind) -> list[tuple[str, str]]:
    """Labels and paths of what one name stands for."""
    run = run_of(name)
    if run is None:
        return [(name, name)]
    if run.root != Path(name):
        return [(_label(run, Path(name), kind), name)]
    students = _students_of(run, kind)
    if not students:
        raise ModelError(f"{run.root}: this run has no student yet", "Train it to its end.")
    return students


def _students_of(run: RunFolder, kind: AnyKind) -> list[tuple[str, str]]:
    """Labels and paths of the students of a run, as far as they are there."""
    folders = (folder for folder in (run.initial_student, run.student) if folder.exists())
    return [(_label(run, folder, kind), str(folder)) for folder in folders]


def _label(run: RunFolder, folder: Path, kind: AnyKind) -> str:
    return kind.label(run.root.absolute().name, folder.name)
