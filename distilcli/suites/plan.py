"""A suite: several tasks, and for each a teacher, a student and the baselines beside it.

`load` reads one from a file, `builtin_suite` makes one of data in a folder or on the hub. On each
task and for each seed a suite is these runs, all with the same settings:

    teacher     the pretrained teacher, fine-tuned
    student     the student, fine-tuned on the labels alone: the baseline without distillation
    distilled   the student, distilled from the fine-tuned teacher
    NAME        any other model of `baselines`, fine-tuned
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from distilcli.config.experiment import BaseExperiment, TaskExperiment
from distilcli.config.models import TaskCheckpointStudent, TaskCopiedStudent
from distilcli.config.overrides import laid_over
from distilcli.config.reading import described, read
from distilcli.config.suite import DISTILLED, STUDENT, TEACHER, Suite, SuiteTask
from distilcli.config.tasks import GlueName
from distilcli.errors import ConfigError, DataError

SUITES = ("glue", "imdb", "squad", "tokens")
# Epochs by task: small ones need more of them.
_GLUE_EPOCHS = {"CoLA": 5, "MRPC": 5, "RTE": 8, "STS-B": 8, "WNLI": 5}
_NUM_EPOCHS = 3
_MAX_LENGTH = 128  # tokens; as most published figures on GLUE are measured
_ROW_ENDINGS = ("jsonl", "jsonl.gz", "csv", "tsv", "parquet")


@dataclass(frozen=True)
class SuiteRun:
    """One model on one task with one seed; or one change of an ablation with one seed.

    Attributes:
        task: name in the suite; of an ablation its own.
        model: teacher, student, distilled or the name of a baseline; or of a change.
        seed: of new heads, order and dropout.
        experiment: what is run.
        needs_teacher: whether it waits for the fine-tuned teacher of the same task and seed.
    """

    task: str
    model: str
    seed: int
    experiment: BaseExperiment
    needs_teacher: bool = False

    @property
    def name(self) -> str:
        """For people and for file names."""
        return f"{self.task}/{self.experiment.name}"


def load_suite(path: Path, overrides: Sequence[str] | None = None) -> Suite:
    """Read a suite from a file and lay overrides over it.

    Raises:
        ConfigError: as `config.reading.load_experiment`.
    """
    suite = read(path, overrides, lambda _: Suite)
    assert isinstance(suite, Suite)
    return suite


def builtin_suite(
    name: str, data: Path | None, teacher: str, student: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The tree of one of `SUITES`, and the tasks that are left out because `data` lacks them.

    Args:
        name: which.
        data: folder with the tasks' files; None: the hub.
        teacher: pretrained model.
        student: as in a suite file.

    Raises:
        DataError: the folder has none of the tasks, or the suite is not on the hub.
    """
    tree: dict[str, Any] = {"name": name, "teacher": teacher, "student": dict(student)}
    if name == "glue":
        tasks, left_out = _glue_tasks(data)
    else:
        makers = {"imdb": _imdb_task, "squad": _squad_task, "tokens": _tokens_task}
        labels = {"imdb": "IMDb", "squad": "SQuAD", "tokens": "tokens"}
        tasks, left_out = {labels[name]: makers[name](data)}, []
    tree |= {"tasks": tasks, "train": {"num_epochs": _NUM_EPOCHS}}
    return tree, left_out


def _glue_tasks(data: Path | None) -> tuple[dict[str, Any], list[str]]:
    tasks: dict[str, Any] = {}
    left_out: list[str] = []
    for name in get_args(GlueName):
        folder = None if data is None else data / name
        if folder is not None and not folder.is_dir():
            left_out.append(name)
            continue
        task = {
            "kind": "glue",
            "name": name,
            "folder": None if folder is None else str(folder),
            "max_length": _MAX_LENGTH,
        }
        train = {"num_epochs": _GLUE_EPOCHS[name]} if name in _GLUE_EPOCHS else {}
        tasks[name] = {"task": task, "train": train}
    if not tasks:
        raise DataError(
            f"--data {data}: there is no folder of a GLUE task",
            f"It should hold folders named {', '.join(get_args(GlueName))}, or some of them.",
        )
    return tasks, left_out


def _imdb_task(data: Path | None) -> dict[str, Any]:
    task = {"kind": "classification", "labels": ["0", "1"], "max_length": 512}
    if data is None:
        hub = {"hub": "stanfordnlp/imdb"}
        names = {"labels": ["neg", "pos"]}
        sources = {"train": hub | {"split": "train"}, "dev": hub | {"split": "test"}}
        return {"task": task | names | sources}
    return {"task": task | {split: _rows_in(data, split) for split in ("train", "dev")}}


def _squad_task(data: Path | None) -> dict[str, Any]:
    task = {"kind": "question-answering"}
    if data is None:
        hub = {"hub": "rajpurkar/squad"}
        return {
            "task": task | {"train": hub | {"split": "train"}, "dev": hub | {"split": "validation"}}
        }
    files = {split: {"files": [str(_file(data, split, ("json",)))]} for split in ("train", "dev")}
    return {"task": task | files}


