"""The classes of a task: their order, what the teacher says of it, several or none in a row."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_files import GOOD, comma, jsonl, other_class, parquet, section, tab, write
from task_reading import opened
from tiny_tasks import pair_tokenizer

from distilcli.errors import ConfigError, ModelError
from distilcli.tasks.classes import class_names
from distilcli.tasks.outputs import AnyOf

number_or_word = st.one_of(
    st.integers(-60, 60).map(str), st.text("abLz_-", min_size=1).filter(lambda text: text != "-")
)


@given(st.sets(number_or_word, min_size=2), st.randoms())
def test_classes_that_are_found_are_numbers_before_words(found, draw):
    shuffled = sorted(found)
    draw.shuffle(shuffled)
    numbers = [name for name in found if name.lstrip("-").isdigit()]
    expected = sorted(numbers, key=int) + sorted(set(found) - set(numbers))
    assert class_names(set(shuffled), None, None) == expected


def test_two_comes_before_ten_and_a_word_after_both():
    assert class_names({"10", "b", "2", "-1", "0.5", "B"}, None, None) == [
        *("-1", "0.5", "2", "10", "B", "b")
    ]


@pytest.mark.parametrize("word", ["nan", "inf", "Infinity"])
def test_a_word_that_python_takes_for_a_number_is_in_one_place(word):
    numbers = [str(number) for number in range(12)]
    assert class_names({word, *numbers}, None, None) == [*numbers, word]


def test_classes_that_are_given_keep_their_order():
    given = ["yes", "10", "2", "no"]
    assert class_names({"2", "no"}, given, None) == given


@pytest.mark.parametrize(
    ("found", "given", "teacher", "expected"),
    [
        # The teacher's names, in its order.
        ("no yes", None, "yes no", "yes no"),
        ("b c a", None, "c a b", "c a b"),
        # A teacher without names: the order of the data or of the experiment.
        ("no yes", None, "LABEL_0 LABEL_1", "no yes"),
        ("no yes", "yes no", "LABEL_0 LABEL_1", "yes no"),
        # Data with ids and no names: they are the teacher's ids.
        ("0 1", None, "negative positive", "0 1"),
        ("0 1", "0 1", "negative positive", "0 1"),
        ("0 1 2", None, "b a c", "0 1 2"),
        # Both say the same.
        ("no yes", "no yes", "no yes", "no yes"),
        # The teacher's names are numbers, too, and say which is which.
        ("0 1", None, "1 0", "1 0"),
        ("0 1 2", None, "2 0 1", "2 0 1"),
    ],
)
def test_the_teacher_says_which_output_is_which_class(found, given, teacher, expected):
    given = given.split() if given else None
    assert class_names(set(found.split()), given, teacher.split()) == expected.split()


@pytest.mark.parametrize(
    ("found", "given", "teacher", "message"),
    [
        ("no yes", None, "no yes maybe", "classes are no, yes, maybe, the task's are no, yes"),
        ("no yes maybe", None, "no yes", "classes are no, yes, the task's are maybe, no, yes"),
        ("no yes", None, "negative positive", "are negative, positive, the task's are no, yes"),
        ("no yes", None, "LABEL_0 LABEL_1 LABEL_2", "LABEL_2, the task's are no, yes"),
        ("0 1", None, "negative neutral positive", "positive, the task's are 0, 1"),
        ("no yes", "no yes", "yes no", "in the order yes, no, task.labels says no, yes"),
        ("0 1", "0 1", "1 0", "in the order 1, 0, task.labels says 0, 1"),
        ("a b", None, " ".join("abcdefghij"), "a, b, c, d, e, f, g, h and 2 more, the task's"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(found, given, teacher, message):
    given = given.split() if given else None
    with pytest.raises(ModelError) as caught:
        class_names(set(found.split()), given, teacher.split())
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("found", "given", "message"),
    [
        ({"yes"}, None, "task.labels: yes"),
        ({"no", "yes"}, ["yes"], "task.labels: yes"),
        ({"no", "yes"}, ["no", "yes", "no"], "task.labels: no, yes, no"),
        (set(), None, "task.labels: none"),
    ],
)
def test_a_task_has_two_classes_or_more(found, given, message):
    with pytest.raises(ConfigError) as caught:
        class_names(found, given, None)
    assert caught.value.message == message
    assert caught.value.hint == "A task needs two classes or more."


@pytest.mark.parametrize("kind", ["classification", "multi-label", "tagging"])
def test_classes_of_a_task_are_those_of_its_training_rows(tmp_path, kind):
    rows = [dict(GOOD[kind]), dict(GOOD[kind]) | other_class(kind)]
    train = write(tmp_path / "train.jsonl", jsonl(rows))
    dev = write(tmp_path / "dev.jsonl", jsonl(rows[1:]))
    names = ["N", "V"] if kind == "tagging" else ["no", "yes"]
    tokenizer = pair_tokenizer()
    assert opened(section(kind, train, dev), tokenizer).labels == names
    backwards = opened(section(kind, train, dev), tokenizer, names[::-1])
    assert backwards.labels == names[::-1]
    given = opened(section(kind, train, dev, labels=["Z", *names]), tokenizer)
    assert given.labels == ["Z", *names]


# Several labels, and none


LABEL_ROWS = [["b", "a"], [], ["10"], ["2", "b"]]
LABEL_TARGETS = [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("rows.jsonl", LABEL_ROWS),
        ("rows.parquet", LABEL_ROWS),
        ("rows.jsonl", ["b,a", "", "10", " 2 ,, b,b "]),
        ("rows.csv", ["b, a", "", " 10", "2,b,"]),
        ("rows.tsv", ["a,b", " ", "10", "b,2"]),
        ("rows.parquet", ["a,b", ",", "10", "b,2"]),
        ("rows.jsonl", [["a", " b "], [""], [10], ["b", 2, "b"]]),
    ],
)
def test_labels_come_as_a_list_or_with_commas(tmp_path, name, cells):
    make = {".jsonl": jsonl, ".csv": comma, ".tsv": tab, ".parquet": parquet}[Path(name).suffix]
    path = write(tmp_path / name, make([{"text": "ba", "labels": cell} for cell in cells]))
    found = opened(section("multi-label", path, path), pair_tokenizer())
    assert found.labels == ["2", "10", "a", "b"]
    assert found.train.targets.tolist() == LABEL_TARGETS
    assert found.train.targets.dtype == np.float32
    assert found.skipped.train == 0
    assert isinstance(found.outputs, AnyOf)


def test_labels_are_the_same_out_of_a_folder_with_named_classes(tmp_path):
    import datasets

    names = ["b", "a", "10", "2"]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "labels": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    columns = {
        "text": ["ba"] * len(LABEL_ROWS),
        "labels": [[names.index(label) for label in row] for row in LABEL_ROWS],
    }
    with (tmp_path / "train.parquet").open("wb") as file:
        datasets.Dataset.from_dict(columns, features=features).to_parquet(file)
    source = {"hub": str(tmp_path), "split": "train"}
    found = opened(section("multi-label", source, source), pair_tokenizer())
    assert found.labels == ["2", "10", "a", "b"]
    assert found.train.targets.tolist() == LABEL_TARGETS


@pytest.mark.parametrize(
    ("kind", "column", "value"),
    [
        ("classification", "label", float("nan")),
        ("multi-label", "labels", ["a", None]),
        ("multi-label", "labels", float("nan")),
    ],
)
def test_what_stands_for_nothing_is_no_class_of_that_name(tmp_path, kind, column, value):
    cells = ["a", "b", value] if kind == "classification" else [["a"], ["b"], value]
    path = write(tmp_path / "rows.jsonl", jsonl([{"text": "ba", column: cell} for cell in cells]))
    found = opened(section(kind, path, path, skip_bad_rows=True), pair_tokenizer())
    assert found.labels == ["a", "b"]
