"""One optimiser step: its batch, its gradient, its update.

The gradient is that of sum over terms of alpha * (sum over the whole step) / (count over the whole
step), whatever the number of ranks and micro-batches: counts are summed over all of them first,
sums are accumulated, and the division happens once, inside the coefficients.

Everything random in step s is a function of (seed, s): samples and masks by construction, dropout
because the generator is seeded at every step. So a resume needs the step number and no more.
"""

import gc
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from distilcli.assembly import Parts
from distilcli.batches import PackedBatch, StepPlan, pack
from distilcli.config import Experiment
from distilcli.distillation import TERMS, Distillation
from distilcli.errors import NonFiniteLossError
from distilcli.losses import Coefficients
from distilcli.masking import Masker
from distilcli.optimization import learning_rate, make_optimizer
from distilcli.precision import resolve_precision

_SEED_STRIDE = 1_000_003
_SEED_LIMIT = 2**63


@dataclass(frozen=True)
class StepOutcome:
    """What one optimiser step did.

    Attributes:
        step: optimiser steps done, this one included.
        epoch: from 0.
        sums: of `TERMS` on this rank, float64 [terms], still on the device.
        counts: tokens that each term was summed over, all ranks, float64 [terms].
        grad_norm: global norm before clipping.
        lr: learning rate of the update.
        tokens: over all ranks.
        num_stopping: ranks that were asked to stop.
    """

    step: int
    epoch: int
    sums: Tensor
    counts: Tensor
    grad_norm: float
    lr: float
    tokens: int
    num_stopping: int


