"""Losses on scores between all pairs of tokens of a sequence, which never exist for a whole batch.

`pair_losses` goes through the sequences by groups of neighbours of about equal length, and through
each group in chunks, forward and backward in one pass. What it keeps is the gradient, which is as
large as the vectors that the scores are made of; the scores of a chunk are gone when it returns.

Shapes: tokens of all sequences end to end; N=sequences H=heads R=rows, the tokens that look K=keys,
the tokens that are looked at L=length D=width of a head.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Scores of a chunk: few enough for the caches of a CPU, and for the memory of a GPU.
_CHUNK_SCORES = {"cpu": 1 << 19, "cuda": 1 << 25}
# Scores of padding that take a GPU as long as one group more, most of which is the host's work. On
# a CPU, to mask padding takes longer than a group more.
_SPARE_SCORES = {"cpu": 0, "cuda": 1 << 22}
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
    gradient: Float[Tensor, "N H R K"]


#: Scores of student and teacher [N, H, R, K], which it may overwrite, and which keys each row sees:
#: a mask that broadcasts to them; None: all.
Distance = Callable[[Tensor, Tensor, Tensor | None], ScoreDistance]


class Cutting(NamedTuple):
    """How the work is cut up, which changes no result.

    Attributes:
        chunk_scores: scores of a model that exist at once, rounded up to a row.
        spare_scores: scores of padding that a group may have, so that there are fewer groups.
    """

    chunk_scores: int
    spare_scores: int

    @classmethod
    def on(cls, device: torch.device) -> "Cutting":
        """What is fast on a device."""
        kind = device.type if device.type in _CHUNK_SCORES else "cuda"
        return cls(_CHUNK_SCORES[kind], _SPARE_SCORES[kind])


def pair_losses(
    student: Vectors,
    teacher: Vectors,
    lengths: Sequence[int],
    num_heads: int,
    distance: Distance,
    radius: int | None = None,
    cutting: Cutting | None = None,
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over heads of a distance between rows of scores.

    The scores of a head are the products of its vectors, divided by the root of its width, which
    may be another in each model.

    Args:
        student: vectors that carry gradients.
        teacher: vectors of the same tokens, which need none.
        lengths: tokens of each sequence, in their order; none may be in no sequence.
        num_heads: parts that both widths are cut into.
        distance: between the rows of both models; 0 with gradient 0 where the scores are equal.
        radius: places to either side that a token sees; None: its whole sequence.
        cutting: of the work; None: by the device.

    Raises:
        ValueError: a width cannot be cut into so many heads.
    """
    for width in (student.rows.shape[1], teacher.rows.shape[1]):
        if width % num_heads:
            raise ValueError(f"a width of {width} cannot be cut into {num_heads} equal heads")
    assert sum(lengths) == len(student.rows) == len(teacher.rows)
    cutting = cutting or Cutting.on(student.rows.device)
    found: Tensor = _PairLosses.apply(
        *student, *teacher, lengths, num_heads, distance, radius, cutting
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
        cutting: Cutting,
    ) -> Tensor:
        # Scores, softmax and sums need at least fp32, whatever the vectors came in.
        dtype = torch.promote_types(rows.dtype, torch.float32)
        total = torch.zeros((), dtype=dtype, device=rows.device)
        gradients = None
        if any(ctx.needs_input_grad[:2]):
            gradients = [torch.empty_like(x, dtype=dtype) for x in (rows, keys) if x is not None]
        with torch.autocast(rows.device.type, enabled=False):
            for group in _groups(lengths, num_heads, radius, cutting, rows.device):
                student = group.heads_of(rows, keys, dtype)
                teacher = group.heads_of(teacher_rows, teacher_keys, dtype)
                into = None if gradients is None else _zeros_like(student)
                for chunk in group.chunks():
                    seen = group.seen(chunk)
                    total += _add_chunk(chunk, student, teacher, into, distance, seen)
                for gradient, heads in zip(gradients or (), into or (), strict=False):
                    group.write(heads, gradient)
        if gradients is not None:
            ctx.save_for_backward(*gradients)
            ctx.dtype, ctx.num_heads = rows.dtype, num_heads
        return total / num_heads

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0] / ctx.num_heads
        found: list[Tensor | None] = [(one * scale).to(ctx.dtype) for one in ctx.saved_tensors]
        return *found, *([None] * (9 - len(found)))


