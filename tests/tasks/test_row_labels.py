"""What stands in a row as a label: one class however it is written, and no class by chance."""

import itertools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_rows import VOWELS, labelled_rows, open_rows
from tiny_tasks import pair_tokenizer

from distilcli.errors import ConfigError, DataError, DistilError, ModelError
from distilcli.tasks.classes import Classes, class_names, doubtful
from distilcli.tasks.examples import BadExample
from distilcli.tasks.labels import class_text, class_texts, number_of, tag_text, vector_length
from distilcli.tasks.task import OpenTask

NAN = float("nan")
KINDS = "classification", "multi-label"


def classified(folder: Path, cells: list[Any], dev: list[Any], **settings: Any) -> OpenTask:
    train, other = labelled_rows(cells), labelled_rows(dev)
    return open_rows(folder, pair_tokenizer(), "classification", train, other, **settings)


def multi(folder: Path, cells: list[Any], dev: list[Any], **settings: Any) -> OpenTask:
    train, other = labelled_rows(cells, "labels"), labelled_rows(dev, "labels")
    return open_rows(folder, pair_tokenizer(), "multi-label", train, other, **settings)


def bad_rows(error: DistilError) -> str:
    return "\n".join([str(error.message), *map(str, getattr(error, "details", []))])


# One cell


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1", "1"),
        (" 1.0 ", "1"),
        ("-2.000", "-2"),
        (Decimal("3.0"), "3"),
        (-0.0, "0"),
        (2.5, "2.5"),
        ("1.5", "1.5"),
        ("v1.0", "v1.0"),
        (True, "true"),
        (False, "false"),
        (" a b ", "a b"),
        pytest.param(10**400, str(10**400), id="huge"),
    ],
)
def test_a_class_is_written_in_one_way(value: Any, text: str) -> None:
    assert class_text(value) == text
    assert tag_text(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no label"),
        (NAN, "no label"),
        ("", "no label"),
        (" ", "no label"),
        (-100, "no label (-100)"),
        (-100.0, "no label (-100)"),
        ("-100", "no label (-100)"),
        (float("inf"), "label inf is not finite"),
        ([0, 1], "label [0, 1] is a list, not one class"),
        ({"a": 1}, "label {'a': 1} is a dict, not one class"),
        (b"a", "label b'a' is a bytes, not one class"),
    ],
)
def test_what_is_no_class_is_said(value: Any, reason: str) -> None:
    with pytest.raises(BadExample) as caught:
        class_text(value)
    assert str(caught.value) == reason
    if reason != "no label (-100)":
        with pytest.raises(BadExample):
            tag_text(value)


@pytest.mark.parametrize("value", [-100, -100.0, "-100", " -100 "])
def test_a_word_may_have_no_tag(value: Any) -> None:
    assert tag_text(value) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", " b "], ("a", "b")),
        ([1.0, 0.0], ("1", "0")),
        ([True, False], ("true", "false")),
        ("a, b,,", ("a", "b")),
        ('["a", "b"]', ("a", "b")),
        ("[1.0, 0.0]", ("1", "0")),
        ([], ()),
        ("", ()),
        ("[]", ()),
        (3, ("3",)),
    ],
)
def test_several_classes_in_a_cell(value: Any, expected: tuple[str, ...]) -> None:
    assert class_texts(value) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no label"),
        (NAN, "no label"),
        (-100, "no label (-100)"),
        (["a", None], "a label of the list is nothing"),
        (["a", -100], "no label (-100)"),
        ([0.0, 0.7], "0.7 in the list is neither a class nor 0 or 1"),
        ([["a"]], "label ['a'] is a list, not one class"),
        ("['a', 'b']", "\"['a', 'b']\" is in brackets, but no list of JSON"),
        ("[1. 0. 0.]", "'[1. 0. 0.]' is in brackets, but no list of JSON"),
        ({"a": 1}, "label {'a': 1} is a dict, not one class"),
    ],
)
def test_what_are_no_classes_is_said(value: Any, reason: str) -> None:
    with pytest.raises(BadExample) as caught:
        class_texts(value)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1.0), ("2.5", 2.5), (-100, -100.0), ("1e3", 1e3)]
)
def test_a_number_is_a_number(value: Any, expected: float) -> None:
    assert number_of(value) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no label"),
        (NAN, "no label"),
        (" ", "no label"),
        (True, "label True is no number"),
        ("1_0", "label '1_0' is no number"),
        ("x", "label 'x' is no number"),
        ([1.0], "label [1.0] is no number"),
        ("nan", "label 'nan' is not finite"),
        ("-inf", "label '-inf' is not finite"),
        (1e39, "label 1e+39 is not finite"),
        pytest.param(10**400, f"label {'1' + '0' * 56}... is not finite", id="huge"),
    ],
)
def test_what_is_no_number_for_float32_is_said(value: Any, reason: str) -> None:
    with pytest.raises(BadExample) as caught:
        number_of(value)
    assert str(caught.value) == reason


