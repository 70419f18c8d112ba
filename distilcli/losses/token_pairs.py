"""Losses on scores between all pairs of tokens of a sequence, which never exist for a whole batch.

`pair_losses` goes through the sequences by groups of neighbours of equal length, and through each
group in chunks, forward and backward in one pass. What it keeps is the gradient, which is as large
as the vectors that the scores are made of; the scores of a chunk are gone when it returns.

Shapes: tokens of all sequences end to end; N=matrices of a chunk (sequences x heads) R=rows, the
tokens that look K=keys, the tokens that are looked at.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

# Scores of a chunk: few enough for the caches of a CPU, and for the memory of a GPU.
_CHUNK_SCORES = {"cpu": 1 << 19, "cuda": 1 << 26}
# What stands for a score that no softmax shall see: -inf would make differences of logarithms NaN.
_UNSEEN = -1e30
# Rows of a chunk within a window: as many as the window reaches to one side, and not fewer.
_MIN_ROWS = 64


class Vectors(NamedTuple):
    """What the scores of one model are products of; heads are equal parts of the width.

    Attributes:
        rows: of the token that looks, such as its query.
        keys: of the token that is looked at; None: the same as `rows`.
    """

    rows: Float[Tensor, "tokens width"]
    keys: Float[Tensor, "tokens width"] | None = None


class ScoreDistance(NamedTuple):
    """What a distance finds in one chunk.

    Attributes:
        sum: over all of its rows.
        gradient: d sum / d scores of the student.
    """

    sum: Float[Tensor, ""]
    gradient: Float[Tensor, "N R K"]


#: Scores of student and teacher, which it may overwrite, and which keys each row sees (None: all).
Distance = Callable[[Tensor, Tensor, Tensor | None], ScoreDistance]


def pair_losses(
    student: Vectors,
    teacher: Vectors,
    lengths: Sequence[int],
    num_heads: int,
    distance: Distance,
    radius: int | None = None,
    chunk_scores: int | None = None,
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over heads of a distance between rows of scores.

    The scores of a head are the products of its vectors, divided by the root of its width, which
    may be another in each model.

    Args:
        student: vectors that carry gradients.
        teacher: vectors of the same tokens, which need none.
        lengths: tokens of each sequence, in their order; none may be in no sequence.
        num_heads: parts that both widths are cut into.
        distance: between the rows of both models.
        radius: places to either side that a token sees; None: its whole sequence.
        chunk_scores: scores of a model that exist at once, rounded up to a row; None: by device.

    Raises:
        ValueError: a width cannot be cut into so many heads.
    """
    for width in (student.rows.shape[1], teacher.rows.shape[1]):
        if width % num_heads:
            raise ValueError(f"a width of {width} cannot be cut into {num_heads} equal heads")
    assert sum(lengths) == len(student.rows) == len(teacher.rows)
    if chunk_scores is None:
        chunk_scores = _CHUNK_SCORES.get(student.rows.device.type, _CHUNK_SCORES["cuda"])
    found: Tensor = _PairLosses.apply(
        *student, *teacher, lengths, num_heads, distance, radius, chunk_scores
    )
    return found