class _Heads(NamedTuple):
    """Vectors of one group, [N, H, L, D]; the keys may be the rows."""

    rows: Tensor
    keys: Tensor


def _zeros_like(heads: _Heads) -> _Heads:
    rows = torch.zeros_like(heads.rows)
    return _Heads(rows, rows if heads.keys is heads.rows else torch.zeros_like(heads.keys))


class _Group:
    """Neighbouring sequences that are computed together, padded to the longest of them.

    Padding is zeros. No token sees padding as a key, and as rows it has the same scores in both
    models, between which there is no distance.

    Args:
        tokens: of the row.
        lengths: of the sequences.
        num_heads: of both models.
        window: how many scores exist at once.
        device: of the vectors.
    """

    def __init__(
        self,
        tokens: slice,
        lengths: list[int],
        num_heads: int,
        window: "_Window",
        device: torch.device,
    ) -> None:
        self._tokens = tokens
        self._num_heads = num_heads
        self._window = window
        self._device = device
        self._count, self._length = len(lengths), max(lengths)
        # Where each token is among those of the padded sequences.
        self._places: Int[Tensor, " tokens"] | None = None
        if min(lengths) < self._length:
            starts = range(0, self._count * self._length, self._length)
            places = [torch.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)]
            # Without waiting for the device, as a copy otherwise does.
            self._places = torch.cat(places).to(device, non_blocking=True)
            real = torch.zeros(self._count * self._length, dtype=torch.bool, device=device)
            self._real = real.index_fill_(0, self._places, True).view(self._count, 1, 1, -1)

    def heads_of(self, rows: Tensor, keys: Tensor | None, dtype: torch.dtype) -> _Heads:
        """The heads of a model's vectors, contiguous."""
        of_rows = self._heads(rows, dtype)
        return _Heads(of_rows, of_rows if keys is None else self._heads(keys, dtype))

    def _heads(self, vectors: Float[Tensor, "tokens width"], dtype: torch.dtype) -> Tensor:
        row = vectors[self._tokens].to(dtype)
        if self._places is not None:
            padded = row.new_zeros(self._count * self._length, row.shape[1])
            row = padded.index_copy_(0, self._places, row)
        heads = row.reshape(self._count, self._length, self._num_heads, -1)
        return heads.transpose(1, 2).contiguous()

    def write(
        self, heads: Float[Tensor, "N H L D"], vectors: Float[Tensor, "tokens width"]
    ) -> None:
        """Write heads to where the vectors of this group are."""
        row = heads.transpose(1, 2).flatten(0, 1).flatten(1)
        vectors[self._tokens] = row if self._places is None else row[self._places]

    def chunks(self) -> Iterator["_Chunk"]:
        """Cut the scores: by rows only where one head has too many of them, or windows."""
        num_rows, reach = self._window.num_rows, self._window.reach
        for heads in _slices(self._num_heads, self._window.num_heads):
            for rows in _slices(self._length, num_rows):
                keys = slice(max(0, rows.start - reach), min(self._length, rows.stop + reach))
                yield _Chunk(heads, rows, keys)

    def seen(self, chunk: "_Chunk") -> Bool[Tensor, "#N 1 #R K"] | None:
        """Which keys each row sees; None: all."""
        real = None if self._places is None else self._real[..., chunk.keys]
        if self._window.reach >= self._length:
            return real
        rows, keys = (
            torch.arange(one.start, one.stop, device=self._device)
            for one in (chunk.rows, chunk.keys)
        )
        near = ((rows[:, None] - keys).abs() <= self._window.reach)[None, None]
        return near if real is None else near & real


