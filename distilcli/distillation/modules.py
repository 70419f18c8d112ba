"""Teacher, student and loss terms as one module: what accelerate wraps, so that DDP sees every use.

`forward` takes one packed micro-batch and returns the weighted total, which carries the gradient,
and the plain sum of each term. Nothing is averaged here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from distilcli.batches.masked import PackedBatch
from distilcli.config.losses import LossConfig, TaskLossConfig
from distilcli.losses.hidden import hidden_cosine_distance
from distilcli.losses.labels import binary_cross_entropy, squared_error
from distilcli.losses.soft_targets import binary_soft_target_kl, soft_target_kl
from distilcli.losses.vocabulary import Coefficients, fused_vocabulary_losses
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.families import MaskedLM, encoder
from distilcli.models.running import run_encoder, run_model, vocabulary_projection
from distilcli.tasks.inputs import TaskBatch
from distilcli.tasks.outputs import Family, Head
from distilcli.text.row import NO_LABEL


class LossSums(NamedTuple):
    """One micro-batch: the weighted total, and the sum of each term, detached, in their order."""

    total: Float[Tensor, ""]
    terms: Float[Tensor, " terms"]


class LossModule(nn.Module, ABC):
    """Teacher, student and losses as one module: what accelerate wraps, so that DDP sees every use.

    Its `forward(batch, coefficients)` gives `LossSums`; coefficients are alpha / global count of
    each term, None where alpha is 0. Nothing is averaged here.

    Attributes:
        terms: metric key of each loss term, by its name.
        student: what is trained.
    """

    terms: dict[str, str]
    student: PreTrainedModel

    @abstractmethod
    def counts(self, batch: Any) -> list[int]:
        """What each term of a micro-batch is summed over: tokens, tags or examples."""

    @abstractmethod
    def alphas(self) -> list[float]:
        """Weight of each term."""


MASKED_LM_TERMS = {"ce": "loss/kl", "mlm": "loss/mlm", "cos": "loss/cos", "mse": "loss/mse"}


class Distillation(LossModule):
    """Runs student and teacher over the same masked input and compares them.

    Args:
        student: the model that is trained.
        teacher: frozen here and kept in eval mode; None: hard targets alone.
        loss: weights, temperature, positions.
        offloaded: the teacher's layers are in host memory; it is then no part of this module,
            which can be moved and wrapped as one.
    """

    terms = MASKED_LM_TERMS
    student: MaskedLM

    def __init__(
        self,
        student: MaskedLM,
        teacher: MaskedLM | None,
        loss: LossConfig,
        offloaded: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        # In a tuple no module is found by what moves and wraps this one.
        self._teacher_elsewhere = (teacher,) if offloaded else ()
        self._teacher = None if offloaded else teacher
        self.loss = loss
        use_packed_attention(student)
        if teacher is not None:
            use_packed_attention(teacher)
            teacher.requires_grad_(False).eval()
        self._uses_head = self.uses_soft_targets or bool(loss.alpha_mlm)
        if not self._uses_head:
            _freeze_masked_lm_head(student)

    @property
    def teacher(self) -> MaskedLM | None:
        """The teacher, wherever it is; None without one."""
        return self._teacher_elsewhere[0] if self._teacher_elsewhere else self._teacher

    def train(self, mode: bool = True) -> "Distillation":
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(
        self, batch: PackedBatch, coefficients: Sequence[Float[Tensor, ""] | None]
    ) -> LossSums:
        """Loss sums of one micro-batch.

        Args:
            batch: packed sequences on this module's device.
            coefficients: alpha / global count of each of `MASKED_LM_TERMS`; None where alpha is 0.
        """
        scale = Coefficients(*coefficients)
        packing = Packing.of(batch)
        teacher_hidden = None
        if self.teacher is not None:
            # First, while nothing is kept yet for the student's backward pass.
            with torch.no_grad():
                teacher_hidden = run_encoder(self.teacher, batch, packing)
        student_hidden = run_encoder(self.student, batch, packing)

        zero = student_hidden.new_zeros((), dtype=torch.float32)
        total, ce, mlm, cos, mse = zero, zero, zero, zero, zero
        if self._uses_head:
            vocabulary = self._vocabulary_losses(batch, student_hidden, teacher_hidden, scale)
            total, ce, mlm, mse = vocabulary
        if teacher_hidden is not None and scale.cos is not None:
            distance = hidden_cosine_distance(student_hidden.float(), teacher_hidden.float())
            total = total + scale.cos * distance
            cos = distance.detach()
        return LossSums(total, torch.stack([ce, mlm, cos, mse]).detach())

    def counts(self, batch: PackedBatch) -> list[int]:
        """How many tokens each of `MASKED_LM_TERMS` is summed over."""
        return [
            batch.num_soft if self._alpha("ce") else 0,
            batch.num_masked if self.loss.alpha_mlm else 0,
            batch.num_tokens if self._alpha("cos") else 0,
            batch.num_soft if self._alpha("mse") else 0,
        ]

    def alphas(self) -> list[float]:
        """Weight of each term; 0 for those that need a teacher when there is none."""
        return [self._alpha(term) for term in MASKED_LM_TERMS]

    def _alpha(self, term: str) -> float:
        alpha: float = getattr(self.loss, f"alpha_{term}")
        return alpha if term == "mlm" or self.teacher is not None else 0.0

    @property
    def uses_soft_targets(self) -> bool:
        """Whether some term compares logits with the teacher's."""
        return bool(self._alpha("ce") or self._alpha("mse"))

    def _vocabulary_losses(
        self,
        batch: PackedBatch,
        student_hidden: Float[Tensor, "tokens hidden"],
        teacher_hidden: Float[Tensor, "tokens hidden"] | None,
        coefficients: Coefficients,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        positions = batch.soft_positions if self.uses_soft_targets else batch.masked_positions
        teacher = None
        if self.uses_soft_targets:
            assert self.teacher is not None
            assert teacher_hidden is not None
            with torch.no_grad():
                teacher = vocabulary_projection(self.teacher, teacher_hidden[positions])
        return fused_vocabulary_losses(
            vocabulary_projection(self.student, student_hidden[positions]),
            teacher,
            batch.labels[batch.masked_positions],
            coefficients,
            self.loss.temperature,
        )


def _freeze_masked_lm_head(student: MaskedLM) -> None:
    """Without a loss on logits the head gets no gradient, and DDP would wait for one."""
    trained = {id(parameter) for parameter in encoder(student).parameters()}
    for parameter in student.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)


