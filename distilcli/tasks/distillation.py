"""Student and losses of a task as one module, with the teacher unless its outputs are cached.

Outputs are rows: one an input, one a word, or start and end logits of every token, which become
distributions over the tokens of their input.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from distilcli.attention import Packing, use_packed_attention
from distilcli.distillation import run_encoder
from distilcli.losses import (
    binary_cross_entropy,
    binary_soft_target_kl,
    hidden_cosine_distance,
    soft_target_kl,
    squared_error,
)
from distilcli.models import is_bert
from distilcli.objective import LossModule, LossSums
from distilcli.rows import NO_LABEL
from distilcli.task_config import TaskLossConfig
from distilcli.tasks.inputs import TaskBatch
from distilcli.tasks.models import head_outputs
from distilcli.tasks.task import Family, Head

TERMS = {"ce": "loss/kl", "hard": "loss/hard", "cos": "loss/cos"}
# Instead of minus infinity, of which a difference would be NaN.
_OUTSIDE = -1e30


class TaskDistillation(LossModule):
    """Runs the student, and a teacher whose outputs a batch does not bring, and compares them.

    Args:
        student: the model that is trained.
        teacher: frozen here and kept in eval mode; None: the batches bring its outputs, or there
            is no teacher.
        head: where outputs are read.
        family: what outputs are.
        loss: weights and temperature.
        has_teacher: whether there is one, here or in the batches.
    """

    terms = TERMS

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None,
        head: Head,
        family: Family,
        loss: TaskLossConfig,
        has_teacher: bool,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.head = head
        self.family = family
        self.loss = loss
        self.has_teacher = has_teacher
        use_packed_attention(student)
        if teacher is not None:
            use_packed_attention(teacher)
            teacher.requires_grad_(False).eval()
        if not (self._alpha("ce") or loss.alpha_hard):
            _freeze_head(student)

    def train(self, mode: bool = True) -> "TaskDistillation":
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(
        self, batch: TaskBatch, coefficients: Sequence[Float[Tensor, ""] | None]
    ) -> LossSums:
        """Loss sums of one micro-batch.

        Args:
            batch: packed inputs on this module's device.
            coefficients: alpha / global count of each of `TERMS`; None where alpha is 0.
        """
        teacher_outputs, teacher_hidden = batch.teacher_outputs, batch.teacher_hidden
        if self.teacher is not None:
            with torch.no_grad():
                teacher_outputs, teacher_hidden = run_model(self.teacher, batch)
        outputs, hidden = run_model(self.student, batch)
        zero = outputs.new_zeros(())
        total, sums = zero, []
        for name, coefficient in zip(TERMS, coefficients, strict=True):
            if coefficient is None:
                sums.append(zero)
                continue
            if name == "hard":
                value = self._hard(outputs, batch)
            elif name == "ce":
                assert teacher_outputs is not None
                value = self._soft(outputs, teacher_outputs, batch)
            else:
                assert teacher_hidden is not None
                value = hidden_cosine_distance(hidden.float(), teacher_hidden.float())
            total = total + coefficient * value
            sums.append(value)
        return LossSums(total, torch.stack(sums).detach())

    def counts(self, batch: TaskBatch) -> list[int]:
        """What each of `TERMS` is summed over: inputs, words, starts and ends; tokens for cos."""
        outputs, labels = batch.num_outputs, batch.num_labels
        if self.head == "span":
            outputs, labels = 2 * len(batch.lengths), 2 * labels
        counts = {"ce": outputs, "hard": labels, "cos": batch.num_tokens}
        return [counts[term] if self._alpha(term) else 0 for term in TERMS]

    def alphas(self) -> list[float]:
        """Weight of each of `TERMS`; 0 for those that need a teacher when there is none."""
        return [self._alpha(term) for term in TERMS]

    def _alpha(self, term: str) -> float:
        alpha: float = getattr(self.loss, f"alpha_{term}")
        return alpha if term == "hard" or self.has_teacher else 0.0

    def _hard(self, outputs: Tensor, batch: TaskBatch) -> Tensor:
        if self.head == "span":
            targets = batch.targets.T.flatten()  # all starts, then all ends
            outputs = by_input(outputs, batch.lengths)
            return F.cross_entropy(outputs, targets, reduction="sum", ignore_index=NO_LABEL)
        if self.family == "one-of":
            return F.cross_entropy(outputs, batch.targets, reduction="sum", ignore_index=NO_LABEL)
        if self.family == "any-of":
            return binary_cross_entropy(outputs, batch.targets)
        return squared_error(outputs[:, 0], batch.targets)

    def _soft(self, outputs: Tensor, teacher_outputs: Tensor, batch: TaskBatch) -> Tensor:
        temperature = self.loss.temperature
        teacher_outputs = teacher_outputs.float()
        if self.head == "span":
            outputs = by_input(outputs, batch.lengths)
            teacher_outputs = by_input(teacher_outputs, batch.lengths)
        if self.family == "one-of":
            return soft_target_kl(outputs, teacher_outputs, temperature)
        if self.family == "any-of":
            return binary_soft_target_kl(outputs, teacher_outputs, temperature)
        return F.mse_loss(outputs, teacher_outputs, reduction="sum")


def run_model(
    model: PreTrainedModel, batch: TaskBatch
) -> tuple[Float[Tensor, "outputs classes"], Float[Tensor, "tokens hidden"]]:
    """Outputs where they are read, in fp32, and last hidden states, of a packed model."""
    types = {"token_type_ids": batch.token_type_ids} if is_bert(model) else {}
    hidden = run_encoder(model, batch, Packing.of(batch), **types)
    return head_outputs(model, hidden[batch.output_positions]), hidden


def by_input(
    outputs: Float[Tensor, "tokens 2"], lengths: Sequence[int]
) -> Float[Tensor, "twice_inputs longest"]:
    """Start logits of each input, then end logits of each, filled up to the longest input."""
    columns = [column.split(list(lengths)) for column in outputs.unbind(dim=1)]
    rows = [row for column in columns for row in column]
    return pad_sequence(rows, batch_first=True, padding_value=_OUTSIDE)


def _freeze_head(student: PreTrainedModel) -> None:
    """Without a loss on outputs the head gets no gradient, and DDP would wait for one."""
    prefix = f"{student.base_model_prefix}."
    for name, parameter in student.named_parameters():
        if not name.startswith(prefix) or ".pooler." in name:
            parameter.requires_grad_(False)
