"""The ways of taking a distillation step that `bench.py` compares.

All start from the same teacher and student, read the same sequences with the same masks, and
minimise the same losses; one `step` is a whole optimiser step. `Padded` and `TextBrewer` hold
whole batches of padded logits, in fp32, and cut a step into batches of a few sequences of similar
length, as the DistilBERT release did. `Packed` is this package, as `distilcli train` runs it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from distilcli.batches.masked import pack_masked
from distilcli.batches.masking import Masker
from distilcli.batches.packing import PackedSequences
from distilcli.batches.plan import StepPlan
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.distillation.masked_lm import MaskedLMObjective
from distilcli.distillation.masked_lm_parts import TextParts
from distilcli.losses.terms import first_value
from distilcli.models.families import encoder_layers
from distilcli.text.row import IGNORE_INDEX
from distilcli.training.optimizer import learning_rate, make_optimizer
from distilcli.training.steps import Stepper


class Contestant(Protocol):
    """Takes optimiser steps, each in two parts, of which the second is timed."""

    def read(self, index: int) -> None:
        """Have the batches of a step ready on the device."""

    def step(self, index: int) -> float:
        """Take the step; its weighted loss, a mean over micro-batches."""


class Packed:
    """distilcli: packed sequences, fused vocabulary head."""

    def __init__(
        self, experiment: MaskedLMExperiment, parts: TextParts, accelerator: Accelerator
    ) -> None:
        objective = MaskedLMObjective(experiment, parts, accelerator.device)
        self.stepper = Stepper(experiment, objective, accelerator)
        self.stepper.distillation.train()
        self.steps = self.stepper.batches_from(0)
        self.batches: list[PackedSequences] = []

    def read(self, index: int) -> None:
        """Take the batches that were made ahead."""
        self.batches = next(self.steps)

    def step(self, index: int) -> float:
        """Take the step as `distilcli train` does, and look at its outcome."""
        outcome = self.stepper.take(index, self.batches)
        self.stepper.check_finite()
        alphas = self.stepper.distillation.alphas()
        means = [
            alpha * total / max(count, 1)
            for alpha, total, count in zip(
                alphas, outcome.sums.tolist(), outcome.counts, strict=True
            )
        ]
        return float(sum(means))


@dataclass(frozen=True)
class PaddedBatch:
    """A few sequences, padded on the right. Shapes: [sequences, longest]."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


class _PaddedContestant:
    """What the padded ones share: reading, padding, the optimiser."""

    def __init__(
        self, experiment: MaskedLMExperiment, parts: TextParts, accelerator: Accelerator
    ) -> None:
        assert parts.teacher is not None
        self.experiment = experiment
        self.split = parts.store.train
        self.device = accelerator.device
        self.plan = StepPlan(
            self.split.lengths,
            experiment.train.global_batch_size,
            experiment.train.tokens_per_micro_batch,
            experiment.seed,
            num_epochs=None,  # steps come to an end when nobody asks for more
        )
        vocab_size, counts = parts.store.manifest.vocab_size, parts.store.token_counts
        self.masker = Masker(
            experiment.masking, parts.tokenizer, vocab_size, counts, experiment.seed
        )
        self.pad_id = int(parts.tokenizer.pad_token_id)
        self.teacher = parts.teacher.float().eval().to(self.device)
        self.student = parts.student.train().to(self.device)
        self.optimizer = make_optimizer(parts.student, experiment.optim)
        assert experiment.train.max_steps is not None
        self.total_steps = experiment.train.max_steps
        # As many sequences as the packed micro-batch holds at full length: what memory allows.
        self.batch_size = experiment.train.tokens_per_micro_batch // experiment.data.max_length
        self.batches: list[PaddedBatch] = []
        # Of a padded length: on a GPU, fewer shapes cost less than a few pads.
        self.multiple = 1

    def read(self, index: int) -> None:
        """Mask, group and pad the sequences of a step."""
        self.batches = list(self._padded(index))

    def _padded(self, index: int) -> Iterator[PaddedBatch]:
        """The step's sequences in batches of similar length."""
        draws = self.plan.draws(index)
        draws = draws.at(np.argsort(self.split.lengths[draws.samples], kind="stable").tolist())
        samples = draws.samples.tolist()
        packed = pack_masked(self.split, samples, self.masker, draws.epochs)
        rows = packed.input_ids[0].split(list(packed.lengths))
        labels = packed.labels.split(list(packed.lengths))
        for first in range(0, len(samples), self.batch_size):
            part = slice(first, first + self.batch_size)
            input_ids = nn.utils.rnn.pad_sequence(
                list(rows[part]), batch_first=True, padding_value=self.pad_id
            )
            padded_labels = nn.utils.rnn.pad_sequence(
                list(labels[part]), batch_first=True, padding_value=IGNORE_INDEX
            )
            lengths = torch.tensor([len(row) for row in rows[part]])
            filling = (0, -input_ids.shape[1] % self.multiple)
            input_ids = F.pad(input_ids, filling, value=self.pad_id)
            padded_labels = F.pad(padded_labels, filling, value=IGNORE_INDEX)
            mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
            yield PaddedBatch(
                input_ids.to(self.device), mask.to(self.device), padded_labels.to(self.device)
            )

    def step(self, index: int) -> float:
        """Accumulate the mean loss of each batch, then update."""
        batches = self.batches
        total = torch.zeros((), device=self.device)
        for batch in batches:
            loss = self.loss(batch) / len(batches)
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.experiment.optim.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.experiment.optim, index, self.total_steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(total)

    def loss(self, batch: PaddedBatch) -> Tensor:
        """The weighted loss of one batch, a mean over its tokens."""
        raise NotImplementedError


