"""One optimiser step: its batch, its gradient, its update.

The gradient is that of sum over terms of alpha * (sum over the whole step) / (count over the whole
step), whatever the number of ranks and micro-batches: counts are summed over all of them first,
sums are accumulated, and the division happens once, inside the coefficients.

Everything random in step s is a function of (seed, s): samples and masks by construction, dropout
because the generator is seeded at every step. So a resume needs the step number and no more.
"""

import gc
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from distilcli.batches.loading import StepBatches, load_steps
from distilcli.batches.packing import PackedSequences
from distilcli.batches.plan import Draws, StepPlan
from distilcli.config.experiment import BaseExperiment
from distilcli.config.training import TrainConfig
from distilcli.distillation.loss_modules import LossSums
from distilcli.distillation.objective import Objective
from distilcli.errors import NonFiniteLossError
from distilcli.models.placement import compile_layers, num_graphs, resolve_precision
from distilcli.training.hosts import Hosts
from distilcli.training.optimizer import learning_rate, make_optimizer

_SEED_STRIDE = 1_000_003
_SEED_LIMIT = 2**63
# A resume refuses other settings.
_IN_A_NEW_RUN = "then start again with --force, or choose another name=..."


@dataclass(frozen=True)
class StepOutcome:
    """What one optimiser step did. Tensors stay on the device until someone needs to know.

    Attributes:
        step: optimiser steps done, this one included.
        epoch: from 0.
        sums: of the loss terms on this rank, float64 [terms].
        counts: what each term was summed over, all ranks.
        alphas: weight of each term in this step.
        changing: weights and temperatures that change over the run, by keys of records.
        grad_norm: global norm before clipping, a 0-d tensor.
        lr: learning rate of the update.
        tokens: over all ranks.
        num_stopping: ranks that were asked to stop.
        num_graphs: compiled so far; None without `train.compile`.
    """

    step: int
    epoch: int
    sums: Tensor
    counts: tuple[int, ...]
    alphas: tuple[float, ...]
    changing: dict[str, float]
    grad_norm: Tensor
    lr: float
    tokens: int
    num_stopping: int
    num_graphs: int | None


def num_steps(train: TrainConfig, plan: StepPlan) -> int:
    """Optimiser steps of a run."""
    if train.max_tokens is not None:
        return plan.steps_to_reach(train.max_tokens)
    return train.max_steps or plan.num_steps or 0


def note_of_idle(plan: StepPlan, num_processes: int) -> str | None:
    """What to say where there are more processes than a step has work for; None: there are not."""
    idle = num_processes - plan.num_dealt
    if idle <= 0:
        return None
    return (
        f"{idle} of {num_processes} processes have nothing to do: a step of "
        f"train.global_batch_size {plan.global_batch_size} is dealt out in {plan.num_dealt}"
    )