class Stepper:
    """Takes optimiser steps; holds the wrapped module, the optimiser and the step plan.

    Args:
        experiment: all settings.
        parts: store, tokenizer, teacher and student; the student is trained in place.
        accelerator: wraps the module for its devices and ranks.
    """

    def __init__(self, experiment: Experiment, parts: Parts, accelerator: Accelerator) -> None:
        self.experiment = experiment
        self.accelerator = accelerator
        self.split = parts.store.train
        self.plan = StepPlan(
            self.split.lengths,
            experiment.train.global_batch_size,
            experiment.train.tokens_per_micro_batch,
            experiment.seed,
        )
        self.total_steps = (
            experiment.train.max_steps or experiment.train.num_epochs * self.plan.steps_per_epoch
        )
        self.masker = Masker(
            experiment.masking,
            parts.tokenizer,
            parts.store.manifest.vocab_size,
            parts.store.token_counts,
            experiment.seed,
        )
        self.dtype = resolve_precision(experiment.train.precision, accelerator.device)
        self.distillation = Distillation(parts.student, parts.teacher, experiment.loss)
        self.optimizer = make_optimizer(parts.student, experiment.optim)
        with warnings.catch_warnings():
            # PyTorch renames this option; accelerate knows the old name only.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.model = accelerator.prepare_model(self.distillation)

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of forward passes."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, self.dtype)

    def take(self, step: int, stop_requested: bool = False) -> StepOutcome:
        """Take step `step`, from 0.

        Args:
            step: which one.
            stop_requested: whether this rank wants to stop after it; all ranks learn of it.

        Raises:
            NonFiniteLossError: before the update that would spoil the weights.
        """
        batches = self.batches(step)
        counts = self._global_counts(batches, stop_requested)
        sums = self.accumulate_gradient(step, batches, counts[: len(TERMS)])
        parameters = [p for p in self.distillation.student.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.experiment.optim.max_grad_norm)
        # The one synchronisation of a step: is the update safe, and does any rank want to stop?
        figures = torch.stack([norm.double(), counts[-2], counts[-1]])
        if not torch.isfinite(figures).all():
            self._refuse_non_finite(step, batches, counts[: len(TERMS)])
        grad_norm, num_stopping, tokens = figures.tolist()
        lr = learning_rate(self.experiment.optim, step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepOutcome(
            step=step + 1,
            epoch=self.plan.epoch(step),
            sums=sums,
            counts=counts[: len(TERMS)],
            grad_norm=grad_norm,
            lr=lr,
            tokens=int(tokens),
            num_stopping=int(num_stopping),
        )

    def close(self) -> None:
        """Let go of the wrapped module; no step can be taken after this.

        DDP's reducer holds the process group. Were it the last to do so, it would take the group
        down with the interpreter locked, and gloo's threads, which may need the interpreter to
        finish, would wait for ever. So it goes while the group still has other owners.
        """
        del self.model
        self.accelerator.free_memory()
        gc.collect()  # what is in a cycle would outlive the group

    def batches(self, step: int) -> list[PackedBatch]:
        """This rank's micro-batches of one step, on its device."""
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        epoch = self.plan.epoch(step)
        return [
            pack(self.split, samples, self.masker, epoch).to(self.accelerator.device)
            for samples in self.plan.micro_batches(step, rank, world_size)
        ]

    def accumulate_gradient(self, step: int, batches: list[PackedBatch], counts: Tensor) -> Tensor:
        """Forward and backward of every micro-batch; the ranks' gradients meet once, at the last.

        Args:
            step: seeds dropout.
            batches: this rank's micro-batches.
            counts: of each term over all ranks, float64 [terms].

        Returns:
            This rank's sums of the terms, float64 [terms].
        """
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        seed = (self.experiment.seed * _SEED_STRIDE + step) * world_size + rank
        torch.manual_seed(seed % _SEED_LIMIT)
        coefficients = self._coefficients(counts)
        sums = torch.zeros_like(counts)
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                with self.autocast():
                    losses = self.model(batch, coefficients)
                # accelerate divides by its own accumulation steps, which stay at 1.
                self.accelerator.backward(losses.total)
            sums += losses.terms
        return sums

    def _global_counts(self, batches: list[PackedBatch], stop_requested: bool) -> Tensor:
        """Over all ranks: tokens of each term, ranks that want to stop, tokens; float64."""
        counts = [self.distillation.counts(batch) for batch in batches]
        totals = [sum(column) for column in zip(*counts, strict=True)]
        totals += [int(stop_requested), sum(batch.num_tokens for batch in batches)]
        local = torch.tensor(totals, dtype=torch.float64, device=self.accelerator.device)
        reduced: Tensor = self.accelerator.reduce(local, "sum")
        return reduced

    def _coefficients(self, counts: Tensor) -> Coefficients:
        """alpha / count of each term, times the ranks over which DDP takes a mean."""
        alphas = torch.tensor(self.distillation.alphas(), dtype=torch.float64, device=counts.device)
        scaled = alphas / counts.clamp(min=1.0) * self.accelerator.num_processes
        return Coefficients(*scaled.float().unbind())

    def _refuse_non_finite(self, step: int, batches: list[PackedBatch], counts: Tensor) -> None:
        """Find the sequences that are to blame, on all ranks, then stop."""
        coefficients = self._coefficients(counts)
        culprits: list[int] = []
        for sample in (sample for batch in batches for sample in batch.sample_ids):
            alone = pack(self.split, [sample], self.masker, self.plan.epoch(step))
            with torch.no_grad(), self.autocast():
                losses = self.distillation(alone.to(self.accelerator.device), coefficients)
            if not torch.isfinite(losses.terms).all():
                culprits.append(sample)
        everywhere = gather_object(culprits)
        where = "the gradient (each sample's loss alone is finite)"
        if everywhere:
            where = f"the loss of sample {everywhere[0]} of the training split"
        if len(everywhere) > 1:
            where += f" (and of {len(everywhere) - 1} more)"
        raise NonFiniteLossError(
            f"step {step + 1}: {where} is not finite; the weights were not updated",
            "Lower optim.lr, set train.precision=fp32 or look at that sample, then --resume.",
        )
