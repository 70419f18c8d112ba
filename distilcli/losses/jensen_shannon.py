"""The Jensen-Shannon divergence between the softened distributions of student and teacher."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.logits import Block, BlockGradient, Chunk
from distilcli.losses.terms import Begun, Divergence, check_temperature


def jensen_shannon(
    student_logits: Float[Tensor, "tokens vocab"],
    teacher_logits: Float[Tensor, "tokens vocab"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over tokens of T^2 * (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats.

    It is symmetric, zero where the logits match, and at most T^2 * log 2 a token, however far they
    are apart.

    Gradient with respect to the student's logits: T/2 * q_i * (log q_i - log m_i - KL(q || m)). At
    a high temperature its limit is a quarter of the soft targets'.

    Raises:
        ValueError: temperature is not positive.
    Source: Lin 1991, sec. IV, with equal weights; for distillation Agarwal et al. 2024 (GKD),
    sec. 2, with beta = 0.5; T^2 as in Hinton et al. 2015, sec. 2.
    """
    check_temperature(temperature)
    student_log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    teacher_log_probs = F.log_softmax(teacher_logits / temperature, dim=-1)
    middle = _log_middle(student_log_probs, teacher_log_probs)
    of_student = student_log_probs.exp() * (student_log_probs - middle)
    of_teacher = teacher_log_probs.exp() * (teacher_log_probs - middle)
    return temperature**2 * (of_student + of_teacher).sum() / 2


def _log_middle(
    log_q: Float[Tensor, "*shape classes"], log_p: Float[Tensor, "*shape classes"]
) -> Float[Tensor, "*shape classes"]:
    """log m."""
    return torch.logaddexp(log_q, log_p) - math.log(2.0)


class JensenShannon(Divergence):
    """T^2 times the mean of KL(teacher || m) and KL(student || m), m being half way between."""

    name = "jensen_shannon"
    metric = "loss/jensen_shannon"

    def of_classes(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`jensen_shannon`."""
        return jensen_shannon(student, teacher, self.temperature)

    def begin(self, chunk: Chunk, labels: Int[Tensor, " labelled"]) -> Begun:
        """KL(q || m) of each token, which its gradient needs; the sum needs KL(p || m), too."""
        of_student = torch.zeros_like(chunk.student.log_sum(self.temperature))
        of_teacher = torch.zeros_like(of_student)
        for index in range(len(chunk.student.blocks)):
            log_q = chunk.student.log_probs(index, self.temperature)
            log_p = chunk.teacher.log_probs(index, self.temperature)
            middle = _log_middle(log_q, log_p)
            of_student += log_q.exp().mul_(log_q.sub_(middle)).sum(dim=0)
            of_teacher += log_p.exp().mul_(log_p.sub_(middle)).sum(dim=0)
        return Begun(self.temperature**2 * (of_student + of_teacher).sum() / 2, of_student)

    def block(
        self,
        block: Block,
        labels: Int[Tensor, " labelled"],
        begun: Begun,
        coefficient: Float[Tensor, ""],
        gradient: BlockGradient,
    ) -> None:
        """The gradient; the sum is known already."""
        assert begun.of_tokens is not None
        log_q = block.chunk.student.log_probs(block.index, self.temperature)
        log_p = block.chunk.teacher.log_probs(block.index, self.temperature)
        q = log_q.exp()
        difference = log_q.sub_(_log_middle(log_q, log_p)).sub_(begun.of_tokens)
        gradient.add(q.mul_(difference).mul_(coefficient * (self.temperature / 2)))
