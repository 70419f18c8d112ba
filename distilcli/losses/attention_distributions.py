"""The distributions of attention of student and teacher, head by head."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from distilcli.losses.token_pairs import ScoreDistance, Vectors, kl_of_rows, pair_losses


def attention_kl(
    student: Vectors,
    teacher: Vectors,
    lengths: Sequence[int],
    num_heads: int,
    radius: int | None = None,
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over heads of KL(p || q), in nats.

    p and q are where the token attends to: softmax(Q K^T / sqrt(d)) of its sequence in the teacher
    and in the student, d being the width of a head.

    Gradient with respect to the student's queries, in one head: (q - p) K / (sqrt(d) * num_heads);
    with respect to its keys: (q - p)^T Q / (sqrt(d) * num_heads).

    Args:
        student: its queries and keys, of all sequences end to end.
        teacher: its queries and keys.
        lengths: tokens of each sequence, in their order.
        num_heads: of both models.
        radius: places to either side that a token sees; None: its whole sequence.

    Raises:
        ValueError: a width cannot be cut into so many heads.
    Source: Wang et al. 2020 (MiniLM), eq. 5.
    """
    return pair_losses(student, teacher, lengths, num_heads, kl_of_rows, radius)


def attention_score_mse(
    student: Vectors,
    teacher: Vectors,
    lengths: Sequence[int],
    num_heads: int,
    radius: int | None = None,
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over heads, and over the tokens it sees, of (s - t)^2.

    s and t are the scores of attention before the softmax, Q K^T / sqrt(d). The arguments are those
    of `attention_kl`.

    Source: Jiao et al. 2020 (TinyBERT), eq. 7, which is a mean over tokens, too.
    """
    return pair_losses(student, teacher, lengths, num_heads, mse_of_rows, radius)


def mse_of_rows(
    student_scores: Float[Tensor, "N H R K"],
    teacher_scores: Float[Tensor, "N H R K"],
    seen: Bool[Tensor, "#N 1 #R K"] | None,
) -> ScoreDistance:
    """Sum over rows of the mean over the keys that each sees; gradient 2 (s - t) / keys."""
    difference = student_scores.sub_(teacher_scores)
    if seen is None:
        of_keys = torch.div(difference, difference.shape[-1], out=teacher_scores)
    else:
        difference.masked_fill_(~seen, 0.0)
        num_seen = seen.sum(dim=-1, keepdim=True).clamp_(min=1)  # padding may see none
        of_keys = torch.div(difference, num_seen, out=teacher_scores)
    total = torch.dot(difference.view(-1), of_keys.view(-1))
    return ScoreDistance(total, of_keys.mul_(2.0))
