"""Masked-LM distillation as an objective: a token store, dynamic masks, teacher and student."""

from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from distilcli.batches.masked import PackedBatch, held_out_batches, pack
from distilcli.batches.masking import Masker
from distilcli.batches.plan import Draws
from distilcli.config.experiment import Experiment
from distilcli.distillation.assembly import Parts
from distilcli.distillation.identity import (
    Identity,
    identity_of_model,
    identity_of_store,
    identity_of_tokenizer,
)
from distilcli.distillation.modules import Distillation
from distilcli.distillation.objective import Objective
from distilcli.errors import ModelError
from distilcli.evaluation.held_out import (
    HeldOutScores,
    held_out_masker,
    held_out_scores,
    unigram_loss,
)
from distilcli.models.placement import offload_layers
from distilcli.text.vocabulary import unknown_share

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