class _Window(NamedTuple):
    """Which scores of sequences of one length exist at once.

    Attributes:
        num_rows: of a chunk.
        reach: places to either side of a row where its keys are.
        num_heads: of a chunk.
        num_sequences: of a group, at least 1.
    """

    num_rows: int
    reach: int
    num_heads: int
    num_sequences: int

    @classmethod
    def of(cls, length: int, num_heads: int, radius: int | None, max_scores: int) -> "_Window":
        """The window for sequences of one length."""
        reach = length if radius is None else radius
        # Within a window, more rows than it reaches would mostly be shown what they do not see.
        num_rows = min(length, max(reach, _MIN_ROWS))
        num_rows = max(1, min(num_rows, max_scores // min(length, num_rows + 2 * reach)))
        at_once = max(1, max_scores // (num_rows * min(length, num_rows + 2 * reach)))
        return cls(num_rows, reach, min(num_heads, at_once), max(1, at_once // num_heads))


def _groups(
    lengths: Sequence[int],
    num_heads: int,
    radius: int | None,
    cutting: Cutting,
    device: torch.device,
) -> Iterator[_Group]:
    """Neighbours no longer than the first of them, as many as leave little padding."""
    start, place = 0, 0
    while place < len(lengths):
        longest, first, spare = lengths[place], place, 0
        if not longest:  # a sequence without tokens
            place += 1
            continue
        window = _Window.of(longest, num_heads, radius, cutting.chunk_scores)
        for length in lengths[first : first + window.num_sequences]:
            spare += num_heads * (longest**2 - length**2)
            if not 0 < length <= longest or spare > cutting.spare_scores:
                break
            place += 1
        of_group = list(lengths[first:place])
        tokens = slice(start, start + sum(of_group))
        yield _Group(tokens, of_group, num_heads, window, device)
        start = tokens.stop


class _Chunk(NamedTuple):
    """Which scores of a group exist at once."""

    heads: slice
    rows: slice
    keys: slice

    def of_rows(self, heads: _Heads) -> Tensor:
        """The vectors of its rows, as a view."""
        return heads.rows[:, self.heads, self.rows]

    def of_keys(self, heads: _Heads) -> Tensor:
        """The vectors of its keys, as a view."""
        return heads.keys[:, self.heads, self.keys]


def _slices(total: int, size: int) -> list[slice]:
    """From 0 to the total, in steps of that size."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _add_chunk(
    chunk: _Chunk,
    student: _Heads,
    teacher: _Heads,
    gradients: _Heads | None,
    distance: Distance,
    seen: Bool[Tensor, "#N 1 #R K"] | None,
) -> Float[Tensor, ""]:
    """Add a chunk's part to the gradients, and give its part of the sum."""
    rows, keys, scores = _scores(chunk, student)
    _, _, teacher_scores = _scores(chunk, teacher)
    found = distance(scores, teacher_scores, seen)
    if gradients is not None:
        # The rows are scaled already, and d scores / d rows is the scaled keys.
        chunk.of_rows(gradients).add_(found.gradient @ keys, alpha=_scale(keys))
        chunk.of_keys(gradients).add_(found.gradient.mT @ rows)
    return found.sum


def _scores(
    chunk: _Chunk, heads: _Heads
) -> tuple[Float[Tensor, "N H R D"], Float[Tensor, "N H K D"], Float[Tensor, "N H R K"]]:
    """Scaled rows, keys, and their products."""
    rows, keys = chunk.of_rows(heads), chunk.of_keys(heads)
    rows = rows * _scale(rows)
    return rows, keys, rows @ keys.mT


def _scale(vectors: Float[Tensor, "N H R D"]) -> float:
    return 1.0 / math.sqrt(vectors.shape[-1])


def kl_of_rows(
    student_scores: Float[Tensor, "N H R K"],
    teacher_scores: Float[Tensor, "N H R K"],
    seen: Bool[Tensor, "#N 1 #R K"] | None,
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
