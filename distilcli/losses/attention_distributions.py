"""The distributions of attention of student and teacher, head by head."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from distilcli.losses.hidden_states import check_layers, uniform_layers
from distilcli.losses.inside import CannotCompare, Compared, InnerTerm, Pair, Place, Shape, What
from distilcli.losses.terms import Schedule
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
    Source: Wang et al. 2020 (MiniLM), sec. 3.1.
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


Distance = Literal["kl", "mse"]
_DISTANCES: dict[Distance, Callable[..., Tensor]] = {
    "kl": attention_kl,
    "mse": attention_score_mse,
}


class AttentionDistributions(InnerTerm):
    """The distance of attention, head by head, summed over the layers that are compared.

    Args:
        weight: what its mean is multiplied by in the total.
        temperature: not used.
        distance: `kl`: `attention_kl`; `mse`: `attention_score_mse`.
        layers: `last`: the last layer of both; `uniform`: `uniform_layers`; else for each layer of
            the student one of the teacher, from 1. None: that one is left out.
    """

    name = "attention_distributions"
    metric = "loss/attention_distributions"

    def __init__(
        self,
        weight: float | Schedule,
        temperature: float | Schedule,
        *,
        distance: Distance = "kl",
        layers: Literal["last", "uniform"] | Sequence[int | None] = "last",
    ) -> None:
        super().__init__(weight, temperature)
        self._distance = _DISTANCES[distance]
        self._layers = layers
        # Known once `places` has seen both models; the radius is that of each layer compared.
        self._num_heads = 1
        self._radii: list[int | None] = []

    def places(self, student: Shape, teacher: Shape) -> list[Pair]:
        """Queries and keys of layers of the student, beside those of layers of the teacher."""
        if student.num_heads != teacher.num_heads:
            raise CannotCompare(
                f"weight: attention is compared head by head, and the student has "
                f"{student.num_heads} heads, the teacher {teacher.num_heads}",
                "Use loss.attention_relations, which compares models with any heads, or a student "
                f"with {teacher.num_heads} heads.",
            )
        layers = [
            (ours, theirs - 1)
            for ours, theirs in enumerate(self._chosen(student.num_layers, teacher.num_layers))
            if theirs is not None
        ]
        for ours, theirs in layers:
            _check_radii(ours, student.radii[ours], theirs, teacher.radii[theirs])
        self._num_heads = student.num_heads
        self._radii = [student.radii[ours] for ours, _ in layers]
        return [
            Pair(Place(what, ours), Place(what, theirs))
            for ours, theirs in layers
            for what in _BOTH
        ]

    def sum(self, compared: Sequence[Compared], lengths: Sequence[int]) -> Float[Tensor, ""]:
        """The sum over tokens and layers."""
        of_layers = zip(compared[::2], compared[1::2], self._radii, strict=True)
        first, *others = (
            self._distance(
                Vectors(queries[0], keys[0]),
                Vectors(queries[1], keys[1]),
                lengths,
                self._num_heads,
                radius,
            )
            for queries, keys, radius in of_layers
        )
        return sum(others, start=first)

    def _chosen(self, num_student_layers: int, num_teacher_layers: int) -> Sequence[int | None]:
        """A layer of the teacher, from 1, for each layer of the student."""
        if self._layers == "last":
            return [*([None] * (num_student_layers - 1)), num_teacher_layers]
        if self._layers == "uniform":
            return uniform_layers(num_student_layers, num_teacher_layers)
        check_layers(self._layers, num_student_layers, num_teacher_layers, first=1)
        return self._layers


_BOTH: tuple[What, What] = ("attention_query", "attention_key")


def _check_radii(ours: int, student: int | None, theirs: int, teacher: int | None) -> None:
    if student == teacher:
        return
    see = (_sees(radius) for radius in (student, teacher))
    raise CannotCompare(
        f"layers: a token in layer {ours + 1} of the student sees {next(see)}, and one in layer "
        f"{theirs + 1} of the teacher {next(see)}",
        "List layers of the teacher that see as much as those of the student; null leaves one out.",
    )


def _sees(radius: int | None) -> str:
    return "its whole sequence" if radius is None else f"{radius} tokens to either side"
