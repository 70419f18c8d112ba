"""Mistakes in the settings of experiments on a task, and what they are answered with."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from loss_settings import weights
from pydantic import ValidationError
from task_settings import FILES, KINDS, SMALLEST, TASK, complaint, load, on

from distilcli.config import reading
from distilcli.config.experiment import TaskExperiment
from distilcli.config.tasks import QuestionAnsweringTask
from distilcli.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (on(max_lenght=8), "task.max_lenght: unknown key; did you mean task.max_length?"),
        (on(skip_bad_row=True), "task.skip_bad_row: unknown key; did you mean task.skip_bad_rows?"),
        (
            on(kind="tagging", text="w"),
            "task.text: needs task.kind=classification, multi-label or regression; this section is "
            "tagging, where it is called task.words",
        ),
        (
            on(kind="tagging", label="w"),
            "task.label: needs task.kind=classification, multi-label, regression or reranking; "
            "this section is tagging, where it is called task.tags",
        ),
        (
            on(kind="reranking", text_pair="w"),
            "task.text_pair: needs task.kind=classification, multi-label or regression; this "
            "section is reranking, where it is called task.document",
        ),
        (on(words="w"), "task.words: needs task.kind=tagging; this section is classification"),
        (
            on(stride=3),
            "task.stride: needs task.kind=question-answering; this section is classification",
        ),
        (on(folder="f"), "task.folder: needs task.kind=glue; this section is classification"),
        (
            on(train={"files": "a", "fromat": "csv"}),
            "task.train.fromat: unknown key; did you mean task.train.format?",
        ),
        (on(dev={"hub": "a", "splt": "x"}), "task.dev.splt: unknown key; did you mean task.dev.sp"),
        (
            on(dev={"files": "a", "split": "x"}),
            "task.dev.split: can only be used with hub, not with files",
        ),
        ({"train": {"num_epoch": 1}}, "train.num_epoch: unknown key; did you mean train.num_epoch"),
        ({"optim": {"lrr": 1}}, "optim.lrr: unknown key; did you mean optim.lr?"),
        ({"loss": weights(masked_lm=1)}, "loss.masked_lm: unknown key"),
        ({"teacher": {"model": "m", "cach": "x"}}, "teacher.cach: unknown key; did you mean teach"),
        ({"teacher": {"model": "m", "offload": True}}, "teacher.offload: unknown key"),
        (
            {"student": {"model": "m"}},
            "student.model: needs student.kind=checkpoint; this section is copied, the default",
        ),
        (
            {"student": {"vocabulary": {"keep": 9}}},
            "student.vocabulary: unknown key; there are drop",
        ),
        ({"validation": {"num_sequences": 9}}, "validation.num_sequences: unknown key"),
        ({"tasks": TASK}, "tasks: unknown key; did you mean task?"),
        ({"masking": {}}, "masking: unknown key"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    assert complaint(path, **changes).startswith(f"PATH: {message}")


def test_an_override_of_an_unknown_key_is_named(path: Path) -> None:
    assert complaint(path, "task.max_lenght=8") == (
        "override 'task.max_lenght=8': task.max_lenght: unknown key; did you mean task.max_length?"
    )


# Wrong values


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (FILES, f"task.kind: must be {KINDS} (given: null)"),
        ({}, f"task.kind: must be {KINDS} (given: null)"),
        (TASK | {"kind": "foo"}, f"task.kind: must be {KINDS} (given: 'foo')"),
        (TASK | {"kind": None}, f"task.kind: must be {KINDS} (given: null)"),
        ("sst2", "task: this is a section: it takes keys below it, not a value (given: 'sst2')"),
        (3, "task: this is a section: it takes keys below it, not a value (given: 3)"),
        ([TASK], "task: this is a section: it takes keys below it, not a value"),
    ],
)
def test_a_task_that_is_none_is_answered_once(path: Path, task: Any, message: str) -> None:
    assert complaint(path, task=task) == f"PATH: {message}"


def test_an_empty_task_is_a_task_without_keys(path: Path) -> None:
    """`task:` with nothing below it: no other kind of experiment is meant."""
    assert complaint(path, task=None).startswith("PATH: task: this is a section")
    assert complaint(path, "task=null").startswith("override 'task=null': task: this is a section")


def transfer(**keys: Any) -> dict[str, Any]:
    """Rows without labels, beside a teacher."""
    section = {"files": "more.txt"} | keys
    return on(transfer=section) | {"teacher": {"model": "m"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (transfer(weight=0), "task.transfer.weight: must be at least 0.05 (given: 0)"),
        (transfer(weight=101), "task.transfer.weight: must be at most 100 (given: 101)"),
        (transfer(wieght=1), "task.transfer.wieght: unknown key; did you mean task.transfer.wei"),
        (transfer(format="xml"), "task.transfer.format: must be auto, text, csv, tsv, jsonl, "),
        (on(train={"files": "a", "format": "text"}), "task.train.format: must be auto, csv, tsv"),
        (on(train={"files": "a", "weight": 2}), "task.train.weight: unknown key"),
        (
            transfer() | {"teacher": None},
            "task.transfer: its rows have no labels; they need a teacher, and the weight of loss.",
        ),
        (
            transfer() | {"loss": weights(soft_targets=0)},
            "task.transfer: its rows have no labels; they need a teacher, and the weight of loss.",
        ),
        (
            transfer() | on(train=None, transfer={"files": "more.txt"}),
            "without task.train no row has a label; set loss.labels.weight=0",
        ),
        (
            {"task": {"kind": "tagging", "dev": {"files": "a"}}},
            "task: train is required: rows to train on, or in transfer rows that a teacher labels",
        ),
    ],
)
def test_rows_without_labels_need_a_teacher(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    assert complaint(path, **changes).startswith(f"PATH: {message}")


def test_a_teacher_may_be_all_that_labels(path: Path) -> None:
    task = TASK | {"train": None, "transfer": {"hub": "a/b", "split": "unsupervised"}}
    experiment = load(path, task=task, teacher={"model": "m"}, loss=weights(labels=0))
    assert isinstance(experiment, TaskExperiment)
    assert experiment.data_folders() == {"task.transfer.hub": "a/b"}
    assert experiment.task.places() == {"transfer": "a/b, unsupervised", "dev": "dev.csv"}
    glue = {"kind": "glue", "name": "RTE", "transfer": {"hub": "a/b", "split": "test"}}
    of_glue = load(path, task=glue, teacher={"model": "m"})
    assert of_glue.data_folders() == {"task.transfer.hub": "a/b"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (on(max_length=7), "task.max_length: must be at least 8 (given: 7)"),
        (on(max_length="long"), "task.max_length: must be a whole number (given: 'long')"),
        (on(skip_bad_rows=1), "task.skip_bad_rows: must be true or false (given: 1)"),
        (
            on(score="pearson"),
            "task.score: must be accuracy, f1, macro_f1, accuracy_f1 or matthews",
        ),
        (on(labels="a, b"), "task.labels: must be a list, such as [a, b] (given: 'a, b')"),
        (on(labels=["a", 1]), "task.labels.1: must be text; put it in quotes (given: 1)"),
        (on(train={"files": []}), "task.train.files: needs 1 or more"),
        (on(train="a.csv"), "task.train: this is a section: it takes keys below it, not a value"),
        (on(dev={"hub": "a/b"}), "task.dev.split: this key is required"),
        (on(dev={"files": "a", "format": "xml"}), "task.dev.format: must be auto, csv, tsv, jsonl"),
        ({"task": {"kind": "tagging", "train": {"files": "a"}}}, "task.dev: this key is required"),
        ({"task": {"kind": "glue"}}, "task.name: this key is required"),
        (
            {"task": {"kind": "glue", "name": "sst2"}},
            "task.name: must be CoLA, MNLI, MRPC, QNLI, Q",
        ),
        (on(kind="question-answering", max_length=15), "task.max_length: must be at least 16"),
        (on(kind="question-answering", stride=-1), "task.stride: must be at least 0 (given: -1)"),
        (
            {"student": {"kind": "random", "like": "m"}},
            "student.kind: must be copied or checkpoint",
        ),
        ({"student": {"kind": "checkpoint"}}, "student.model: this key is required"),
        ({"loss": {"temperature": 0}}, "loss.temperature: must be at least 0.01 (given: 0)"),
        ({"optim": {"lr": True}}, "optim.lr: must be a number (given: true)"),
        (
            {"train": {"global_batch_size": 0}},
            "train.global_batch_size: must be above 0 (given: 0)",
        ),
    ],
)
def test_a_wrong_value_is_answered_in_plain_words(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    found = complaint(path, **changes)
    assert found.startswith(f"PATH: {message}")
    assert "more)" not in found


@pytest.mark.parametrize("missing", ["name", "teacher", "student"])
def test_a_section_that_must_be_there(path: Path, missing: str) -> None:
    tree = {key: value for key, value in SMALLEST.items() if key != missing}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        reading.load_experiment(path)
    assert caught.value.message == f"{path}: {missing}: this key is required"


NO_LABELS = (
    "augmentation: copies have no labels; they need a teacher, and the weight of "
    "loss.soft_targets or of another term that compares with it above 0"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {}}, "without a teacher, student.source must name a model"),
        ({"loss": weights(labels=0)}, "without a teacher, loss.labels.weight must be above 0"),
        ({"augmentation": {}}, NO_LABELS),
        (
            {"augmentation": {}, "teacher": {"model": "t"}, "loss": weights(soft_targets=0)},
            NO_LABELS,
        ),
        ({"augmentation": {"copies": 0}}, "augmentation.copies: must be above 0 (given: 0)"),
        ({"augmentation": {"replaced": 1}}, "augmentation.replaced: must be below 1 (given: 1)"),
        (
            {"train": {"tokens_per_micro_batch": 127}, **on(kind="tagging", max_length=128)},
            "train.tokens_per_micro_batch 127 is under task.max_length 128",
        ),
        (
            {"train": {"tokens_per_micro_batch": 300}, **on(kind="question-answering")},
            "train.tokens_per_micro_batch 300 is under task.max_length 384",
        ),
        (
            {"loss": weights(soft_targets=0, labels=0, hidden_cosine=0)},
            "loss: every weight is 0: there is nothing to learn",
        ),
        (
            on(kind="question-answering", stride=317),
            "task: max_length 384 leaves no room for more than stride 317 beside a question of "
            "max_question_length 64",
        ),
    ],
)
def test_what_does_not_fit_together(path: Path, changes: dict[str, Any], message: str) -> None:
    assert complaint(path, **changes) == f"PATH: {message}"


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": {"model": "t"}, "student": {}},
        {"teacher": {"model": "t"}, "loss": weights(labels=0)},
        {"teacher": {"model": "t"}, "loss": weights(labels=0, soft_targets=0, hidden_cosine=1)},
        {"loss": weights(soft_targets=0)},
        {"train": {"tokens_per_micro_batch": 128}, **on(kind="tagging", max_length=128)},
        {"train": {"tokens_per_micro_batch": 1}},
        on(kind="question-answering", stride=316),
    ],
)
def test_what_just_fits(path: Path, changes: dict[str, Any]) -> None:
    """Settings at the very edge of what is allowed are allowed."""
    assert isinstance(load(path, **changes), TaskExperiment)


@given(st.integers(16, 60), st.integers(0, 40), st.integers(1, 50))
def test_windows_are_refused_that_would_not_reach_the_end(
    length: int, stride: int, question: int
) -> None:
    """Windows are slid over a context beside the longest question, until one ends it or stands."""
    room = length - question - len(["[CLS]", "[SEP]", "[SEP]"])
    start, context = 0, 200
    while room > 0 and start + room < context:
        following = start + room - stride
        if following <= start:
            break
        start = following
    reaches_the_end = room > 0 and start + room >= context
    sizes = {"max_length": length, "stride": stride, "max_question_length": question}
    tree = {"kind": "question-answering"} | FILES | sizes
    if reaches_the_end:
        assert QuestionAnsweringTask.model_validate(tree).stride == stride
    else:
        with pytest.raises(ValidationError, match="leaves no room"):
            QuestionAnsweringTask.model_validate(tree)