# Classes of a column


def test_twins_of_a_column_are_one_class(tmp_path: Path) -> None:
    task = classified(tmp_path, [0, 1.0, "1", "0.0", 1], [1.0, 0])
    assert task.labels == ["0", "1"]
    assert task.train.targets.tolist() == [0, 1, 1, 0, 1]
    assert task.dev.targets.tolist() == [1, 0]
    assert task.warnings[1:] == []


def test_bools_are_classes_but_not_beside_numbers(tmp_path: Path) -> None:
    assert classified(tmp_path, [True, False], [True]).labels == ["false", "true"]
    with pytest.raises(DataError) as caught:
        classified(tmp_path, [True, False, 1], [True])
    assert caught.value.message == "task.train: labels are both false and 1"


@pytest.mark.parametrize(
    ("kind", "value"),
    [("classification", ""), *itertools.product(KINDS, [None, NAN, -100, -100.0, "-100"])],
)
def test_no_label_is_a_bad_row(tmp_path: Path, kind: str, value: Any) -> None:
    make = classified if kind == "classification" else multi
    with pytest.raises(DataError) as caught:
        make(tmp_path, ["x", "y", value], ["x"])
    assert "line 3: no label" in bad_rows(caught.value)
    task = make(tmp_path, ["x", "y", value], ["x"], skip_bad_rows=True)
    assert (task.labels, task.skipped.train) == (["x", "y"], 1)


def test_a_class_that_may_mean_nothing_is_warned_of(tmp_path: Path) -> None:
    task = classified(tmp_path, [-1, 0, 1], [0, 1])
    assert task.labels == ["-1", "0", "1"]
    [warning] = [text for text in task.warnings if "'-1'" in text]
    assert warning == (
        "'-1' is taken for a class; if it says that there is no label, list the classes in "
        "task.labels, without it"
    )
    listed = classified(tmp_path, [-1, 0, 1], [0, 1], labels=["0", "1"], skip_bad_rows=True)
    assert (listed.labels, listed.skipped.train) == (["0", "1"], 1)
    assert not any("'-1'" in text for text in listed.warnings)


def test_classes_that_differ_in_capitals_are_said(tmp_path: Path) -> None:
    assert doubtful(["Pos", "neg", "pos"]) == [
        "classes 'Pos' and 'pos' differ in capitals alone; if they are one, list the classes in "
        "task.labels, this one once"
    ]
    task = classified(tmp_path, ["Pos", "neg", "pos"], ["POS"], labels=["neg", "pos"])
    assert task.train.targets.tolist() == [1, 0, 1]
    assert task.dev.targets.tolist() == [1]


def test_a_class_is_the_same_without_capitals_only_where_that_is_one() -> None:
    classes = Classes(["CO", "Co", "N"])
    assert [classes.name_of(name) for name in ("CO", "Co", "n")] == ["CO", "Co", "N"]
    with pytest.raises(BadExample) as caught:
        classes.name_of("co")
    assert str(caught.value) == "unknown class 'co'; there are CO, Co, N"
    assert Classes(["1.0", "2.0"]).name_of("1") == "1.0"


@pytest.mark.parametrize(
    ("found", "given", "teacher", "expected"),
    [
        ("negative positive", None, "POSITIVE NEGATIVE", "POSITIVE NEGATIVE"),
        ("negative positive", "negative positive", "NEGATIVE POSITIVE", "negative positive"),
        ("Negative negative positive", None, "NEGATIVE POSITIVE", "NEGATIVE POSITIVE"),
        ("0 1", None, "1.0 0.0", "1.0 0.0"),
        ("a b", "c a b", "C A B", "c a b"),
    ],
)
def test_capitals_of_a_teacher_do_not_count(
    found: str, given: str | None, teacher: str, expected: str
) -> None:
    listed = given.split() if given else None
    assert class_names(set(found.split()), listed, teacher.split()) == expected.split()


def test_a_hint_about_the_teachers_classes_can_be_followed() -> None:
    with pytest.raises(ModelError) as caught:
        class_names({"no", "yes"}, None, ["no", "yes", "maybe"])
    assert caught.value.hint.endswith("list them all, task.labels=[no, yes, maybe]")
    listed = ["no", "yes", "maybe"]
    assert class_names({"no", "yes"}, listed, listed) == listed
    with pytest.raises(ModelError) as caught:
        class_names({"no", "yes"}, ["no", "yes"], ["Yes", "No"])
    assert caught.value.hint == "List them in the teacher's order: task.labels=[Yes, No]"
    assert class_names({"no", "yes"}, ["Yes", "No"], ["Yes", "No"]) == ["Yes", "No"]
    with pytest.raises(ModelError) as caught:
        class_names({"CO", "Co"}, None, ["CO", "cO"])
    assert "id2label of its config.json" in caught.value.hint


