"""Scores of vectors: how well their cosines rank pairs and documents, and how alike two sets are.

All of it in NumPy, in double precision where figures are added up.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64

from distilcli.tasks.rankings import ndcg_of, top_labels

NEIGHBOURS = 10
_ROWS_AT_ONCE = 512


def unit(vectors: Float[np.ndarray, "texts width"]) -> Float[np.ndarray, "texts width"]:
    """The vectors at length 1; one of length 0 stays what it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray = vectors / np.maximum(lengths, 1e-12)
    return found


def pair_cosines(
    vectors: Float[np.ndarray, "texts width"], first: np.ndarray, second: np.ndarray
) -> Float[np.ndarray, " pairs"]:
    """The cosine of each pair, given by the indices of its two texts."""
    normed = unit(vectors.astype(np.float64))
    found: np.ndarray = (normed[first] * normed[second]).sum(axis=1)
    return found


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where a side is constant."""
    if min(np.ptp(one), np.ptp(other)) == 0:
        return 0.0
    return float(np.corrcoef(_mean_ranks(one), _mean_ranks(other))[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts - 1) / 2)[inverse]
    return ranks


def retrieval_scores(
    queries: Float[np.ndarray, "queries width"],
    documents: Float[np.ndarray, "documents width"],
    relevant: Sequence[Mapping[int, float]],
) -> dict[str, float]:
    """nDCG@10 and recall@10 of a search by cosine, means over the queries.

    See `rankings.ndcg`: documents of one cosine stand in the order that is worst for the query, so
    that vectors that say nothing score nothing.

    Args:
        queries: vectors.
        documents: vectors.
        relevant: of each query, the grade (above 0) of each relevant document by its index.
    """
    queries, documents = unit(queries.astype(np.float64)), unit(documents.astype(np.float64))
    ndcg, recall = [], []
    for vector, grades in zip(queries, relevant, strict=True):
        gains = np.zeros(len(documents))
        gains[list(grades)] = list(grades.values())
        top = top_labels(documents @ vector, gains)
        ndcg.append(ndcg_of(top, gains))
        recall.append(np.count_nonzero(top) / len(grades))
    return {"ndcg@10": float(np.mean(ndcg)), "recall@10": float(np.mean(recall))}


def mean_cosine(one: np.ndarray, other: np.ndarray) -> float | None:
    """Mean cosine of two encoders' vectors for the same texts; None where widths differ."""
    if one.shape != other.shape:
        return None
    return float((unit(one.astype(np.float64)) * unit(other.astype(np.float64))).sum(1).mean())


def neighbours_kept(one: np.ndarray, other: np.ndarray) -> float | None:
    """Of the 10 texts that are nearest to each by one encoder, the share that is by the other, too.

    Args:
        one: vectors, [texts, width].
        other: of the same texts, of any width.

    Returns:
        The mean over texts; None where there are fewer than 3. With 11 texts or fewer, all but
        one of the others count as near.
    """
    count = min(NEIGHBOURS, len(one) - 2)
    if count < 1:
        return None
    nearest = [_nearest(unit(vectors.astype(np.float64)), count) for vectors in (one, other)]
    shares = [len(np.intersect1d(a, b)) / count for a, b in zip(*nearest, strict=True)]
    return float(np.mean(shares))


def _nearest(vectors: np.ndarray, count: int) -> Int64[np.ndarray, "texts count"]:
    """Indices of the nearest others of each text; of equal ones the first."""
    found = []
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        cosines = vectors[start : start + _ROWS_AT_ONCE] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        found.append(np.argsort(-cosines, axis=1, kind="stable")[:, :count])
    return np.concatenate(found)
