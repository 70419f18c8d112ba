"""Scores of classes, one or several at once, against formulas and cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from score_values import near, one_hot
from task_rows import open_rows
from tiny_tasks import pair_tokenizer

TOKENIZER = pair_tokenizer()


def classification(folder, train, dev, **settings):
    rows = [[{"text": "ba", "label": label} for label in labels] for labels in (train, dev)]
    return open_rows(folder, TOKENIZER, "classification", *rows, **settings)


def test_scores_of_two_classes(tmp_path):
    # 3 found, 2 missed, 1 found in error, 4 rightly left.
    dev = ["yes"] * 5 + ["no"] * 5
    chosen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    task = classification(tmp_path, ["yes", "no"], dev)
    assert task.labels == ["no", "yes"]
    f1, f1_of_no = 6 / (6 + 1 + 2), 8 / (8 + 2 + 1)
    assert task.scores(one_hot(chosen, 2)) == {
        "accuracy": near(0.7),
        "f1": near(f1),
        "macro_f1": near((f1 + f1_of_no) / 2),
        "accuracy_f1": near((0.7 + f1) / 2),
        "matthews": near((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 6 * 5)),
    }


def test_f1_is_of_the_last_class_that_the_experiment_lists(tmp_path):
    task = classification(tmp_path, ["yes", "no"], ["yes", "no", "no"], labels=["yes", "no"])
    scores = task.scores(one_hot([0, 0, 1], 2))
    assert scores["f1"] == near(2 / 3)  # of "no": 1 found, 1 missed
    assert scores["accuracy"] == near(2 / 3)


def f1_of(truth, chosen, kind):
    pairs = list(zip(truth, chosen, strict=True))
    both = pairs.count((kind, kind))
    wrong = sum((kind in pair) and pair[0] != pair[1] for pair in pairs)
    return 2 * both / (2 * both + wrong) if both else 0.0


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    """Opens a task of three classes with these dev labels."""
    folder = tmp_path_factory.mktemp("classes")

    def make(truth):
        return classification(folder, "012", [str(kind) for kind in truth])

    return make


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_scores_of_many_classes_are_the_formulas(three_classes, pairs):
    truth, chosen = zip(*pairs, strict=True)
    assume(len({*truth, *chosen}) > 1)  # see the next test
    scores = three_classes(truth).scores(one_hot(chosen, 3))
    count, right = len(pairs), sum(a == b for a, b in pairs)
    # Matthews' coefficient of several classes (Gorodkin 2004): the correlation of indicators.
    true = np.array([truth.count(kind) for kind in range(3)])
    found = np.array([chosen.count(kind) for kind in range(3)])
    spread = (count**2 - (true**2).sum()) * (count**2 - (found**2).sum())
    matthews = (right * count - (true * found).sum()) / math.sqrt(spread) if spread else 0.0
    assert scores == {
        "accuracy": near(right / count),
        "macro_f1": near(np.mean([f1_of(truth, chosen, kind) for kind in {*truth, *chosen}])),
        "matthews": near(matthews),
    }


def test_dev_examples_of_one_class_are_scored_without_a_warning(tmp_path):
    task = classification(tmp_path, ["yes", "no"], ["no", "no"])
    assert task.scores(one_hot([0, 0], 2)) == {
        "accuracy": 1.0,
        "f1": 0.0,
        "macro_f1": 1.0,
        "accuracy_f1": 0.5,
        "matthews": 0.0,
    }


def test_constant_classes_are_the_most_frequent(tmp_path):
    task = classification(tmp_path, ["b", "a", "c", "b", "b", "c"], ["a", "b", "b", "c"])
    outputs = task.constant_outputs()
    assert outputs.shape == (4, 3)
    assert outputs.argmax(axis=1).tolist() == [1, 1, 1, 1]
    assert np.array_equal(outputs[0].argsort(), [0, 2, 1])  # 1, 3 and 2 of 6
    scores = task.scores(outputs)
    assert scores["accuracy"] == 0.5
    assert scores["matthews"] == 0.0
    assert scores["macro_f1"] == near((2 * 2 / (2 * 2 + 2)) / 3)


# Several classes at once


def multi_label(folder, train, dev):
    rows = [
        [{"text": "ba", "labels": sorted(label)} for label in labels] for labels in (train, dev)
    ]
    return open_rows(folder, TOKENIZER, "multi-label", *rows)


def test_scores_of_several_classes_at_once(tmp_path):
    task = multi_label(tmp_path, ["abc"], ["a", "ab", "", "b"])
    outputs = np.array(
        [
            [0.1, -1, -9],  # a
            [2, -0.1, 0.2],  # a c
            [-1, 0, -1],  # none: 0 is no yes
            [-1, 5, -1],  # b
        ],
        np.float32,
    )
    # a: 2 of 2; b: 1 found, 1 missed; c: never true, once found.
    assert task.scores(outputs) == {
        "micro_f1": near(2 * 3 / (2 * 3 + 1 + 1)),
        "macro_f1": near((1 + 2 / 3 + 0) / 3),
        "exact_match": near(3 / 4),
    }


def test_no_class_at_all_has_no_f1(tmp_path):
    task = multi_label(tmp_path, ["ab"], ["", ""])
    outputs = np.full((2, 2), -1.0, np.float32)
    assert task.scores(outputs) == {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": 1.0}


def test_constant_sets_have_the_classes_of_more_than_half(tmp_path):
    task = multi_label(tmp_path, ["ab", "a", "a", "bc", "a"], ["a", "ab", "b"])
    outputs = task.constant_outputs()
    # a in 4 of 5, b in 2, c in 1: log-odds.
    expected = [math.log(4), math.log(2 / 3), math.log(1 / 4)]
    assert outputs.shape == (3, 3)
    assert np.allclose(outputs, expected, atol=1e-5)
    assert task.scores(outputs)["exact_match"] == near(1 / 3)


def test_classes_that_are_always_or_never_there_have_finite_odds(tmp_path):
    task = multi_label(tmp_path, ["ab", "a"], ["a"])
    outputs = task.constant_outputs()
    assert np.isfinite(outputs).all()
    assert outputs[0, 0] > 5