class Stepper:
    """Takes optimiser steps; holds the wrapped module, the optimiser and the step plan.

    No step waits for the device: batches come from workers, counts are added up by the hosts, and
    whether losses and gradient were finite stays on the device until `check_finite` asks.

    Args:
        experiment: all settings.
        objective: samples and losses; its student is trained in place.
        accelerator: wraps the module for its devices and ranks.
    """

    def __init__(
        self, experiment: BaseExperiment, objective: Objective, accelerator: Accelerator
    ) -> None:
        self.experiment = experiment
        self.accelerator = accelerator
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.plan = objective.step_plan(experiment.train, experiment.seed)
        self.total_steps = num_steps(experiment.train, self.plan)
        self.dtype = resolve_precision(experiment.train.precision, accelerator.device)
        self.distillation = objective.module
        self.step_batches = StepBatches(objective.pack, self.plan, self.rank, self.world_size)
        self._freeze_unused()
        if experiment.train.compile:
            objective.module.compiles_losses = accelerator.device.type == "cuda"
            for model in objective.module.compilable():
                compile_layers(model)
        self.optimizer = make_optimizer(objective.module, experiment.optim)
        with warnings.catch_warnings():
            # PyTorch renames this option; accelerate knows the old name only.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.model = accelerator.prepare_model(self.distillation)
        self.hosts = Hosts(accelerator, experiment.train.timeout_seconds)
        self._is_spoilt = torch.zeros((), device=accelerator.device)
        self._unchecked: list[tuple[int, Tensor]] = []

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of forward passes."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, self.dtype)

    def batches_from(self, step: int) -> Iterator[list[PackedSequences]]:
        """This rank's micro-batches of `step` and all later steps, on its device."""
        steps = range(step, self.total_steps)
        workers = self.experiment.train.num_workers
        return load_steps(self.step_batches, steps, self.accelerator.device, workers)

    def take(
        self, step: int, batches: list[PackedSequences], stop_requested: bool = False
    ) -> StepOutcome:
        """Take step `step`, from 0.

        A loss or gradient that is not finite changes nothing: that update and all later ones are
        left out, on the device, until `check_finite` finds out.

        Args:
            step: which one.
            batches: its micro-batches on this rank.
            stop_requested: whether this rank wants to stop after it; all ranks learn of it.

        Raises:
            ProcessLostError: another process does not come to the step.
        """
        *counts, num_stopping, tokens = self._global_counts(step, batches, stop_requested)
        sums = self.accumulate_gradient(step, batches, counts)
        parameters = [p for p in self.distillation.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.experiment.optim.max_grad_norm)
        self._is_spoilt = torch.maximum(self._is_spoilt, (~torch.isfinite(norm)).float())
        self._unchecked.append((step, norm))
        lr = learning_rate(self.experiment.optim, step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # What a gradient scaler sets: fused AdamW updates nothing where it is 1.
        self.optimizer.found_inf = self._is_spoilt  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepOutcome(
            step=step + 1,
            epoch=self.plan.epoch(step),
            sums=sums,
            counts=tuple(counts),
            alphas=tuple(self.distillation.alphas()),
            changing=self.distillation.changing(),
            grad_norm=norm,
            lr=lr,
            tokens=tokens,
            num_stopping=num_stopping,
            num_graphs=num_graphs() if self.experiment.train.compile else None,
        )

    def check_finite(self) -> None:
        """Look at the steps since the last look; waits for the device. All ranks call it together.

        Raises:
            NonFiniteLossError: naming the first step whose losses or gradient were not finite; the
                weights are those before it.
        """
        if self._is_spoilt.item():
            step = next(step for step, norm in self._unchecked if not torch.isfinite(norm))
            self._refuse_non_finite(step)
        self._unchecked.clear()

    def close(self) -> None:
        """Let go of the wrapped module; no step can be taken after this.

        DDP's reducer holds the process group. Were it the last to do so, it would take the group
        down with the interpreter locked, and gloo's threads, which may need the interpreter to
        finish, would wait for ever. So it goes while the group still has other owners.
        """
        del self.model
        self.accelerator.free_memory()
        gc.collect()  # what is in a cycle would outlive the group

    def accumulate_gradient(
        self, step: int, batches: list[PackedSequences], counts: Sequence[int]
    ) -> Tensor:
        """Forward and backward of every micro-batch; the ranks' gradients meet once, at the last.

        Args:
            step: seeds dropout, and decides weights and temperatures that change over the run.
            batches: this rank's micro-batches.
            counts: of each term over all ranks.

        Returns:
            This rank's sums of the terms, float64 [terms].
        """
        seed = (self.experiment.seed * _SEED_STRIDE + step) * self.world_size + self.rank
        torch.manual_seed(seed % _SEED_LIMIT)
        self.distillation.set_step(step, self.total_steps)
        coefficients = self._coefficients(counts)
        nothing = [torch.zeros_like(value) for value in coefficients]
        sums = torch.zeros(
            len(self.distillation.terms), dtype=torch.float64, device=self.accelerator.device
        )
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                with self.autocast():
                    losses = self.model(batch, nothing if batch.is_placeholder else coefficients)
                if not batch.is_placeholder:
                    sums += losses.terms
                total = _spoilt_by(sums, losses.total) if is_last else losses.total
                # accelerate divides by its own accumulation steps, which stay at 1.
                self.accelerator.backward(total)
        return sums

    def _freeze_unused(self) -> None:
        """Freeze what the shortest sample shows to get no gradient, before anything is wrapped."""
        shortest = int(self.plan.lengths.argmin())
        one = Draws(np.array([shortest]), np.zeros(1, dtype=np.int64))
        batch = self.step_batches.pack(one).to(self.accelerator.device)
        self.distillation.to(self.accelerator.device)
        with self.autocast():
            self.distillation.freeze_unused(batch)

    def _global_counts(
        self, step: int, batches: list[PackedSequences], stop_requested: bool
    ) -> list[int]:
        """Over all ranks: counts of each term, ranks that want to stop, tokens.

        Raises:
            ProcessLostError: another process does not come to the step.
        """
        counted = [batch for batch in batches if not batch.is_placeholder]
        counts = [self.distillation.counts(batch) for batch in counted]
        totals = [sum(column) for column in zip(*counts, strict=True)]
        totals = totals or [0] * len(self.distillation.terms)
        totals += [int(stop_requested), sum(batch.num_tokens for batch in counted)]
        return self.hosts.add_up(totals, f"step {step + 1}")

    def _coefficients(self, counts: Sequence[int]) -> list[Tensor]:
        """alpha / count of each term, times the ranks over which DDP takes a mean."""
        values = [
            alpha / max(count, 1) * self.world_size
            for alpha, count in zip(self.distillation.alphas(), counts, strict=True)
        ]
        is_pinned = self.accelerator.device.type == "cuda"  # else the copy would block
        scaled = torch.tensor(values, pin_memory=is_pinned)
        scaled = scaled.to(self.accelerator.device, non_blocking=True)
        return list(scaled.unbind())

    def _refuse_non_finite(self, step: int) -> None:
        """Find the sequences that are to blame, on all ranks, then stop."""
        batches = self.step_batches[step]
        self.distillation.set_step(step, self.total_steps)
        counts = self._global_counts(step, batches, stop_requested=False)[:-2]
        coefficients = self._coefficients(counts)
        looked_at: list[tuple[int, list[str]]] = []
        mine = self.plan.micro_batches(step, self.rank, self.world_size)
        for one in (part.at([place]) for part in mine for place in range(len(part))):
            alone = self.step_batches.pack(one).to(self.accelerator.device)
            with torch.no_grad(), self.autocast():
                losses = self.distillation(alone, coefficients)
            looked_at.append((int(one.samples[0]), self._bad_terms(losses)))
        of_all = gather_object(looked_at)
        everywhere = [(sample, bad) for sample, bad in of_all if bad]
        refusal = f"step {step + 1}: {{}} is not finite; the weights were not updated"
        if not everywhere:
            raise NonFiniteLossError(
                refusal.format("the gradient (each sample's loss alone is finite)"),
                f"Lower optim.lr or set train.precision=fp32; {_IN_A_NEW_RUN}",
            )
        if len(everywhere) == len(of_all) > 1:
            terms = sorted({name for _, bad in everywhere for name in bad})
            raise NonFiniteLossError(
                refusal.format(f"{' and '.join(terms)} of every sample"),
                "Look at loss.temperature, the weights of the losses and optim.lr, or set "
                f"train.precision=fp32; {_IN_A_NEW_RUN}",
            )
        sample, bad = everywhere[0]
        where = f"{' and '.join(bad)} of sample {sample} of the training split"
        if len(everywhere) > 1:
            where += f" (and of {len(everywhere) - 1} more)"
        raise NonFiniteLossError(
            refusal.format(where),
            f"Lower optim.lr, set train.precision=fp32 or look at that sample; {_IN_A_NEW_RUN}",
        )

    def _bad_terms(self, losses: LossSums) -> list[str]:
        """Metric keys of the terms that are not finite; of the total, if only that is not."""
        finite = torch.isfinite(losses.terms).tolist()
        terms = zip(self.distillation.terms, finite, strict=True)
        bad = [term.metric for term, is_finite in terms if not is_finite]
        return bad or ([] if torch.isfinite(losses.total) else ["loss/total"])


def _spoilt_by(sums: Tensor, total: Tensor) -> Tensor:
    """The loss as it is, or NaN where a term or the loss itself is not finite.

    A loss may be infinite while its gradient is finite (of a huge temperature, T^2 overflows where
    T times a difference does not). Made NaN, it spoils the gradient, which the ranks add up in any
    case: all of them learn of it, without another exchange and without asking the device.
    """
    # 0 * x is 0 for every finite x, and NaN for all others; 1 + 0 changes no bit of the gradient.
    factor = 1 + 0 * (sums.sum() + total.detach())
    return total * factor.to(total.dtype)
