"""Scores of rankings: how high the relevant candidates of each query stand.

Every score is computed from the candidates that there are, and not from all documents of a corpus.
Where a model gives several candidates one score, the less relevant ones are put first: a model that
gives all of them the same gains nothing by the order of the rows.
"""

import math

import numpy as np
from jaxtyping import Float

CUT = 10  # ranks that count
_DISCOUNTS = 1.0 / np.log2(np.arange(2, CUT + 2))


def ndcg(scores: Float[np.ndarray, " n"], labels: Float[np.ndarray, " n"]) -> float:
    """Normalised discounted cumulative gain at 10: sum_r y_r / log2(r + 1), over the best one.

    The gain of a candidate is its label, as in trec_eval. Some label must be above 0.

    Source: Jarvelin and Kekalainen 2002, *Cumulated Gain-Based Evaluation of IR Techniques*.
    """
    return ndcg_of(top_labels(scores, labels), labels)


def ndcg_of(top: Float[np.ndarray, " top"], labels: Float[np.ndarray, " n"]) -> float:
    """`ndcg` of the first 10 candidates' labels, given those of all."""
    return _dcg(top) / _dcg(np.sort(labels)[::-1])


def reciprocal_rank(scores: Float[np.ndarray, " n"], labels: Float[np.ndarray, " n"]) -> float:
    """1 over the rank of the first candidate with a label above 0; 0 where it is below rank 10."""
    ranks = np.flatnonzero(top_labels(scores, labels) > 0)
    return 1.0 / (1 + float(ranks[0])) if len(ranks) else 0.0


def expected_ndcg(labels: Float[np.ndarray, " n"]) -> float:
    """The mean of `ndcg` over all orders of the candidates, in which a rank has the mean label."""
    discounts = _DISCOUNTS[: len(labels)].sum()
    return float(labels.mean() * discounts) / _dcg(np.sort(labels)[::-1])


def expected_reciprocal_rank(labels: Float[np.ndarray, " n"]) -> float:
    """The mean of `reciprocal_rank` over all orders of the candidates.

    Of n candidates, r of them relevant, the first relevant one is at rank k in
    C(n - k, r - 1) of C(n, r) cases.
    """
    n, relevant = len(labels), int((labels > 0).sum())
    cases = math.comb(n, relevant)
    ranks = range(1, min(CUT, n - relevant + 1) + 1)
    return sum(math.comb(n - k, relevant - 1) / cases / k for k in ranks)


def rank_correlation(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float:
    """Kendall's tau-b of two scores of the same candidates; 0 where a side is constant.

    Source: Kendall 1945, *The Treatment of Ties in Ranking Problems*.
    """
    signs = [np.sign(side[:, None] - side[None, :]) for side in (one, other)]
    ordered = [float(np.square(sign).sum()) for sign in signs]
    if min(ordered) == 0:
        return 0.0
    return float((signs[0] * signs[1]).sum()) / math.sqrt(ordered[0] * ordered[1])


def top_labels(
    scores: Float[np.ndarray, " n"], labels: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " top"]:
    """Labels of the 10 best candidates, the best first; of equal scores the less relevant first."""
    found: np.ndarray = labels[np.lexsort((labels, -scores))[:CUT]]
    return found


def _dcg(labels: np.ndarray) -> float:
    top = labels[:CUT]
    return float((top * _DISCOUNTS[: len(top)]).sum())
