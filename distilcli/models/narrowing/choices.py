"""What is kept of a width, and how what is left out is made up for.

Channels, heads and inner states are kept by importance: how much of what the weights after them
make of a text comes from each. What is left out follows in part from what is kept, since numbers of
a model are correlated. So every projection that reads a cut width gets the weights with which it
reads, from what is kept, the linear prediction of all: the interpolative decomposition of Chee et
al. 2022, *Model Preserving Compression for Neural Networks*, with a ridge.

Inside a head any change of basis can be undone by the other side: of values by the projection after
them, of queries by that of the keys. There the principal parts of the products are kept.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distilcli.models.narrowing.moments import Moments
from distilcli.models.narrowing.sizes import Sizes

# Share of the mean variance that is added to every variance: a prediction from few sequences must
# not hang on directions that hardly vary in them.
RIDGE = 1e-3
_TINY = 1e-6

# What is kept of a width: int64 [kept], numbers of it; or float64 [kept, size], products with it.
Cut = Tensor


class Reading(NamedTuple):
    """The prediction of a whole width from what is kept of it.

    Attributes:
        matrix: [size, kept].
        constant: [size]; zero where the projection that reads it has no bias to add it to.
    """

    matrix: Float[Tensor, "size kept"]
    constant: Float[Tensor, " size"]


def apply_cut(cut: Cut, values: Tensor, axis: int) -> Tensor:
    """Cut an axis of some weights."""
    if not cut.is_floating_point():
        return values.index_select(axis, cut)
    product: Tensor = torch.tensordot(cut, values.double(), dims=([1], [axis]))
    return product.movedim(0, axis)


def best(scores: Float[Tensor, " size"], count: int) -> Int64[Tensor, " count"]:
    """The places of the highest scores, ascending; of equal ones the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:count].sort().values


def importance(
    weight: Float[Tensor, "out size"], moments: Moments, *, centred: bool
) -> Float[Tensor, " size"]:
    """How much of what a projection gives, squared, comes from each number that it reads."""
    scores = weight.double().square().sum(dim=0) * moments.second(centred=centred).diagonal()
    return scores / scores.sum().clamp_min(torch.finfo(torch.float64).tiny)


def reading(moments: Moments, cut: Cut, *, centred: bool) -> Reading:
    """The linear prediction of a width from its cut with the least squares.

    Args:
        moments: of the whole width.
        cut: what is kept.
        centred: with a constant.
    """
    second, mean = moments.second(centred=centred), moments.mean
    with_all = apply_cut(cut, second, 0)
    among_kept = apply_cut(cut, with_all, 1)
    ridge = RIDGE * among_kept.diagonal().mean() + torch.finfo(torch.float64).tiny
    among_kept = among_kept + ridge * torch.eye(len(among_kept), dtype=torch.float64)
    matrix = torch.linalg.solve(among_kept, with_all).T.contiguous()
    if not cut.is_floating_point():  # these are known, whatever the ridge says
        matrix[cut] = torch.eye(len(cut), dtype=torch.float64)
    constant = mean - matrix @ apply_cut(cut, mean, 0)
    return Reading(matrix, constant if centred else torch.zeros_like(mean))


class HeadCuts(NamedTuple):
    """What is kept of the queries, keys and values of a layer."""

    query: Cut
    key: Cut
    value: Cut


class HeadMoments(NamedTuple):
    """Second moments in the attention of a layer.

    Attributes:
        output: of what attention gives, and the projection after it reads.
        query: of queries.
        key: of keys.
    """

    output: Float[Tensor, "size size"]
    query: Float[Tensor, "size size"]
    key: Float[Tensor, "size size"]