class _PairLosses(torch.autograd.Function):
    """Computes the gradient while the scores of a chunk are at hand, and keeps only that."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        keys: Tensor | None,
        teacher_rows: Tensor,
        teacher_keys: Tensor | None,
        lengths: Sequence[int],
        num_heads: int,
        distance: Distance,
        radius: int | None,
        chunk_scores: int,
    ) -> Tensor:
        # Scores, softmax and sums need at least fp32, whatever the vectors came in.
        dtype = torch.promote_types(rows.dtype, torch.float32)
        total = torch.zeros((), dtype=dtype, device=rows.device)
        gradients = None
        if any(ctx.needs_input_grad[:2]):
            same = keys is None
            # Contiguous, whatever the vectors are, so that their heads are views.
            of_rows = torch.zeros(rows.shape, dtype=dtype, device=rows.device)
            gradients = of_rows, of_rows if same else torch.zeros_like(of_rows)
        with torch.autocast(rows.device.type, enabled=False):
            for tokens, length in _groups(lengths):
                student = _Heads.of(rows, keys, tokens, length, num_heads)
                teacher = _Heads.of(teacher_rows, teacher_keys, tokens, length, num_heads)
                into = None
                if gradients is not None:
                    into = _Heads.of(*gradients, tokens, length, num_heads)
                count = student.rows.shape[0]
                for chunk in _chunks(count, num_heads, length, radius, chunk_scores):
                    total += _add_chunk(chunk, student, teacher, into, distance, radius, dtype)
        if gradients is not None:
            ctx.save_for_backward(*(gradients[:1] if keys is None else gradients))
            ctx.dtype, ctx.num_heads = rows.dtype, num_heads
        return total / num_heads

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0] / ctx.num_heads
        found: list[Tensor | None] = [(one * scale).to(ctx.dtype) for one in ctx.saved_tensors]
        return *found, *([None] * (9 - len(found)))


def _groups(lengths: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """The tokens of each group of neighbours of equal length, and that length, if it is not 0."""
    start = 0
    for length, group in groupby(lengths):
        tokens = slice(start, start + sum(group))
        if length:
            yield tokens, length
        start = tokens.stop


class _Heads(NamedTuple):
    """The vectors of one group, [sequences, heads, length, head], as views."""

    rows: Tensor
    keys: Tensor

    @classmethod
    def of(
        cls, rows: Tensor, keys: Tensor | None, tokens: slice, length: int, num_heads: int
    ) -> "_Heads":
        """The heads of some tokens, that are sequences of equal length."""
        both = (rows[tokens], (rows if keys is None else keys)[tokens])
        shape = (-1, length, num_heads, rows.shape[1] // num_heads)
        return cls(*(one.reshape(shape).transpose(1, 2) for one in both))


class _Chunk(NamedTuple):
    """Which scores of a group of sequences exist at once."""

    sequences: slice
    heads: slice
    rows: slice
    keys: slice

    def of_rows(self, heads: _Heads) -> Tensor:
        """The vectors of its rows, as a view."""
        return heads.rows[self.sequences, self.heads, self.rows]

    def of_keys(self, heads: _Heads) -> Tensor:
        """The vectors of its keys, as a view."""
        return heads.keys[self.sequences, self.heads, self.keys]

    def seen(self, radius: int | None, device: torch.device) -> Bool[Tensor, "R K"] | None:
        """Which keys each row sees; None: all."""
        if radius is None:
            return None
        rows, keys = (
            torch.arange(one.start, one.stop, device=device) for one in (self.rows, self.keys)
        )
        return (rows[:, None] - keys).abs() <= radius


def _chunks(
    count: int, num_heads: int, length: int, radius: int | None, max_scores: int
) -> Iterator[_Chunk]:
    """Cut the scores of so many sequences: by rows only where one head has too many of them."""
    reach = length if radius is None else radius
    # Within a window, more rows than it reaches would mostly be shown what they do not see.
    num_rows = min(length, max(reach, _MIN_ROWS))
    num_rows = max(1, min(num_rows, max_scores // min(length, num_rows + 2 * reach)))
    scores = num_rows * min(length, num_rows + 2 * reach)
    at_once = max(1, max_scores // scores)
    for sequences in _slices(count, max(1, at_once // num_heads)):
        for heads in _slices(num_heads, min(num_heads, at_once)):
            for rows in _slices(length, num_rows):
                keys = slice(max(0, rows.start - reach), min(length, rows.stop + reach))
                yield _Chunk(sequences, heads, rows, keys)


def _slices(total: int, size: int) -> list[slice]:
    """From 0 to the total, in steps of that size."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _add_chunk(
    chunk: _Chunk,
    student: _Heads,
    teacher: _Heads,
    gradients: _Heads | None,
    distance: Distance,
    radius: int | None,
    dtype: torch.dtype,
) -> Float[Tensor, ""]:
    """Add a chunk's part to the gradients, and give its part of the sum."""
    rows, keys, scores = _scores(chunk, student, dtype)
    _, _, teacher_scores = _scores(chunk, teacher, dtype)
    found = distance(scores, teacher_scores, chunk.seen(radius, rows.device))
    if gradients is not None:
        of_rows, of_keys = chunk.of_rows(gradients), chunk.of_keys(gradients)
        # The rows are scaled already, and d scores / d rows is the scaled keys.
        of_rows.add_((found.gradient @ keys).view(of_rows.shape), alpha=_scale(rows))
        of_keys.add_((found.gradient.mT @ rows).view(of_keys.shape))
    return found.sum


def _scores(
    chunk: _Chunk, heads: _Heads, dtype: torch.dtype
) -> tuple[Float[Tensor, "N R D"], Float[Tensor, "N K D"], Float[Tensor, "N R K"]]:
    """Scaled rows, keys, and their products."""
    rows, keys = (
        one.flatten(0, 1).to(dtype) for one in (chunk.of_rows(heads), chunk.of_keys(heads))
    )
    rows = rows * _scale(rows)
    return rows, keys, torch.bmm(rows, keys.mT)


def _scale(vectors: Float[Tensor, "N R D"]) -> float:
    return 1.0 / math.sqrt(vectors.shape[-1])


def kl_of_rows(
    student_scores: Float[Tensor, "N R K"],
    teacher_scores: Float[Tensor, "N R K"],
    seen: Bool[Tensor, "R K"] | None,
) -> ScoreDistance:
    """Sum over rows of KL(p || q), p and q being the softmax of the teacher's and student's scores.

    The gradient with respect to the student's scores is q - p.
    """
    if seen is not None:
        student_scores.masked_fill_(~seen, _UNSEEN)
        teacher_scores.masked_fill_(~seen, _UNSEEN)
    log_q = torch.log_softmax(student_scores, dim=-1)
    log_p = torch.log_softmax(teacher_scores, dim=-1)
    p = torch.exp(log_p, out=teacher_scores)
    total = torch.dot(p.view(-1), log_p.sub_(log_q).view(-1))
    return ScoreDistance(total, log_q.exp_().sub_(p))
