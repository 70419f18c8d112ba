"""Attention within a window, over sequences of equal length, without all pairs of a long sequence.

A token at i sees the tokens at j with |i - j| <= radius. Long sequences are cut into blocks of
queries, each with the keys that some query of it sees, so that the work grows with the number of
tokens and not with its square. Shapes: N=sequences H=heads T=tokens D=head B=blocks.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

# Queries of a block: as many as the window reaches to one side, and not fewer than this.
_MIN_BLOCK = 16


def windowed_attention(
    query: Float[Tensor, "N H T D"],
    key: Float[Tensor, "N H T D"],
    value: Float[Tensor, "N H T D"],
    radius: int,
    dropout: float,
    scaling: float | None,
) -> Float[Tensor, "N H T D"]:
    """Softmax attention of each token over those at most `radius` places away.

    Args:
        query: of sequences of equal length.
        key: likewise.
        value: likewise.
        radius: places to either side that a token sees, from 0.
        dropout: share of attention probabilities that is dropped.
        scaling: of the scores; None: 1 / sqrt(D).
    """
    length = query.shape[2]
    block = max(radius, _MIN_BLOCK)
    if length > block + 2 * radius:
        return _by_block(query, key, value, radius, block, dropout, scaling)
    mask = None  # where every token sees all
    if length > radius + 1:
        places = torch.arange(length, device=query.device)
        mask = (places[:, None] - places).abs() <= radius
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
    )


def _by_block(
    query: Float[Tensor, "N H T D"],
    key: Float[Tensor, "N H T D"],
    value: Float[Tensor, "N H T D"],
    radius: int,
    block: int,
    dropout: float,
    scaling: float | None,
) -> Float[Tensor, "N H T D"]:
    """Blocks lie along the first axis, and sequences beside heads: all share one mask a block."""
    count, heads, length, size = query.shape
    blocks = -(-length // block)
    filling = blocks * block - length
    queries = pad(query, (0, 0, 0, filling)).reshape(count * heads, blocks, block, size)
    keys, values = (
        pad(tensor, (0, 0, radius, radius + filling))
        .reshape(count * heads, -1, size)
        .unfold(1, block + 2 * radius, block)  # [N*H, B, D, keys of a block]
        .permute(1, 0, 3, 2)
        for tensor in (key, value)
    )
    output = scaled_dot_product_attention(
        queries.transpose(0, 1),
        keys,
        values,
        attn_mask=_block_masks(length, radius, block, query.device)[:, None],
        dropout_p=dropout,
        scale=scaling,
    )
    return output.transpose(0, 1).reshape(count, heads, -1, size)[:, :, :length]


def _block_masks(
    length: int, radius: int, block: int, device: torch.device
) -> Bool[Tensor, "B queries keys"]:
    """Which of its keys each query of each block sees.

    The queries that fill the last block see the keys that fill it: a row without any key would be
    NaN, which the backward pass would carry to all keys.
    """
    queries = torch.arange(-(-length // block) * block, device=device).view(-1, block, 1)
    keys = queries[:, :1] - radius + torch.arange(block + 2 * radius, device=device)
    is_real = (keys >= 0) & (keys < length)
    return ((queries - keys).abs() <= radius) & (is_real | (queries >= length))
