"""Attention over packed sequences on a CPU, in groups of similar length.

A call for each length would cost more than its arithmetic, and in bf16 make kernels for every
length anew. So sequences of similar length are padded to the longest of them, within attention
alone, and a micro-batch becomes a handful of products. Products run in the precision of what they
are given; scores and their softmax are in fp32 at least.
Shapes: H=heads T=tokens of all sequences D=head N=sequences of a group L=their padded length
P=places of all groups, each a head of a token or of padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from distilcli.models.dropout import KeptBits

# A sequence joins a group if it is longer than this share of its longest.
_SHORTEST = 0.75
# Padded lengths are multiples of it: few lengths need few kernels.
_MULTIPLE = 8


@dataclass(frozen=True)
class Group:
    """Sequences of similar length.

    Attributes:
        shape: N x H, L.
        bias: added to the scores: 0 for tokens, -inf for padding; none where nothing is padded.
    """

    shape: tuple[int, int]
    bias: Float[Tensor, "NxH 1 L"] | None


@dataclass(frozen=True)
class Groups:
    """A micro-batch, divided.

    Attributes:
        groups: from the longest sequences to the shortest.
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
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        heads = torch.arange(num_heads)[None, :, None]
        padding = sum(lengths) * num_heads
        groups, places = [], []
        for members in _similar(order, lengths):
            group = torch.nn.utils.rnn.pad_sequence(
                [tokens[index] for index in members], batch_first=True, padding_value=-1
            )
            is_padded = lengths[members[0]] != lengths[members[-1]]
            if is_padded:
                filling = -group.shape[1] % _MULTIPLE
                group = torch.nn.functional.pad(group, (0, filling), value=-1)
            is_padding = group < 0
            bias = None
            if is_padded:
                bias = torch.zeros(group.shape).masked_fill_(is_padding, -torch.inf)
                bias = bias.repeat_interleave(num_heads, dim=0)[:, None]
            rows = group[:, None] * num_heads + heads
            places.append(rows.masked_fill_(is_padding[:, None], padding).flatten())
            groups.append(Group((len(members) * num_heads, group.shape[1]), bias))
        place_of = torch.cat(places)
        row_places = torch.empty(padding + 1, dtype=torch.int64)
        row_places[place_of] = torch.arange(len(place_of))
        return cls(tuple(groups), place_of, row_places[:padding])


def _similar(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Sequences, longest first, cut where one is too short for its group."""
    members: list[int] = []
    for index in order:
        if members and lengths[index] <= _SHORTEST * lengths[members[0]]:
            yield members
            members = []
        members.append(index)
    if members:
        yield members


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
    rows = [tensor[0].transpose(0, 1).reshape(-1, size) for tensor in (query, key, value)]
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
            parts = (_parts(tensor, groups) for tensor in (*padded, outputs))
            for group, q, k, v, output in zip(groups.groups, *parts, strict=True):
                probabilities = _probabilities(q, k, group.bias, scaling).to(v.dtype)
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
    query: Float[Tensor, "NxH L D"],
    key: Float[Tensor, "NxH L D"],
    bias: Float[Tensor, "NxH 1 L"] | None,
    scaling: float,
) -> Float[Tensor, "NxH L L"]:
    """In fp32 at least, as scores of some size need it."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    q, k = query.to(dtype) * scaling, key.to(dtype).transpose(1, 2)
    scores = torch.bmm(q, k) if bias is None else torch.baddbmm(bias.to(dtype), q, k)
    return torch.softmax(scores, dim=-1)


def _parts(tensor: Float[Tensor, "P D"], groups: Groups) -> list[Float[Tensor, "NxH L D"]]:
    """The places of each group."""
    shapes = [group.shape for group in groups.groups]
    parts = tensor.split([rows * length for rows, length in shapes])
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]
