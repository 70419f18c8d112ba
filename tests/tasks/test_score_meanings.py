"""What scores mean: which classes a mean is over, what an entity is, which scores a task has."""

from typing import get_args

import numpy as np
import pytest
from score_values import near
from task_reading import opened
from task_rows import open_rows, question
from tiny_tasks import pair_tokenizer

from distilcli.config import tasks
from distilcli.errors import ConfigError
from distilcli.tasks.entities import entities, not_of_entities

TOKENIZER = pair_tokenizer()


def one_hot(ids, number):
    """Logits of which the given ones are the highest."""
    return np.eye(number, dtype=np.float32)[np.asarray(ids)]


@pytest.mark.parametrize("kind", ["classification", "tagging", "multi-label"])
def test_the_mean_of_f1_is_over_the_classes_that_occur(tmp_path, kind):
    """In truth or among what was chosen, as scikit-learn has it: all right is 1."""
    if kind == "multi-label":
        rows = [{"text": f"ba {name}", "labels": [name]} for name in "abc"]
        task = open_rows(tmp_path, TOKENIZER, kind, rows, rows[:2])
    elif kind == "classification":
        rows = [{"text": f"ba {name}", "label": name} for name in "abc"]
        task = open_rows(tmp_path, TOKENIZER, kind, rows, rows[:2])
    else:
        rows = [{"tokens": ["ba"] * 3, "tags": ["a", "b", "c"]}]
        dev = [{"tokens": ["ba"] * 2, "tags": ["a", "b"]}]
        task = open_rows(tmp_path, TOKENIZER, kind, rows, dev)
    logits = one_hot([0, 1], 3) - 0.5
    assert task.scores(logits)["macro_f1"] == 1
    # Chosen once and wrong, c occurs, and counts as 0.
    assert task.scores(one_hot([0, 2], 3) - 0.5)["macro_f1"] == near(1 / 3)


# The class that F1 is of


def binary(folder, **settings):
    """A task of yes and no, and outputs with 1 of 1 yes and 2 of 3 no found."""
    rows = [{"text": "ba", "label": "no"}, {"text": "be", "label": "yes"}]
    dev = [{"text": f"d{v}", "label": "yes" if v == "a" else "no"} for v in "aeio"]
    task = open_rows(folder, TOKENIZER, "classification", rows, dev, **settings)
    chosen = [task.labels.index(name) for name in ("yes", "yes", "no", "no")]
    return task, one_hot(chosen, 2)


@pytest.mark.parametrize(
    ("settings", "positive", "f1"),
    [
        ({}, "yes", 2 / 3),
        ({"labels": ["yes", "no"]}, "no", 4 / 5),
        ({"positive": "no"}, "no", 4 / 5),
        ({"positive": "YES"}, "yes", 2 / 3),
        ({"labels": ["yes", "no"], "positive": "yes"}, "yes", 2 / 3),
    ],
)
def test_f1_is_of_the_class_that_is_named(tmp_path, settings, positive, f1):
    task, outputs = binary(tmp_path, **settings)
    assert task.positive == positive
    assert task.scores(outputs)["f1"] == near(f1)
    assert task.title("f1") == f"f1 ({positive})"
    assert task.title("accuracy") == "accuracy"


def test_no_score_depends_on_the_order_of_a_teachers_outputs(tmp_path):
    binary(tmp_path)  # writes the rows
    sources = {split: {"files": [str(tmp_path / f"{split}.jsonl")]} for split in ("train", "dev")}
    found = []
    for teacher in (None, ["no", "yes"], ["yes", "no"], ["YES", "NO"]):
        task = opened({"kind": "classification"} | sources, TOKENIZER, teacher)
        names = [name.lower() for name in task.labels]
        chosen = [names.index(name) for name in ("yes", "yes", "yes", "yes")]
        found.append((task.positive.lower(), task.scores(one_hot(chosen, 2))))
    assert found == [found[0]] * 4
    assert found[0][0] == "yes"
    assert found[0][1]["f1"] == near(2 / 5)