TASK_TERMS = {"ce": "loss/kl", "hard": "loss/hard", "cos": "loss/cos"}


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

    terms = TASK_TERMS

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
            _freeze_task_head(student)

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
            coefficients: alpha / global count of each of `TASK_TERMS`; None where alpha is 0.
        """
        teacher_outputs, teacher_hidden = batch.teacher_outputs, batch.teacher_hidden
        if self.teacher is not None:
            with torch.no_grad():
                teacher_outputs, teacher_hidden = run_model(self.teacher, batch)
        outputs, hidden = run_model(self.student, batch)
        zero = outputs.new_zeros(())
        total, sums = zero, []
        for name, coefficient in zip(TASK_TERMS, coefficients, strict=True):
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
        """What each term is summed over: inputs, words, starts and ends; tokens for cos."""
        outputs, labels = batch.num_outputs, batch.num_labels
        if self.head == "span":
            outputs, labels = 2 * len(batch.lengths), 2 * labels
        counts = {"ce": outputs, "hard": labels, "cos": batch.num_tokens}
        return [counts[term] if self._alpha(term) else 0 for term in TASK_TERMS]

    def alphas(self) -> list[float]:
        """Weight of each term; 0 for those that need a teacher when there is none."""
        return [self._alpha(term) for term in TASK_TERMS]

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


def by_input(
    outputs: Float[Tensor, "tokens 2"], lengths: Sequence[int]
) -> Float[Tensor, "twice_inputs longest"]:
    """Start logits of each input, then end logits of each, filled up to the longest input."""
    columns = [column.split(list(lengths)) for column in outputs.unbind(dim=1)]
    rows = [row for column in columns for row in column]
    return pad_sequence(rows, batch_first=True, padding_value=_OUTSIDE)


def _freeze_task_head(student: PreTrainedModel) -> None:
    """Without a loss on outputs the head gets no gradient, and DDP would wait for one."""
    prefix = f"{student.base_model_prefix}."
    for name, parameter in student.named_parameters():
        if not name.startswith(prefix) or ".pooler." in name:
            parameter.requires_grad_(False)
