"""A teacher that is a file: what its section may say, and what may stand beside it."""

from pathlib import Path
from typing import Any

import pytest
from loss_settings import weights
from task_settings import FILES, complaint, load, on

from distilcli.config.experiment import TaskExperiment
from distilcli.config.row_outputs import RowOutputs

TAUGHT = {"teacher_outputs": {}}
SOFT_ALONE = {"loss": weights(soft_targets=1, labels=0)}


def test_a_file_is_a_teacher(path: Path) -> None:
    """With it nothing but the teacher need be learned from."""
    experiment = load(path, **on(teacher_outputs={"files": "s.jsonl"}), **SOFT_ALONE)
    assert isinstance(experiment, TaskExperiment)
    assert experiment.is_taught
    assert experiment.teacher is None
    message = complaint(path, **SOFT_ALONE)
    assert message.endswith("without a teacher, loss.labels.weight must be above 0")
    labels_alone = {"loss": weights(soft_targets=0, labels=1)}
    experiment = load(path, **on(**TAUGHT), **labels_alone)
    assert isinstance(experiment, TaskExperiment)
    assert not experiment.is_taught


def test_the_column_is_what_predict_writes() -> None:
    assert RowOutputs().columns_of(of_numbers=False) == ["logits"]
    assert RowOutputs().columns_of(of_numbers=True) == ["score"]
    assert RowOutputs(column="x").columns_of(of_numbers=True) == ["x"]
    assert RowOutputs(columns={"b": "y", "a": "x"}).columns_of(of_numbers=False) == ["y", "x"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"teacher_outputs": {"column": "a", "columns": {"a": "b", "c": "d"}}}, "column and col"),
        ({"teacher_outputs": {"id": "key"}}, "id says how rows are matched with files"),
        ({"teacher_outputs": {"columns": {"a": "b"}}}, "teacher_outputs.columns: "),
        ({"teacher_outputs": {"files": []}}, "teacher_outputs.files: "),
        ({"teacher_outputs": {"holds": "scores"}}, "teacher_outputs.holds: "),
        ({"teacher_outputs": {"holds": "number"}}, "teacher_outputs.holds: number, but this task"),
        (
            {"kind": "regression", "teacher_outputs": {"holds": "logits"}},
            "teacher_outputs.holds: logits, but the output of this task is a number",
        ),
        (
            {"kind": "regression", "teacher_outputs": {"columns": {"a": "b", "c": "d"}}},
            "teacher_outputs.columns: the output of this task is one number",
        ),
        (
            {"kind": "tagging", "teacher_outputs": {"columns": {"a": "b", "c": "d"}}},
            "teacher_outputs.columns: a sentence has outputs for each of its words",
        ),
        (
            {"kind": "question-answering", **TAUGHT},
            "teacher_outputs: answers are found among the tokens of one tokenizer",
        ),
        (
            {"kind": "reranking", "teacher_outputs": {"files": "a", "id": "key"}},
            "teacher_outputs.id: the scores of a query's candidates are matched by query and doc",
        ),
    ],
)
def test_what_does_not_fit_the_task_is_refused(
    path: Path, task: dict[str, Any], message: str
) -> None:
    assert message in complaint(path, task={"kind": "classification"} | FILES | task)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"model": "m"}}, "teacher and task.teacher_outputs are two teachers"),
        ({"augmentation": {"copies": 2}}, "augmentation: copies need a teacher that runs"),
        *(
            ({"loss": weights(**{name: 1.0})}, f"loss.{name} looks inside the teacher")
            for name in (
                "hidden_cosine",
                "hidden_states",
                "embeddings",
                "attention_relations",
                "attention_distributions",
            )
        ),
    ],
)
def test_what_needs_a_model_is_refused_beside_a_file(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in complaint(path, **on(**TAUGHT), **changes)
