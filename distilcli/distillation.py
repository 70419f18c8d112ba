"""Teacher, student and the masked-LM losses as one module.

Its `forward` takes one packed micro-batch and returns the weighted total, which carries the
gradient, and the plain sum of each term. Nothing is averaged here.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from distilcli.attention import Packing, use_packed_attention
from distilcli.batches import PackedBatch, PackedSequences
from distilcli.config import LossConfig
from distilcli.fused_head import Coefficients, Projection, fused_vocabulary_losses
from distilcli.losses import hidden_cosine_distance
from distilcli.models import MaskedLM, decoder, encoder, head_features
from distilcli.objective import LossModule, LossSums

TERMS = {"ce": "loss/kl", "mlm": "loss/mlm", "cos": "loss/cos", "mse": "loss/mse"}


class Distillation(LossModule):
    """Runs student and teacher over the same masked input and compares them.

    Args:
        student: the model that is trained.
        teacher: frozen here and kept in eval mode; None: hard targets alone.
        loss: weights, temperature, positions.
        offloaded: the teacher's layers are in host memory; it is then no part of this module,
            which can be moved and wrapped as one.
    """

    terms = TERMS
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
            _freeze_head(student)

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
            coefficients: alpha / global count of each of `TERMS`; None where alpha is 0.
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
        """How many tokens each of `TERMS` is summed over."""
        return [
            batch.num_soft if self._alpha("ce") else 0,
            batch.num_masked if self.loss.alpha_mlm else 0,
            batch.num_tokens if self._alpha("cos") else 0,
            batch.num_soft if self._alpha("mse") else 0,
        ]

    def alphas(self) -> list[float]:
        """Weight of each of `TERMS`; 0 for those that need a teacher when there is none."""
        return [self._alpha(term) for term in TERMS]

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


def run_encoder(
    model: PreTrainedModel, batch: PackedSequences, packing: Packing, **inputs: Tensor
) -> Float[Tensor, "tokens hidden"]:
    """Last hidden states of a model with packed attention; `inputs` are what else it takes."""
    output = encoder(model)(
        input_ids=batch.input_ids, position_ids=batch.position_ids, packing=packing, **inputs
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def vocabulary_projection(model: MaskedLM, hidden: Float[Tensor, "tokens hidden"]) -> Projection:
    """The masked-LM head of a model, up to but without the product that makes logits."""
    projection = decoder(model)
    return Projection(head_features(model, hidden), projection.weight, projection.bias)


def _freeze_head(student: MaskedLM) -> None:
    """Without a loss on logits the head gets no gradient, and DDP would wait for one."""
    trained = {id(parameter) for parameter in encoder(student).parameters()}
    for parameter in student.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