class Padded(_PaddedContestant):
    """Plain PyTorch and transformers: the training step as tutorials write it."""

    def loss(self, batch: PaddedBatch) -> Tensor:
        """Soft targets, hard targets and cosine, from full logits."""
        weights = self.experiment.loss
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        with torch.no_grad():
            teacher = self.teacher(**inputs, output_hidden_states=True)
        student = self.student(**inputs, output_hidden_states=True)
        real = batch.attention_mask.bool()
        temperature = first_value(weights.temperature)
        soft_targets = F.kl_div(
            F.log_softmax(student.logits[real] / temperature, dim=-1),
            F.softmax(teacher.logits[real] / temperature, dim=-1),
            reduction="batchmean",
        )
        hard_targets = F.cross_entropy(
            student.logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE_INDEX
        )
        student_hidden, teacher_hidden = student.hidden_states[-1], teacher.hidden_states[-1]
        ones = torch.ones(int(real.sum()), device=self.device)
        cosine = F.cosine_embedding_loss(student_hidden[real], teacher_hidden[real], ones)
        return (
            weights.weights["soft_targets"] * temperature**2 * soft_targets
            + weights.weights["masked_lm"] * hard_targets
            + weights.weights["hidden_cosine"] * cosine
        )


class PaddedBf16(Padded):
    """The same under bf16 autocast: for hardware that computes in it.

    On CUDA it has a teacher in bf16, lengths that are multiples of 64, and no attention by cuDNN,
    which would make a plan for every new shape, in its steps and not before.
    """

    def __init__(
        self, experiment: MaskedLMExperiment, parts: TextParts, accelerator: Accelerator
    ) -> None:
        super().__init__(experiment, parts, accelerator)
        if self.device.type == "cuda":
            torch.backends.cuda.enable_cudnn_sdp(False)
            self.teacher.bfloat16()
            self.multiple = 64

    def loss(self, batch: PaddedBatch) -> Tensor:
        """As `Padded`, products in bf16."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return super().loss(batch)


class PaddedCompiled(PaddedBf16):
    """The same with the layers of both models compiled."""

    def __init__(
        self, experiment: MaskedLMExperiment, parts: TextParts, accelerator: Accelerator
    ) -> None:
        super().__init__(experiment, parts, accelerator)
        for model in (self.teacher, self.student):
            for layer in encoder_layers(model):
                layer.compile(dynamic=True)


class TextBrewer(_PaddedContestant):
    """TextBrewer's GeneralDistiller with the same terms (Yang et al. 2020)."""

    def __init__(
        self, experiment: MaskedLMExperiment, parts: TextParts, accelerator: Accelerator
    ) -> None:
        super().__init__(experiment, parts, accelerator)
        from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

        weights, temperature = experiment.loss, first_value(experiment.loss.temperature)
        depths = (
            self.teacher.config.num_hidden_layers,
            self.student.config.num_hidden_layers,
        )
        match = {"layer_T": depths[0], "layer_S": depths[1], "feature": "hidden", "loss": "cos"}
        config = DistillationConfig(
            temperature=temperature,
            kd_loss_type="ce",
            # Its soft targets lack the factor T^2.
            kd_loss_weight=weights.weights["soft_targets"] * temperature**2,
            hard_label_weight=weights.weights["masked_lm"],
            intermediate_matches=[match | {"weight": weights.weights["hidden_cosine"]}],
        )
        self.distiller = GeneralDistiller(
            TrainingConfig(device=self.device, output_dir=experiment.output_dir),
            config,
            self.teacher,
            self.student,
            _adapt,
            _adapt,
        )

    def loss(self, batch: PaddedBatch) -> Tensor:
        """Its own total; the teacher gets no labels, and computes no loss of its own."""
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        both = {"teacher": inputs, "student": inputs | {"labels": batch.labels}}
        loss: Tensor = self.distiller.train_on_batch(both, {"output_hidden_states": True})[0]
        return loss


def _adapt(batch: dict[str, Tensor], output: Any) -> dict[str, Any]:
    """What TextBrewer asks of a model's output."""
    found = {
        "logits": output.logits,
        "logits_mask": batch["attention_mask"],
        "inputs_mask": batch["attention_mask"],
        "hidden": output.hidden_states,
    }
    return found if output.loss is None else found | {"losses": output.loss}
