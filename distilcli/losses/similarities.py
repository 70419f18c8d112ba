"""Similarities within a group: how alike a text is to each of the others, by two encoders.

For a text i of a group, p_i is the softmax of cos(v_i, v_j) / T over the others j, with the
teacher's vectors v, and q_i the same of the student's. What is compared are neighbourhoods, so the
two encoders may have vectors of different widths, and a vector may be turned as a whole.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distilcli.losses.terms import Counts, Schedule
from distilcli.losses.vectors import Vectors, VectorTerm

SMALLEST_GROUP = 3  # of two texts each has one other, whose share is 1 whatever the vectors are


def similarity_kl(
    student: Float[Tensor, "texts student_width"],
    teacher: Float[Tensor, "texts teacher_width"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over the texts i of one group of KL(p_i || q_i).

    Its gradient with respect to cos(s_i, s_j) is (q_ij - p_ij) / T. Unlike soft targets it is not
    multiplied by T^2: T is far below 1, where that would leave next to nothing.
    Source: Passalis, Tefas 2018, *Learning Deep Representations with Probabilistic Knowledge
    Transfer*, sec. 3, with cosines and a softmax at a temperature as in Fang et al. 2021, *SEED:
    Self-supervised Distillation for Visual Representation*, sec. 3.
    """
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)

    def log_shares(vectors: Tensor) -> Tensor:
        unit = F.normalize(vectors, dim=-1)
        return F.log_softmax((unit @ unit.T / temperature).masked_fill(own, -torch.inf), dim=-1)

    log_q, log_p = log_shares(student), log_shares(teacher)
    # On the diagonal both are -inf: a text is not a neighbour of itself.
    differences = (log_p - log_q).masked_fill(own, 0.0)
    return (log_p.exp() * differences).sum()


class Similarities(VectorTerm):
    """`similarity_kl` of each group; its mean over widths where there are several.

    Args:
        weight, temperature: see `Term`.
        matryoshka: widths of the first numbers of the student's vectors that are compared as
            vectors of their own, beside the whole ones.

    Source of the widths: Kusupati et al. 2022, *Matryoshka Representation Learning*, eq. 1.
    """

    name = "similarities"
    metric = "loss/similarities"
    softens = True

    def __init__(
        self,
        weight: float | Schedule,
        temperature: float | Schedule,
        matryoshka: Sequence[int] = (),
    ) -> None:
        super().__init__(weight, temperature)
        self.widths = tuple(matryoshka)

    def count(self, counts: Counts) -> int:
        """Texts that have at least two others in their group."""
        return counts.grouped

    def sum_of_texts(self, vectors: Vectors) -> Float[Tensor, ""]:
        """The sum over groups; 0 of those that are too small."""
        total = 0.0 * vectors.student.sum()  # of nothing too the gradient is there, and 0
        students = vectors.student.split(list(vectors.groups))
        teachers = vectors.teacher.split(list(vectors.groups))
        for student, teacher in zip(students, teachers, strict=True):
            if len(student) < SMALLEST_GROUP:
                continue
            for width in (student.shape[1], *self.widths):
                total = total + similarity_kl(student[:, :width], teacher, self.temperature)
        return total / (1 + len(self.widths))