def cut_heads(
    weight: Float[Tensor, "out size"],
    moments: HeadMoments,
    old: Sizes,
    new: Sizes,
    *,
    rotates: bool,
) -> HeadCuts:
    """The heads that are kept, and what is kept inside of each.

    Args:
        weight: of the projection that reads what attention gives.
        moments: of this layer on some text.
        old: sizes of the source.
        new: of the result.
        rotates: whether positions are told by rotating pairs of numbers of queries and keys.
    """
    size = old.head_size
    places = torch.arange(old.num_heads * size).view(old.num_heads, size)
    product = weight.double().T @ weight.double()
    parts = product * moments.output
    scores = torch.stack([parts[places[h]][:, places[h]].sum() for h in range(old.num_heads)])
    heads = best(scores, new.num_heads).tolist()
    if new.head_size == size:
        kept = places[heads].flatten()
        return HeadCuts(kept, kept, kept)
    cuts = []
    for head in heads:
        here = places[head]
        output, query, key = (one[here][:, here] for one in moments)
        value = _principal_values(product[here][:, here], output, new.head_size)
        cut = _fewer_rotations if rotates else _principal_scores
        rows = (*cut(query, key, new.head_size), value)
        cuts.append([_widened(one, here, places.numel()) for one in rows])
    return HeadCuts(*(torch.cat(rows) for rows in zip(*cuts, strict=True)))


def _widened(rows: Tensor, places: Tensor, size: int) -> Tensor:
    """A matrix on some of the numbers of a width as one on all of them."""
    wide = torch.zeros(len(rows), size, dtype=torch.float64)
    wide[:, places] = rows
    return wide


def _principal_values(product: Tensor, second: Tensor, count: int) -> Float[Tensor, "kept size"]:
    """The products of a head's values that say most of what the projection after it gives.

    Args:
        product: weight^T weight of that projection, for this head.
        second: second moments of what the head gives.
        count: how many are kept.
    """
    root = _root(second)
    _, vectors = torch.linalg.eigh(root @ product @ root)
    rows: Tensor = vectors[:, -count:].T @ _inverse(root)
    return rows


def _principal_scores(
    query: Tensor, key: Tensor, count: int
) -> tuple[Float[Tensor, "kept size"], Float[Tensor, "kept size"]]:
    """The products of a head's queries and keys that say most of its scores.

    Of all scores of so many products these have the least squared error over queries and keys with
    these second moments. A score is divided by the root of the head's size, which is another now.
    """
    of_query, of_key = _root(query), _root(key)
    left, values, right = torch.linalg.svd(of_query @ of_key)
    scale = (values[:count] * (count / len(query)) ** 0.5).sqrt()[:, None]
    rows = scale * left[:, :count].T, scale * right[:count]
    return rows[0] @ _inverse(of_query), rows[1] @ _inverse(of_key)


def _fewer_rotations(
    query: Tensor, key: Tensor, count: int
) -> tuple[Float[Tensor, "kept size"], Float[Tensor, "kept size"]]:
    """The pairs of numbers that turn most nearly as fast as those of a smaller head do.

    Pair i of n turns by base^(-i/n) for each position, so pair j of a head of m pairs is as fast as
    pair j n/m. The scores get the factor with which they come nearest to those of the whole head.
    """
    pairs, whole = count // 2, len(query) // 2
    chosen = [(2 * j * whole + pairs) // (2 * pairs) for j in range(pairs)]
    kept = torch.tensor([*chosen, *(whole + i for i in chosen)])
    cross = (query[:, kept] * key[:, kept]).sum()
    among = (query[kept][:, kept] * key[kept][:, kept]).sum()
    factor = float(cross / among) if among > 0 else 1.0
    scale = (max(factor, _TINY) * (count / len(query)) ** 0.5) ** 0.5
    rows = scale * torch.eye(len(query), dtype=torch.float64)[kept]
    return rows, rows


def _root(second: Tensor) -> Tensor:
    """The symmetric root of second moments."""
    values, vectors = torch.linalg.eigh(second)
    root: Tensor = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    return root


def _inverse(root: Tensor) -> Tensor:
    """The pseudo-inverse, without directions that vary too little to be told from rounding."""
    inverse: Tensor = torch.linalg.pinv(root, hermitian=True, rtol=_TINY)
    return inverse
