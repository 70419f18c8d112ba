"""Scores of vectors, on examples that can be worked out by hand, and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from distilcli.tasks.vector_scores import (
    mean_cosine,
    neighbours_kept,
    pair_cosines,
    retrieval_scores,
    spearman,
)


def at_angles(*degrees: float) -> np.ndarray:
    """Vectors of the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_spearman_is_that_of_scipy_with_ties_too(seed):
    draw = np.random.default_rng(seed)
    one, other = draw.integers(0, 6, 50) / 5, draw.normal(size=50).round(1)
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)


def test_a_constant_side_ranks_nothing():
    assert spearman(np.ones(5), np.arange(5.0)) == 0.0


def test_the_length_of_vectors_does_not_matter_to_pairs():
    vectors = at_angles(0, 60, 90) * np.array([[3.0], [1.0], [0.5]])
    found = pair_cosines(vectors, np.array([0, 0, 1]), np.array([1, 2, 1]))
    assert found == pytest.approx([0.5, 0.0, 1.0], abs=1e-6)


def test_ndcg_and_recall_by_hand():
    """The relevant documents stand at places 2 (grade 2) and 4 (grade 1) of five."""
    documents = at_angles(1, 2, 3, 4, 5)
    found = retrieval_scores(at_angles(0), documents, [{1: 2.0, 3: 1.0}])
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    gained = 2 / math.log2(3) + 1 / math.log2(5)
    assert found == {"ndcg@10": pytest.approx(gained / ideal), "recall@10": 1.0}


def test_only_the_first_ten_count():
    documents = at_angles(*range(1, 13))
    found = retrieval_scores(at_angles(0), documents, [{9: 1.0, 10: 1.0}])
    ideal = 1 + 1 / math.log2(3)
    assert found == {"ndcg@10": pytest.approx(1 / math.log2(11) / ideal), "recall@10": 0.5}


def test_every_query_counts_the_same():
    documents = at_angles(0, 90)
    found = retrieval_scores(at_angles(1, 1), documents, [{0: 1.0}, {1: 1.0}])
    assert found["ndcg@10"] == pytest.approx((1 + 1 / math.log2(3)) / 2)


def test_vectors_that_say_nothing_score_nothing():
    """Twelve equal documents: the relevant one stands last, wherever it is in the list."""
    for place in (0, 11):
        found = retrieval_scores(at_angles(0), at_angles(*[5] * 12), [{place: 1.0}])
        assert found == {"ndcg@10": 0.0, "recall@10": 0.0}


def test_the_mean_cosine_is_that_of_texts_in_their_order():
    assert mean_cosine(at_angles(0, 0), at_angles(0, 60)) == pytest.approx(0.75)
    assert mean_cosine(at_angles(0, 0), np.ones((2, 3))) is None


def test_neighbours_kept_by_hand():
    """Of 4 texts the two nearest others of each: by the other encoder two texts change places."""
    one, other = at_angles(0, 10, 25, 45), at_angles(0, 10, 45, 25)
    # by one: 0: 1 2; 1: 0 2; 2: 1 3; 3: 2 1. By the other: 0: 1 3; 1: 0 3; 2: 3 1; 3: 1 2.
    assert neighbours_kept(one, other) == pytest.approx((1 + 1 + 2 + 2) / 8)
    assert neighbours_kept(one, one) == 1.0
    assert neighbours_kept(one[:2], other[:2]) is None


def test_neighbours_of_many_are_those_of_ten():
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(600, 4)), draw.normal(size=(600, 5))
    nearest = []
    for vectors in (one, other):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -2)
        nearest.append([set(row) for row in np.argsort(-cosines, axis=1)[:, :10].tolist()])
    kept = [len(a & b) / 10 for a, b in zip(*nearest, strict=True)]
    assert neighbours_kept(one, other) == pytest.approx(np.mean(kept))
