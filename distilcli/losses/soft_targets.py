"""Soft targets: the forward KL divergence from the teacher's softened distribution (L_ce)."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.logits import Block, BlockGradient, Chunk, sum_of_products
from distilcli.losses.terms import Begun, Divergence, check_temperature


def soft_target_kl(
    student_logits: Float[Tensor, "tokens vocab"],
    teacher_logits: Float[Tensor, "tokens vocab"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over tokens of T^2 * KL(p || q), in nats; zero where the logits match.

    Gradient with respect to the student's logits: T * (q - p).

    Raises:
        ValueError: temperature is not positive.
    Source: Hinton et al. 2015, eq. 1-2 and sec. 2 (T^2); Sanh et al. 2019, sec. 2.
    """
    check_temperature(temperature)
    student_log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    teacher_log_probs = F.log_softmax(teacher_logits / temperature, dim=-1)
    difference = teacher_log_probs - student_log_probs
    return temperature**2 * (teacher_log_probs.exp() * difference).sum()


def binary_soft_target_kl(
    student_logits: Float[Tensor, "rows classes"],
    teacher_logits: Float[Tensor, "rows classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over rows of the mean over classes of T^2 * KL(p || q), where each class is right or not.

    p and q are the sigmoids of v/T and z/T. Gradient with respect to the student's logits:
    T * (q - p) / classes.

    Raises:
        ValueError: temperature is not positive.
    Source: Hinton et al. 2015, eq. 1-2 and sec. 2, for two classes with logits z and 0.
    """
    check_temperature(temperature)
    z, v = student_logits / temperature, teacher_logits / temperature
    positive = F.logsigmoid(v).exp() * (F.logsigmoid(v) - F.logsigmoid(z))
    negative = F.logsigmoid(-v).exp() * (F.logsigmoid(-v) - F.logsigmoid(-z))
    return temperature**2 * (positive + negative).mean(dim=-1).sum()


class SoftTargets(Divergence):
    """T^2 * KL(teacher || student); of numbers the squared difference."""

    name = "soft_targets"
    metric = "loss/kl"

    def of_classes(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`soft_target_kl`."""
        return soft_target_kl(student, teacher, self.temperature)

    def of_each_class(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`binary_soft_target_kl`."""
        return binary_soft_target_kl(student, teacher, self.temperature)

    def of_numbers(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Sum over rows of (student - teacher)^2."""
        return F.mse_loss(student, teacher, reduction="sum")

    def begin(self, chunk: Chunk, labels: Int[Tensor, " labelled"]) -> Begun:
        """The part of the sum that is made of log-sums.

        sum_i p_i (log p_i - log q_i) = sum_i p_i (v_i - z_i) / T + log-sum of z/T - log-sum of v/T.
        """
        log_sum = chunk.student.log_sum(self.temperature)
        teacher_log_sum = chunk.teacher.log_sum(self.temperature)
        return Begun(self.temperature**2 * (log_sum - teacher_log_sum).sum())

    def block(
        self,
        block: Block,
        labels: Int[Tensor, " labelled"],
        begun: Begun,
        coefficient: Float[Tensor, ""],
        gradient: BlockGradient,
    ) -> Float[Tensor, ""]:
        """T^2 * sum_i p_i (v_i - z_i) / T; its gradient is that of the whole, T * (q - p)."""
        p = block.chunk.teacher.probs(block.index, self.temperature)
        difference = block.difference_at(self.temperature)
        part = self.temperature * sum_of_products(p, difference)
        q = block.chunk.student.probs(block.index, self.temperature)
        gradient.add(q.sub_(p).mul_(coefficient * self.temperature))
        return part