# A value for each class


VECTORS = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    "cells",
    [
        VECTORS,
        [[int(x) for x in row] for row in VECTORS],
        [[bool(x) for x in row] for row in VECTORS],
        [json.dumps(row) for row in VECTORS],
        ["1,0,0", "0,0,0", "0,1,1"],
    ],
)
def test_a_value_for_each_class_is_no_class(tmp_path: Path, cells: list[Any]) -> None:
    task = multi(tmp_path, cells, cells[:2])
    assert task.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert task.train.targets.tolist() == VECTORS
    named = multi(tmp_path, cells, cells[:2], labels=["x", "y", "z"])
    assert named.labels == ["x", "y", "z"]
    assert named.train.targets.tolist() == VECTORS


def test_rows_of_ids_are_no_vectors(tmp_path: Path) -> None:
    task = multi(tmp_path, [[0], [1], [0, 1], []], [[1]])
    assert task.labels == ["0", "1"]
    assert task.train.targets.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert vector_length([("0", "1"), ("1", "0")]) == 2
    assert vector_length([("0", "1"), ("1",)]) is None
    assert vector_length([("0",), ("1",)]) is None
    assert vector_length([("0", "0", "1"), ("1",)]) in (1, 3)
    assert vector_length([]) is None


def test_vectors_of_other_lengths_are_bad_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        multi(tmp_path, [*VECTORS, [1.0, 0.0]], VECTORS[:2])
    assert "line 4: labels 1, 0: other rows have 3 values of 0 or 1" in bad_rows(caught.value)
    with pytest.raises(DataError) as caught:
        multi(tmp_path, VECTORS, [["LABEL_0"]])
    assert "line 1: labels LABEL_0: other rows have 3 values" in bad_rows(caught.value)
    with pytest.raises(DataError) as caught:
        multi(tmp_path, [["a"], ["b"], [0, 1, 0]], [["a"]])
    assert "line 3: labels 0, 1, 0: values of 0 or 1, but other rows name classes" in bad_rows(
        caught.value
    )


def test_as_many_names_as_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        multi(tmp_path, VECTORS, VECTORS[:2], labels=["x", "y"])
    assert caught.value.message == "task.labels: 2 classes, but the rows have 3 values of 0 or 1"


# Words without a tag


def tagged(folder: Path, tags: list[list[Any]], **settings: Any) -> OpenTask:
    rows = [{"tokens": [f"b{VOWELS[i]}" for i in range(len(row))], "tags": row} for row in tags]
    dev = [{"tokens": ["da", "de", "di"], "tags": [-100, 1, 0]}]
    return open_rows(folder, pair_tokenizer(), "tagging", rows, dev, **settings)


def test_a_word_of_minus_100_is_neither_trained_on_nor_scored(tmp_path: Path) -> None:
    task = tagged(tmp_path, [[-100, 0, 1, -100], [1, -100.0]])
    assert task.labels == ["0", "1"]
    assert task.train.targets.tolist() == [0, 1, 1]
    assert task.train.output_positions.tolist() == [2, 3, 1]
    assert task.train.lengths.tolist() == [6, 4]  # the words are there to be seen
    right = np.eye(2)[[1, 0]]
    assert task.scores(right)["accuracy"] == 1.0
    assert len(task.constant_outputs()) == 2


def test_a_piece_of_a_sentence_without_a_tag_is_no_input(tmp_path: Path) -> None:
    task = tagged(tmp_path, [[0, 1, 0], [-100] * 4 + [1]], max_length=8)
    assert len(task.train) == 2
    rows = [{"tokens": ["ba"] * 12, "tags": [-100] * 6 + [0, 1] + [-100] * 4}]
    dev = [{"tokens": ["bo"], "tags": [1]}]
    long = open_rows(tmp_path, pair_tokenizer(), "tagging", rows, dev, max_length=8)
    assert (len(long.train), long.train.output_positions.tolist()) == (1, [1, 2])


def test_a_sentence_needs_a_tag(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        tagged(tmp_path, [[0, 1], [-100, -100]])
    assert "line 2: no word has a tag: all are -100" in bad_rows(caught.value)
    for nothing in (None, NAN, ""):
        with pytest.raises(DataError) as caught:
            tagged(tmp_path, [[0, 1], [0, nothing]])
        assert "line 2: no tag for word 2, 'be'" in bad_rows(caught.value)
