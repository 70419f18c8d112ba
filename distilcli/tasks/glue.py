"""The nine GLUE tasks (Wang et al. 2019): columns and scores of their own files, and of the hub.

The files are read untouched: tabs, no quotes, a byte order mark before MRPC's header, no header
for CoLA. Where GLUE has two scores for a task, its figure is their mean.
"""

from dataclasses import dataclass
from pathlib import Path

from distilcli.config.data import RowFiles, RowHub
from distilcli.config.tasks import ClassificationTask, GlueTask, RegressionTask
from distilcli.errors import DataError
from distilcli.files.paths import resolve_path
from distilcli.tasks.classes import same_classes

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class _Glue:
    """One task.

    Attributes:
        hub: its name there.
        texts: columns of the text or the pair, in its files.
        hub_texts: the same on the hub.
        label: column of the label in its files.
        labels: the classes in its files, in the order of their ids; None for numbers. Where
            there are two, GLUE's F1 is of the second.
        hub_labels: their names on the hub.
        score: as `task.score`.
        columns: of files without a header.
        dev: stem of the dev file.
        hub_dev: dev split on the hub.
    """

    hub: str
    texts: tuple[str, ...]
    hub_texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...] | None
    hub_labels: tuple[str, ...] | None
    score: str
    columns: tuple[str, ...] | None = None
    dev: str = "dev"
    hub_dev: str = "validation"


_BINARY = ("0", "1")
_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_THREE = ("entailment", "neutral", "contradiction")
TASKS: dict[str, _Glue] = {
    "CoLA": _Glue(
        hub="cola",
        texts=("sentence",),
        hub_texts=("sentence",),
        label="label",
        labels=_BINARY,
        hub_labels=("unacceptable", "acceptable"),
        score="matthews",
        columns=("source", "label", "mark", "sentence"),
    ),
    "MNLI": _Glue(
        hub="mnli",
        texts=_PAIR,
        hub_texts=("premise", "hypothesis"),
        label="gold_label",
        labels=_THREE,
        hub_labels=_THREE,
        score="accuracy",
        dev="dev_matched",
        hub_dev="validation_matched",
    ),
    "MRPC": _Glue(
        hub="mrpc",
        texts=("#1 String", "#2 String"),
        hub_texts=_PAIR,
        label="Quality",
        labels=_BINARY,
        hub_labels=("not_equivalent", "equivalent"),
        score="accuracy_f1",
    ),
    "QNLI": _Glue(
        hub="qnli",
        texts=("question", "sentence"),
        hub_texts=("question", "sentence"),
        label="label",
        labels=_ENTAILMENT,
        hub_labels=_ENTAILMENT,
        score="accuracy",
    ),
    "QQP": _Glue(
        hub="qqp",
        texts=("question1", "question2"),
        hub_texts=("question1", "question2"),
        label="is_duplicate",
        labels=_BINARY,
        hub_labels=("not_duplicate", "duplicate"),
        score="accuracy_f1",
    ),
    "RTE": _Glue(
        hub="rte",
        texts=_PAIR,
        hub_texts=_PAIR,
        label="label",
        labels=_ENTAILMENT,
        hub_labels=_ENTAILMENT,
        score="accuracy",
    ),
    "SST-2": _Glue(
        hub="sst2",
        texts=("sentence",),
        hub_texts=("sentence",),
        label="label",
        labels=_BINARY,
        hub_labels=("negative", "positive"),
        score="accuracy",
    ),
    "STS-B": _Glue(
        hub="stsb",
        texts=_PAIR,
        hub_texts=_PAIR,
        label="score",
        labels=None,
        hub_labels=None,
        score="pearson_spearman",
    ),
    "WNLI": _Glue(
        hub="wnli",
        texts=_PAIR,
        hub_texts=_PAIR,
        label="label",
        labels=_BINARY,
        hub_labels=("not_entailment", "entailment"),
        score="accuracy",
    ),
}


def positive_class(name: str, on_hub: bool) -> str | None:
    """Of a task's two classes the one that GLUE's F1 is of; None where there are not two."""
    labels = TASKS[name].hub_labels if on_hub else TASKS[name].labels
    return labels[1] if labels is not None and len(labels) == 2 else None


def expand(
    task: GlueTask, teacher_labels: list[str] | None = None
) -> ClassificationTask | RegressionTask:
    """The task with its files or its hub data set, columns, classes and score.

    Args:
        task: which one, and where its files are.
        teacher_labels: names of a fine-tuned teacher's outputs; if they are the task's, in any
            order, their order is taken.

    Raises:
        DataError: the folder has no such files.
    """
    glue = TASKS[task.name]
    if task.folder is None:
        texts, labels = glue.hub_texts, glue.hub_labels
        label = "label"
        train: RowFiles | RowHub = RowHub(hub=HUB, subset=glue.hub, split="train")
        dev: RowFiles | RowHub = RowHub(hub=HUB, subset=glue.hub, split=glue.hub_dev)
    else:
        texts, labels, label = glue.texts, glue.labels, glue.label
        train, dev = (_file(task.folder, stem, glue) for stem in ("train", glue.dev))
    common = {
        "train": train,
        "dev": dev,
        "text": texts[0],
        "text_pair": texts[1] if len(texts) > 1 else None,
        "label": label,
        "score": glue.score,
        "max_length": task.max_length,
        "skip_bad_rows": task.skip_bad_rows,
        "transfer": task.transfer,
    }
    found: ClassificationTask | RegressionTask
    if labels is None:
        found = RegressionTask.model_validate({"kind": "regression", **common})
    else:
        order = list(labels)
        if teacher_labels is not None and same_classes(teacher_labels, labels):
            order = teacher_labels
        classes = {"labels": order, "positive": positive_class(task.name, task.folder is None)}
        found = ClassificationTask.model_validate({"kind": "classification", **classes, **common})
    # Not among what is checked: `predict` asks for ids alone, which settings may not say.
    return found.model_copy(update={"teacher_outputs": task.teacher_outputs})


def _file(folder: str, stem: str, glue: _Glue) -> RowFiles:
    path = Path(resolve_path(folder)) / f"{stem}.tsv"
    if not path.is_file():
        raise DataError(
            f"task.folder: {folder} has no {stem}.tsv",
            "Name the folder of one GLUE task, as it was unpacked.",
        )
    columns = list(glue.columns) if glue.columns else None
    return RowFiles(files=[str(path)], format="tsv", columns=columns)