def _tokens_task(data: Path | None) -> dict[str, Any]:
    if data is None:
        raise DataError(
            "suite tokens: its data set has no fixed place on the hub",
            "Give --data DIR with train.tsv and dev.tsv (word, tab, tag; blank lines between).",
        )
    files = {
        split: {"files": [str(_file(data, split, ("tsv", "txt", "conll")))], "format": "conll"}
        for split in ("train", "dev")
    }
    return {"task": {"kind": "tagging", "max_length": _MAX_LENGTH} | files}


def _rows_in(data: Path, split: str) -> dict[str, Any]:
    return {"files": [str(_file(data, split, _ROW_ENDINGS))]}


def _file(data: Path, stem: str, endings: Sequence[str]) -> Path:
    for ending in endings:
        if (data / f"{stem}.{ending}").is_file():
            return data / f"{stem}.{ending}"
    named = ", ".join(f"{stem}.{ending}" for ending in endings)
    raise DataError(f"--data {data}: it holds no {named}", "Name the folder that holds it.")


def plan(suite: Suite, seeds: int, where: Path, overrides: Sequence[str] = ()) -> list[SuiteRun]:
    """All runs of a suite, seed by seed, each teacher before the students that need it.

    Args:
        suite: what to run.
        seeds: how many, from 1.
        where: the suite's file, for messages.
        overrides: those that were laid over it, for messages.

    Raises:
        ConfigError: settings that no experiment can have.
    """
    return [
        run
        for seed in range(1, seeds + 1)
        for name, task in suite.tasks.items()
        for run in _runs_of(suite, name, task, seed, where, overrides)
    ]


def _runs_of(
    suite: Suite,
    name: str,
    task: SuiteTask,
    seed: int,
    where: Path,
    overrides: Sequence[str],
) -> list[SuiteRun]:
    def experiment(model: str, teacher: str | None, student: Any) -> TaskExperiment:
        tree = {
            "name": f"{model}-{seed}",
            "output_dir": str(suite.folder / name),
            "seed": seed,
            "task": task.task.model_dump(mode="json"),
            "teacher": None if teacher is None else {"model": teacher},
            "student": student.model_dump(mode="json"),
            **{key: getattr(suite, key) | getattr(task, key) for key in ("train", "optim")},
        }
        if teacher is None:
            tree["task"]["transfer"] = None  # rows for a teacher to label
        if teacher is not None:
            # Without a teacher there are labels alone.
            tree["loss"] = laid_over(suite.loss, task.loss)
            if task.augmentation is not None:
                tree["augmentation"] = suite.augmentation | task.augmentation or None
            # Outputs of a teacher that all seeds have in common are shared.
            mark = "" if task.teacher else f"-{seed}"
            tree["teacher"]["cache"] = str(suite.folder / name / f"teacher-outputs{mark}")
        try:
            return TaskExperiment.model_validate(tree)
        except ValidationError as error:
            keys = _keys_set_by(overrides, name, task)
            said = described(error, TaskExperiment, where, tree, keys)
            raise ConfigError(f"{said} (task {name}, model {model})") from error

    student = suite.student
    dropouts = student.dropout, student.attention_dropout
    whole = TaskCheckpointStudent(
        model=suite.teacher, dropout=dropouts[0], attention_dropout=dropouts[1]
    )
    alone = student
    if isinstance(student, TaskCopiedStudent) and student.source is None:
        alone = student.model_copy(update={"source": suite.teacher})
    runs = []
    teacher = task.teacher
    if teacher is None:
        run = SuiteRun(name, TEACHER, seed, experiment(TEACHER, None, whole))
        teacher = str(run.experiment.run_folder / "student")
        runs.append(run)
    runs.append(SuiteRun(name, STUDENT, seed, experiment(STUDENT, None, alone)))
    distilled = experiment(DISTILLED, teacher, student)
    runs.append(SuiteRun(name, DISTILLED, seed, distilled, needs_teacher=task.teacher is None))
    for label, baseline in suite.baselines.items():
        runs.append(SuiteRun(name, label, seed, experiment(label, None, baseline)))
    return runs


def _keys_set_by(overrides: Sequence[str], name: str, task: SuiteTask) -> dict[str, str]:
    """By each override of a suite, the key that it has set in the experiments of one task."""
    keys = {}
    own = f"tasks.{name}."
    for text in overrides:
        key = text.partition("=")[0]
        section, *rest = key.removeprefix(own).split(".")
        if key.startswith(own) or not _sets(getattr(task, section, None), rest):
            keys[text] = key.removeprefix(own)
    return keys


def _sets(tree: Any, key: Sequence[str]) -> bool:
    """Whether a tree of settings has that key, or a value on the way to it."""
    for part in key:
        if not isinstance(tree, dict):
            return tree is not None
        if part not in tree:
            return False
        tree = tree[part]
    return bool(key)
