"""Masked-LM distillation: a token store, dynamic masks, teacher and student, their losses.

The module's `forward` takes one packed micro-batch and returns the weighted total, which carries
the gradient, and the plain sum of each term. Nothing is averaged here.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from distilcli.batches.masked import PackedBatch, held_out_batches, pack
from distilcli.batches.masking import Masker
from distilcli.batches.plan import Draws
from distilcli.config.experiment import Experiment
from distilcli.config.losses import LossConfig
from distilcli.distillation.assembly import Parts
from distilcli.distillation.identity import (
    Identity,
    identity_of_model,
    identity_of_store,
    identity_of_tokenizer,
)
from distilcli.distillation.objective import LossModule, LossSums, Objective
from distilcli.errors import ModelError
from distilcli.evaluation.held_out import (
    HeldOutScores,
    held_out_masker,
    held_out_scores,
    unigram_loss,
)
from distilcli.losses.hidden import hidden_cosine_distance
from distilcli.losses.vocabulary import Coefficients, fused_vocabulary_losses
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.families import MaskedLM, encoder
from distilcli.models.placement import offload_layers
from distilcli.models.running import run_encoder, vocabulary_projection
from distilcli.text.vocabulary import unknown_share

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


def _freeze_head(student: MaskedLM) -> None:
    """Without a loss on logits the head gets no gradient, and DDP would wait for one."""
    trained = {id(parameter) for parameter in encoder(student).parameters()}
    for parameter in student.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)


_SANITY_SEQUENCES = 200


class MaskedLMObjective(Objective):
    """Trains a student on masked text, beside its teacher if there is one.

    Args:
        experiment: all settings.
        parts: store, tokenizer, teacher and student; the student is trained in place.
        device: where the models will be.
    """

    module: Distillation

    def __init__(self, experiment: Experiment, parts: Parts, device: torch.device) -> None:
        self.experiment = experiment
        self.store = parts.store
        self.tokenizer = parts.tokenizer
        self.lengths = parts.store.train.lengths
        self.unknown_share = unknown_share(parts.store.token_counts, parts.tokenizer)
        self.num_held_out = len(parts.store.held_out)
        self.offloaded = experiment.teacher is not None and experiment.teacher.offload
        if self.offloaded and parts.teacher is not None:
            offload_layers(parts.teacher, device)
        self.module = Distillation(parts.student, parts.teacher, experiment.loss, self.offloaded)
        uses_soft_targets = self.module.uses_soft_targets
        self._unmasked_share = experiment.loss.unmasked_share if uses_soft_targets else 0.0
        self._masker = Masker(
            experiment.masking,
            parts.tokenizer,
            parts.store.manifest.vocab_size,
            parts.store.token_counts,
            experiment.seed,
        )

    def compilable(self) -> list[PreTrainedModel]:
        """Student and teacher, if that is not offloaded."""
        models = [self.module.student, None if self.offloaded else self.module.teacher]
        return [model for model in models if model is not None]

    def pack(self, draws: Draws) -> PackedBatch:
        """One micro-batch, each sample masked as in its epoch."""
        samples = draws.samples.tolist()
        return pack(self.store.train, samples, self._masker, draws.epochs, self._unmasked_share)

    def held_out(self, accelerator: Accelerator) -> HeldOutScores:
        """Held-out scores of the student as it is now, beside its teacher."""
        batches = self._held_out_batches(self.experiment.validation.num_sequences, accelerator)
        return held_out_scores(self.module.student, self.module.teacher, batches, accelerator)

    def check_teacher(self, accelerator: Accelerator) -> dict[str, float | None]:
        """Held-out loss of the teacher and of token frequencies, in nats a masked token.

        Raises:
            ModelError: the teacher predicts held-out text no better than token frequencies do.
        """
        if not self.num_held_out:
            return {"teacher_loss": None, "unigram_loss": None}
        batches = self._held_out_batches(_SANITY_SEQUENCES, accelerator)
        unigram = unigram_loss(self.store, batches, accelerator)
        teacher = self.experiment.teacher
        if teacher is None or self.module.teacher is None:
            return {"teacher_loss": None, "unigram_loss": unigram}
        where = f"teacher.model {teacher.model}"
        scores = held_out_scores(self.module.teacher, None, batches, accelerator, where)
        teacher_loss = scores.loss
        if not teacher_loss < unigram:
            raise ModelError(
                f"{where}: its held-out masked-LM loss, {teacher_loss:.3f}, is no better than "
                f"the {unigram:.3f} of token frequencies alone",
                "Check that the teacher and its tokenizer belong together and know this text.",
            )
        return {"teacher_loss": teacher_loss, "unigram_loss": unigram}

    def _held_out_batches(self, num_sequences: int, accelerator: Accelerator) -> list[PackedBatch]:
        experiment = self.experiment
        masker = held_out_masker(self.store, self.tokenizer, experiment.masking.mlm_probability)
        batches = held_out_batches(
            self.store.held_out,
            masker,
            num_sequences,
            experiment.train.tokens_per_micro_batch,
            accelerator.process_index,
            accelerator.num_processes,
        )
        return list(batches)


def masked_lm_identity(experiment: Experiment, parts: Parts, initial_student: Path) -> Identity:
    """What a run depends on: teacher, student at start, tokenizer, and the store for the text."""
    found = identity_of_tokenizer(parts.tokenizer) | identity_of_store(parts.store)
    teacher = experiment.teacher
    if teacher is not None:
        found |= identity_of_model("teacher.model", teacher.model, teacher.revision)
    return found | identity_of_model("initial student", str(initial_student))
