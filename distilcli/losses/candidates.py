"""The candidates of queries in one micro-batch: how many there are, and what of them is compared.

A ranker gives each candidate of a query a score, and only the differences between the scores of one
query mean something. The losses on rankings look at one query at a time, all its candidates
together; a micro-batch never holds a part of a query.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The queries of a micro-batch.

    Attributes:
        sizes: candidates of each query, which lie one after another.
        lists: how many of the queries have two candidates or more.
        labelled: in how many labels say that one candidate is more relevant than others; see
            `is_labelled`.
        pairs: how many pairs of candidates margins are compared of; see `num_pairs`.
    """

    sizes: tuple[int, ...]
    lists: int
    labelled: int
    pairs: int


def candidates_of(labels: Float[np.ndarray, " candidates"], sizes: Sequence[int]) -> Candidates:
    """Count what there is to compare.

    Args:
        labels: how relevant each candidate is, 0 or more; NaN where nobody has said.
        sizes: candidates of each query, which lie one after another.
    """
    of_queries = np.split(labels, np.cumsum(sizes)[:-1])
    return Candidates(
        tuple(sizes),
        sum(size > 1 for size in sizes),
        sum(map(is_labelled, of_queries)),
        sum(map(num_pairs, of_queries)),
    )


def is_labelled(labels: Float[np.ndarray, " candidates"]) -> bool:
    """Whether a query has a relevant candidate, and another one that has a label."""
    known = labels[~np.isnan(labels)]
    return len(known) > 1 and bool(known.max() > 0)


def num_pairs(labels: Float[np.ndarray, " candidates"]) -> int:
    """Pairs of candidates of which one is more relevant; all pairs where none is.

    A candidate without a label counts as one that is not relevant.
    """
    of_each_label = np.unique(np.nan_to_num(labels), return_counts=True)[1].tolist()
    all_pairs = math.comb(len(labels), 2)
    ordered = all_pairs - sum(math.comb(count, 2) for count in of_each_label)
    return ordered or all_pairs


def by_query(values: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[list[Tensor]]:
    """Values of candidates with one query a row: [queries, candidates], without any padding.

    Neighbours with equally many candidates are given together.

    Args:
        values: each of [candidates], in the order of the micro-batch.
        sizes: candidates of each query.
    """
    start = 0
    for size, same in groupby(sizes):
        end = start + size * len(list(same))
        yield [value[start:end].view(-1, size) for value in values]
        start = end