def test_a_positive_class_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        binary(tmp_path, positive="maybe")
    assert caught.value.message == ("task.positive: unknown class 'maybe'; there are no, yes")
    rows = [{"text": f"ba {name}", "label": name} for name in "abc"]
    with pytest.raises(ConfigError) as caught:
        open_rows(tmp_path, TOKENIZER, "classification", rows, rows[1:], positive="a")
    assert caught.value.message == "task.positive: a, but there are 3 classes"


# Entities in other schemes; seqeval 1.2.2 finds these in its default mode


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("S-X O B-Y E-Y", {("X", 0, 0), ("Y", 2, 3)}),
        ("B-X I-X E-X E-X", {("X", 0, 2), ("X", 3, 3)}),
        ("S-X S-X I-X", {("X", 0, 0), ("X", 1, 1), ("X", 2, 2)}),
        ("B-X O O", {("X", 0, 0)}),
        ("O E-X I-X", {("X", 1, 1), ("X", 2, 2)}),
        ("B-X E-Y", {("X", 0, 0), ("Y", 1, 1)}),
        ("U-X O B-Y I-Y L-Y", {("X", 0, 0), ("Y", 2, 4)}),
        ("B-X M-X E-X W-Y", {("X", 0, 2), ("Y", 3, 3)}),
        ("B I O B", {("", 0, 1), ("", 3, 3)}),
    ],
)
def test_entities_in_every_scheme(tags, expected):
    assert entities(tags.split()) == expected


def test_a_tag_of_no_scheme_is_named(tmp_path):
    assert not_of_entities(["O", "B-X", "L-Y", "I"]) is None
    assert not_of_entities(["O", "B-X", "X"]) == "X"
    assert not_of_entities(["O", "B-"]) == "B-"
    assert not_of_entities(["O", "O"]) == "O"
    rows = [{"tokens": ["ba", "be", "bi"], "tags": ["B-X", "X", "O"]}]
    with pytest.raises(ConfigError) as caught:
        open_rows(tmp_path, TOKENIZER, "tagging", rows, rows, score="entity_f1")
    assert caught.value.message == (
        "task.score: entity_f1 needs tags such as B-PER, I-PER, O, or of BIOES, BILOU or BMES; "
        "X is none"
    )


# What all tasks have in common

_ROWS = {
    "classification": [{"text": "ba", "label": label} for label in ("no", "yes")],
    "multi-label": [{"text": "ba", "labels": label} for label in (["a"], ["b"])],
    "regression": [{"text": "ba", "label": label} for label in (1, 2)],
    "question-answering": [question("ba be", "be")],
    "tagging": [{"tokens": ["ba", "be", "bi"], "tags": ["B-X", "I-X", "O"]}],
}


@pytest.mark.parametrize(
    "config",
    [
        tasks.ClassificationTask,
        tasks.MultiLabelTask,
        tasks.RegressionTask,
        tasks.QuestionAnsweringTask,
        tasks.TaggingTask,
    ],
)
def test_every_score_that_can_be_chosen_is_computed(tmp_path, config):
    (kind,) = get_args(config.model_fields["kind"].annotation)
    for score in get_args(config.model_fields["score"].annotation):
        task = open_rows(tmp_path, TOKENIZER, kind, _ROWS[kind], _ROWS[kind], score=score)
        assert task.score == score
        scores = task.scores(task.constant_outputs())
        assert all(isinstance(value, float) for value in scores.values())
        assert score in scores


@pytest.mark.parametrize(
    ("kind", "score", "rows"),
    [
        ("classification", "f1", [{"text": "ba", "label": label} for label in "abc"]),
        ("classification", "accuracy_f1", [{"text": "ba", "label": label} for label in "abc"]),
        ("tagging", "entity_f1", [{"tokens": ["ba", "be"], "tags": ["NOUN", "VERB"]}]),
    ],
)
def test_a_score_that_the_classes_do_not_have_is_refused(tmp_path, kind, score, rows):
    """Here, not after hours of training."""
    with pytest.raises(ConfigError, match=r"task\.score"):
        open_rows(tmp_path, TOKENIZER, kind, rows, rows, score=score)
