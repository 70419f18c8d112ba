"""Scores of rankings, worked out by hand, and against every order that there is."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from distilcli.tasks.rankings import (
    expected_ndcg,
    expected_reciprocal_rank,
    ndcg,
    rank_correlation,
    reciprocal_rank,
)


def both(scores, labels) -> tuple[float, float]:
    arrays = np.array(scores, dtype=float), np.array(labels, dtype=float)
    return ndcg(*arrays), reciprocal_rank(*arrays)


def test_a_ranking_by_hand():
    """Ranks 1 to 4 hold the labels 0, 2, 0, 1: gains of 2 / log2(3) and 1 / log2(5)."""
    found = both([0.9, 0.8, 0.7, 0.6], [0, 2, 0, 1])
    gained, best = 2 / math.log2(3) + 1 / math.log2(5), 2 + 1 / math.log2(3)
    assert found == pytest.approx((gained / best, 1 / 2))
    assert found[0] == pytest.approx(0.643322, abs=1e-6)


def test_the_best_order_has_1_and_the_order_of_rows_does_not_matter():
    assert both([3, 2, 1], [2, 1, 0]) == (1, 1)
    assert both([1, 3, 2], [0, 2, 1]) == (1, 1)


def test_of_equal_scores_the_less_relevant_come_first():
    assert both([5, 5, 5], [1, 0, 0]) == pytest.approx((1 / math.log2(4), 1 / 3))
    assert both([5, 5, 5], [0, 0, 1]) == both([5, 5, 5], [1, 0, 0])


def test_only_ten_ranks_count():
    labels = [0] * 10 + [1]
    assert both(range(11, 0, -1), labels) == (0, 0)
    assert both(range(11), labels) == (1, 1)
    twelve = [1] * 12
    assert both(range(12), twelve) == pytest.approx((1, 1))


@pytest.mark.parametrize(
    "labels", [[1, 0], [2, 0, 1], [0, 0, 0, 1], [1, 1, 0, 3], [1], [1, 1, 1], [1, 0, 0, 1, 0]]
)
def test_knowing_nothing_is_the_mean_over_all_orders(labels):
    found = [both(order, labels) for order in itertools.permutations(range(len(labels)))]
    array = np.array(labels, dtype=float)
    expected = expected_ndcg(array), expected_reciprocal_rank(array)
    assert np.mean(found, axis=0) == pytest.approx(expected)


def test_knowing_nothing_of_more_candidates_than_ranks():
    """One relevant of 20 is at each rank with 1/20; nine ranks of nine others among 18 do, too."""
    one = np.zeros(20)
    one[3] = 1
    assert expected_reciprocal_rank(one) == pytest.approx(sum(1 / k for k in range(1, 11)) / 20)
    discounts = sum(1 / math.log2(rank + 1) for rank in range(1, 11))
    assert expected_ndcg(one) == pytest.approx(discounts / 20)
    draw = np.random.default_rng(0)
    labels = np.array([1.0] * 3 + [0.0] * 15)
    orders = [draw.permutation(18).astype(float) for _ in range(20_000)]
    mean = np.mean([both(order, labels) for order in orders], axis=0)
    assert mean == pytest.approx(
        (expected_ndcg(labels), expected_reciprocal_rank(labels)), abs=0.01
    )


@pytest.mark.parametrize("seed", range(10))
def test_rank_correlation_is_that_of_scipy(seed):
    draw = np.random.default_rng(seed)
    one, other = draw.integers(0, 4, (2, 7)).astype(float)
    expected = stats.kendalltau(one, other).statistic
    assert rank_correlation(one, other) == pytest.approx(expected)


def test_rank_correlation_of_a_constant_is_0():
    assert rank_correlation(np.zeros(3), np.arange(3.0)) == 0
    assert rank_correlation(np.arange(3.0), np.arange(3.0)) == 1
    assert rank_correlation(np.arange(3.0), -np.arange(3.0)) == -1
