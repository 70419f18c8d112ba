"""Relations between the queries, the keys and the values of the tokens of a sequence."""

import math
from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from distilcli.losses.inside import CannotCompare, Compared, InnerTerm, Pair, Place, Shape
from distilcli.losses.terms import Schedule
from distilcli.losses.token_pairs import Vectors, kl_of_rows, pair_losses

Relation = Literal["query", "key", "value"]
# Of a relation head of the teacher, where nobody says otherwise: 48 heads at a width of 768 and 64
# at 1024, as Wang et al. 2021, sec. 4.1, have them.
_HEAD_WIDTH = 16


def relation_kl(
    student: Float[Tensor, "tokens width"],
    teacher: Float[Tensor, "tokens teacher_width"],
    lengths: Sequence[int],
    num_heads: int,
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over relation heads of KL(teacher || student), in nats.

    Both models' vectors A are cut into `num_heads` equal parts, whatever the heads of their
    attention are, and the relation of a sequence in one part is softmax(A A^T / sqrt(d)), d being
    the width of a part. So models of any two widths can be compared.

    Gradient with respect to the student's A, in one part: (G + G^T) A / (sqrt(d) * num_heads), with
    G the difference of the student's relation and the teacher's.

    Args:
        student: queries, keys or values of a layer, all sequences end to end.
        teacher: the same of the teacher.
        lengths: tokens of each sequence, in their order.
        num_heads: parts; must divide both widths.

    Raises:
        ValueError: it does not.
    Source: Wang et al. 2021 (MiniLMv2), sec. 3; of values Wang et al. 2020 (MiniLM), sec. 3.2.
    """
    return pair_losses(Vectors(student), Vectors(teacher), lengths, num_heads, kl_of_rows)


def default_relation_heads(student_width: int, teacher_width: int) -> int:
    """Relation heads where nobody says how many: those that give the teacher's 16 numbers each.

    Where these do not divide both widths, it is the largest smaller number that does.
    """
    most = max(1, teacher_width // _HEAD_WIDTH)
    return max(n for n in _common_divisors(student_width, teacher_width) if n <= most)


class AttentionRelations(InnerTerm):
    """`relation_kl` of the last layer of the student and a layer of the teacher, summed.

    Args:
        weight: what its mean is multiplied by in the total.
        temperature: not used.
        relations: of queries, of keys, of values.
        num_heads: relation heads; None: `default_relation_heads`.
        teacher_layer: from 1; None: the last one.
    """

    name = "attention_relations"
    metric = "loss/attention_relations"

    def __init__(
        self,
        weight: float | Schedule,
        temperature: float | Schedule,
        *,
        relations: Sequence[Relation] = ("query", "key", "value"),
        num_heads: int | None = None,
        teacher_layer: int | None = None,
    ) -> None:
        super().__init__(weight, temperature)
        self._relations = relations
        self._num_heads = num_heads
        self._teacher_layer = teacher_layer

    def places(self, student: Shape, teacher: Shape) -> list[Pair]:
        """Projections of the student's last layer, beside those of the chosen layer."""
        layer = teacher.num_layers if self._teacher_layer is None else self._teacher_layer
        if layer > teacher.num_layers:
            raise CannotCompare(
                f"teacher_layer: {layer} is over the {teacher.num_layers} layers of the teacher",
                f"Use 1 ... {teacher.num_layers}, or null for the last one.",
            )
        if self._num_heads is not None:
            _check_heads(self._num_heads, student.width, teacher.width)
        last = student.num_layers - 1
        return [Pair(Place(what, last), Place(what, layer - 1)) for what in self._relations]

    def sum(self, compared: Sequence[Compared], lengths: Sequence[int]) -> Float[Tensor, ""]:
        """The sum over tokens and relations."""
        first, *others = (
            relation_kl(student, teacher, lengths, self._heads(student, teacher))
            for student, teacher in compared
        )
        return sum(others, start=first)

    def _heads(self, student: Tensor, teacher: Tensor) -> int:
        if self._num_heads is not None:
            return self._num_heads
        return default_relation_heads(student.shape[1], teacher.shape[1])


def _common_divisors(one: int, other: int) -> list[int]:
    common = math.gcd(one, other)
    return [n for n in range(1, common + 1) if common % n == 0]


def _check_heads(num_heads: int, student_width: int, teacher_width: int) -> None:
    possible = _common_divisors(student_width, teacher_width)
    if num_heads in possible:
        return
    whose = "the teacher" if teacher_width % num_heads else "the student"
    width = teacher_width if teacher_width % num_heads else student_width
    raise CannotCompare(
        f"num_heads: {num_heads} does not divide {width}, the width of {whose}",
        f"Use one of {', '.join(map(str, possible))}, or null.",
    )
