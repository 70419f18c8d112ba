"""Attention over packed sequences on a CPU, in groups of similar length.

A call for each length would cost more than its arithmetic, and in bf16 make kernels for every
length anew. So sequences are padded to a multiple of some tokens, within attention alone, and a
micro-batch becomes a handful of products. Products run in the precision of what they are given;
scores and their softmax are in fp32 at least.
Shapes: H=heads T=tokens of all sequences D=head R=heads of the sequences of a group L=their padded
length P=places of all groups, each a head of a token or of padding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from distilcli.models.dropout import KeptBits

# Tokens that lengths are padded to a multiple of; over `_LONG` tokens to twice that. Few lengths
# mean few calls and few kernels, and more padding.
_MULTIPLE, _LONG = 16, 128
# Scores that a thread computes at once: few enough for a cache, enough for large products.
_SCORES = 1 << 19


@dataclass(frozen=True)
class Group:
    """Heads of sequences that are padded to one length: as many as are computed at once.

    Attributes:
        shape: R, L.
        bias: added to the scores: 0 for tokens, -inf for padding; none where nothing is padded.
    """

    shape: tuple[int, int]
    bias: Float[Tensor, "R 1 L"] | None


@dataclass(frozen=True)
class Groups:
    """A micro-batch, divided.

    Attributes:
        groups: those of one length follow each other.
        places: of the T x H rows of tokens and heads the one at each place; T x H for padding.
        rows: the place of each of these rows.
    """

    groups: tuple[Group, ...]
    places: Int[Tensor, " P"]
    rows: Int[Tensor, " TxH"]

    @classmethod
    def of(cls, lengths: Sequence[int], num_heads: int) -> "Groups":
        """Of sequences of these lengths, end to end."""
        tokens = torch.arange(sum(lengths)).split(list(lengths))
        heads = torch.arange(num_heads)[None, :, None]
        padding = sum(lengths) * num_heads
        groups, places = [], []
        for padded, members in _by_padded_length(lengths).items():
            group = torch.nn.utils.rnn.pad_sequence(
                [tokens[index] for index in members], batch_first=True, padding_value=-1
            )
            group = torch.nn.functional.pad(group, (0, padded - group.shape[1]), value=-1)
            is_padding = group < 0
            bias = None
            if any(lengths[index] < padded for index in members):
                bias = torch.zeros(group.shape).masked_fill_(is_padding, -torch.inf)
                bias = bias.repeat_interleave(num_heads, dim=0)[:, None]
            rows = group[:, None] * num_heads + heads
            places.append(rows.masked_fill_(is_padding[:, None], padding).flatten())
            at_once = max(1, _SCORES * torch.get_num_threads() // padded**2)
            for first in range(0, len(members) * num_heads, at_once):
                part = slice(first, min(first + at_once, len(members) * num_heads))
                of_part = None if bias is None else bias[part]
                groups.append(Group((part.stop - part.start, padded), of_part))
        place_of = torch.cat(places)
        row_places = torch.empty(padding + 1, dtype=torch.int64)
        row_places[place_of] = torch.arange(len(place_of))
        return cls(tuple(groups), place_of, row_places[:padding])


def _by_padded_length(lengths: Sequence[int]) -> dict[int, list[int]]:
    """Indices of sequences by the length that they are padded to.

    It is a matter of a sequence's own length alone, whatever else is in the micro-batch: what a
    teacher says of a sequence must not depend on its neighbours.
    """
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        multiple = _MULTIPLE if length <= _LONG else 2 * _MULTIPLE
        groups.setdefault(-(-length // multiple) * multiple, []).append(index)
    return groups


def grouped_attention(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 H T D"],
    value: Float[Tensor, "1 H T D"],
    groups: Groups,
    dropout: float,
    scaling: float | None,
) -> Float[Tensor, "1 T H D"]:
    """Softmax attention of each token over the tokens of its own sequence.

    Args:
        query: of all sequences end to end.
        key: likewise.
        value: likewise.
        groups: of these sequences and heads.
        dropout: share of attention probabilities that is dropped: 0, or such that `can_drop`.
        scaling: of the scores; None: 1 / sqrt(D).
    """
    num_heads, num_tokens, size = query.shape[1:]
    scaling = size**-0.5 if scaling is None else scaling
    # squeeze, not [0]: its backward would copy the gradient into zeros.
    rows = [tensor.squeeze(0).transpose(0, 1).reshape(-1, size) for tensor in (query, key, value)]
    output: Tensor = _GroupedAttention.apply(*rows, groups, dropout, scaling)
    return output.view(1, num_tokens, num_heads, size)


class _GroupedAttention(torch.autograd.Function):
    """Keeps the probabilities, in the precision of the products, for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        groups: Groups,
        dropout: float,
        scaling: float,
    ) -> Tensor:
        needs_gradient = any(ctx.needs_input_grad[:3])
        with torch.autocast("cpu", enabled=False):
            places = groups.places.clamp(max=len(query) - 1)  # padding may be anything finite
            padded = [rows.index_select(0, places) for rows in (query, key, value)]
            outputs = torch.empty_like(padded[0])
            kept = []
            # Scores are in fp32 at least, as those of some size need it.
            dtype = torch.promote_types(query.dtype, torch.float32)
            exact = (rows.to(dtype) for rows in padded[:2])
            parts = (_parts(tensor, groups) for tensor in (*exact, padded[2], outputs))
            for group, q, k, v, output in zip(groups.groups, *parts, strict=True):
                probabilities = _probabilities(q, k, group.bias, scaling, v.dtype).to(v.dtype)
                bits = KeptBits(probabilities.shape, dropout) if dropout else None
                if needs_gradient:
                    kept.append((probabilities, bits))
                shown = bits.apply(probabilities) if bits else probabilities
                torch.bmm(shown, v, out=output)
                if bits:
                    output.mul_(bits.scale)
            if needs_gradient:
                ctx.save_for_backward(*padded)
                ctx.groups, ctx.kept, ctx.scaling = groups, kept, scaling
            return outputs.index_select(0, groups.rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        groups = ctx.groups
        with torch.autocast("cpu", enabled=False):
            # For padding a row of zeros: what it would pass on must not reach any token.
            zero = gradient.new_zeros(1, gradient.shape[1])
            padded = torch.cat([gradient, zero]).index_select(0, groups.places)
            of_all = [torch.empty_like(tensor) for tensor in ctx.saved_tensors]
            parts = (_parts(tensor, groups) for tensor in (padded, *ctx.saved_tensors, *of_all))
            for (probabilities, bits), g, q, k, v, of_q, of_k, of_v in zip(
                ctx.kept, *parts, strict=True
            ):
                scale = bits.scale if bits else 1.0
                shown = bits.apply(probabilities) if bits else probabilities
                torch.bmm(shown.transpose(1, 2), g, out=of_v)
                of_shown = torch.bmm(g, v.transpose(1, 2))
                if bits:
                    of_v.mul_(scale)
                    of_shown = bits.apply(of_shown)
                of_scores = torch._softmax_backward_data(
                    of_shown, probabilities, -1, probabilities.dtype
                )
                torch.bmm(of_scores, k, out=of_q).mul_(scale * ctx.scaling)
                torch.bmm(of_scores.transpose(1, 2), q, out=of_k).mul_(scale * ctx.scaling)
            found = [tensor.index_select(0, groups.rows) for tensor in of_all]
        return *found, None, None, None


def _probabilities(
    query: Float[Tensor, "R L D"],
    key: Float[Tensor, "R L D"],
    bias: Float[Tensor, "R 1 L"] | None,
    scaling: float,
    comes_from: torch.dtype,
) -> Float[Tensor, "R L L"]:
    """Of queries and keys that come from another precision."""
    keys = key.transpose(1, 2)
    with _bf16_products() if comes_from == torch.bfloat16 else nullcontext():
        if bias is None:
            scores = torch.baddbmm(query.new_empty(()), query, keys, beta=0, alpha=scaling)
        else:
            scores = torch.baddbmm(bias.to(query.dtype), query, keys, alpha=scaling)
    return torch.softmax(scores, dim=-1)


@contextmanager
def _bf16_products() -> Iterator[None]:
    """Have products of fp32 made by instructions for bf16, if there are any.

    Of numbers that come from bf16 this loses nothing: products and sums are in fp32 as before.
    """
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _parts(tensor: Float[Tensor, "P D"], groups: Groups) -> list[Float[Tensor, "R L D"]]:
    """The places of each group."""
    shapes = [group.shape for group in groups.groups]
    parts = tensor.split([rows * length for rows, length in shapes])
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]
