"""Relations and attention of one sequence after another, as the papers write them, in autograd."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def scores(
    rows: Tensor, keys: Tensor, lengths: Sequence[int], num_heads: int
) -> Iterator[list[Tensor]]:
    """Of each sequence Q K^T / sqrt(d) of each head, [length, length]."""
    start = 0
    for length in lengths:
        tokens, start = slice(start, start + length), start + length
        heads = zip(rows[tokens].chunk(num_heads, 1), keys[tokens].chunk(num_heads, 1), strict=True)
        yield [q @ k.T / q.shape[1] ** 0.5 for q, k in heads]


def visible(length: int, radius: int | None) -> Tensor:
    """Whether row i sees key j: |i - j| <= radius."""
    sees = [[radius is None or abs(i - j) <= radius for j in range(length)] for i in range(length)]
    return torch.tensor(sees, dtype=torch.bool).view(length, length)


def kl(student: Tensor, teacher: Tensor, seen: Tensor) -> Tensor:
    """Sum over rows of KL(teacher || student) of softmaxes over what each row sees."""
    weights = seen.to(student.dtype)
    q, p = (
        weights * x.exp() / (weights * x.exp()).sum(1, keepdim=True) for x in (student, teacher)
    )
    return (p[seen] * (p[seen] / q[seen]).log()).sum()


def mse(student: Tensor, teacher: Tensor, seen: Tensor) -> Tensor:
    """Sum over rows of the mean squared difference over what each row sees."""
    squares = (student - teacher) ** 2
    return sum(
        (squares[row][seen[row]].mean() for row in range(len(squares))), start=squares.new_zeros(())
    )


def loss(
    distance,  # kl or mse
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    lengths: Sequence[int],
    num_heads: int,
    radius: int | None = None,
) -> Tensor:
    """Sum over sequences of the mean over heads of a distance."""
    total = student[0].new_zeros(())
    of_both = zip(
        lengths,
        scores(*student, lengths, num_heads),
        scores(*teacher, lengths, num_heads),
        strict=True,
    )
    for length, of_student, of_teacher in of_both:
        for s, t in zip(of_student, of_teacher, strict=True):
            total = total + distance(s, t, visible(length, radius)) / num_heads
    return total
