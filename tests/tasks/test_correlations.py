"""Scores of numbers, which are correlations, against formulas and cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_rows import open_rows
from tiny_tasks import pair_tokenizer

TOKENIZER = pair_tokenizer()


def regression(folder, train, dev):
    rows = [[{"text": "ba", "label": label} for label in labels] for labels in (train, dev)]
    return open_rows(folder, TOKENIZER, "regression", *rows)


def column(values):
    return np.array(values, np.float32)[:, None]


def pearson(first, second):
    first, second = (np.array(side, np.float64) - np.mean(side) for side in (first, second))
    return (first * second).sum() / math.sqrt((first**2).sum() * (second**2).sum())


def test_correlations_by_hand(tmp_path):
    """Pearson and Spearman, with ties, are what a calculation by hand gives."""
    task = regression(tmp_path, [0], [1, 2, 2, 4, 5])
    found = [1, 1, 5, 4, 9]
    # From the means 2.8 and 4: (-1.8 -0.8 -0.8 1.2 2.2) and (-3 -3 1 0 5).
    by_value = (5.4 + 2.4 - 0.8 + 0 + 11) / math.sqrt(10.8 * 44)
    # Ranks 1 2.5 2.5 4 5 and 1.5 1.5 4 3 5, of mean 3: squares are 9.5 on both sides.
    by_rank = (3 + 0.75 - 0.5 + 0 + 4) / 9.5
    scores = task.scores(column(found))
    assert scores == pytest.approx(
        {
            "pearson": by_value,
            "spearman": by_rank,
            "pearson_spearman": (by_value + by_rank) / 2,
        },
        abs=1e-6,
    )


def test_correlations_have_a_sign_and_ranks_know_no_scale(tmp_path):
    task = regression(tmp_path, [0], [1, 2, 3, 4])
    assert task.scores(column([8, 6, 4, 2]))["pearson"] == pytest.approx(-1, abs=1e-6)
    scores = task.scores(column([1, 10, 100, 1000]))
    assert scores["spearman"] == pytest.approx(1, abs=1e-6)
    assert scores["pearson"] == pytest.approx(pearson([1, 2, 3, 4], [1, 10, 100, 1000]), abs=1e-6)
    assert scores["pearson"] < 0.9


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Opens a task of numbers with these dev labels."""
    folder = tmp_path_factory.mktemp("numbers")
    return lambda truth: regression(folder, [0], truth)


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=12))
def test_correlations_are_the_formulas(numbers, pairs):
    truth, found = zip(*pairs, strict=True)
    scores = numbers(truth).scores(column(found))

    def ranks(values):
        less = [sum(other < value for other in values) for value in values]
        equal = [values.count(value) for value in values]
        return [below + (same + 1) / 2 for below, same in zip(less, equal, strict=True)]

    if len(set(truth)) == 1 or len(set(found)) == 1:
        expected = 0.0, 0.0
    else:
        expected = pearson(truth, found), pearson(ranks(truth), ranks(found))
    names = ("pearson", "spearman", "pearson_spearman")
    values = (*expected, sum(expected) / 2)
    assert scores == pytest.approx(dict(zip(names, values, strict=True)), abs=1e-5)


def test_outputs_that_hardly_differ_are_correlated_exactly(tmp_path):
    """What single precision keeps of the differences from their mean is too little."""
    task = regression(tmp_path, [0], [1, 2, 3])
    last = np.nextafter(np.float32(2.5), np.float32(3))
    assert task.scores(column([2.5, 2.5, last]))["pearson"] == pytest.approx(3**0.5 / 2, abs=1e-6)


def test_a_constant_number_is_the_mean_and_has_no_correlation(tmp_path):
    task = regression(tmp_path, [1, 2, 6], [1, 2])
    assert task.constant_outputs().tolist() == [[3.0], [3.0]]
    assert set(task.scores(task.constant_outputs()).values()) == {0.0}
    same = regression(tmp_path, [1, 2], [2, 2])
    assert set(same.scores(column([1, 2])).values()) == {0.0}
