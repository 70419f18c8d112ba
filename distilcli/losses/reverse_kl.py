"""The reverse KL divergence: from the student's softened distribution to the teacher's."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.logits import Block, BlockGradient, Chunk
from distilcli.losses.terms import Begun, Divergence, check_temperature


def reverse_kl(
    student_logits: Float[Tensor, "tokens vocab"],
    teacher_logits: Float[Tensor, "tokens vocab"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over tokens of T^2 * KL(q || p), in nats; zero where the logits match.

    A student that cannot have all of the teacher's modes is pushed to have some of them whole,
    where the forward divergence (soft targets) would have it cover all of them.

    Gradient with respect to the student's logits: T * q_i * (log q_i - log p_i - KL(q || p)). With
    the factor T^2 it has the limit of the soft targets' at a high temperature.

    Raises:
        ValueError: temperature is not positive.
    Source: Gu et al. 2024 (MiniLLM), eq. 1, there of whole sequences and at T = 1; T^2 as in
    Hinton et al. 2015, sec. 2.
    """
    check_temperature(temperature)
    student_log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    teacher_log_probs = F.log_softmax(teacher_logits / temperature, dim=-1)
    difference = student_log_probs - teacher_log_probs
    return temperature**2 * (student_log_probs.exp() * difference).sum()


class ReverseKL(Divergence):
    """T^2 * KL(student || teacher)."""

    name = "reverse_kl"
    metric = "loss/reverse_kl"

    def of_classes(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`reverse_kl`."""
        return reverse_kl(student, teacher, self.temperature)

    def begin(self, chunk: Chunk, labels: Int[Tensor, " labelled"]) -> Begun:
        """The divergence of each token, which its gradient needs."""
        divergences = torch.zeros_like(chunk.student.log_sum(self.temperature))
        for index in range(len(chunk.student.blocks)):
            q, difference = self._compared(chunk, index)
            divergences += q.mul_(difference).sum(dim=0)
        return Begun(self.temperature**2 * divergences.sum(), divergences)

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
        q, difference = self._compared(block.chunk, block.index)
        difference.sub_(begun.of_tokens)
        gradient.add(q.mul_(difference).mul_(coefficient * self.temperature))

    def _compared(self, chunk: Chunk, index: int) -> tuple[Tensor, Tensor]:
        """Of one block q, and log q - log p."""
        log_q = chunk.student.log_probs(index, self.temperature)
        log_p = chunk.teacher.log_probs(index, self.temperature)
        return log_q.exp(), log_q.sub_(log_p)
