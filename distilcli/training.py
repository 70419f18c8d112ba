"""The loop: optimiser, schedule, steps, validation, checkpoints.

    distilcli train --config configs/quickstart.yaml
    torchrun --nproc_per_node 2 -m distilcli train --config configs/quickstart.yaml --resume

Everything that is random in step s is a function of (seed, s): samples and masks by construction,
dropout because the generator is seeded at every step. So a resume needs weights, optimiser state
and the step number, and nothing else.
"""

import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from torch import Tensor

from distilcli import checkpoints
from distilcli.assembly import Parts
from distilcli.batches import PackedBatch, StepPlan, held_out_batches, pack
from distilcli.config import Experiment
from distilcli.distillation import TERMS, Distillation
from distilcli.errors import ConfigError, Interrupted, NonFiniteLossError
from distilcli.losses import Coefficients
from distilcli.masking import Masker
from distilcli.optimization import learning_rate, make_optimizer
from distilcli.precision import resolve_precision
from distilcli.run_folder import RunFolder
from distilcli.signals import StopSignals
from distilcli.students import MaskedLM, save_model
from distilcli.validation import HeldOutScores, held_out_masker, held_out_scores

METRIC_NAMES = {"ce": "loss/kl", "mlm": "loss/mlm", "cos": "loss/cos", "mse": "loss/mse"}


@dataclass
class TrainState:
    """Everything beside weights and optimiser that a resume needs.

    Attributes:
        step: optimiser steps done.
        tokens: tokens trained on, over all processes.
        seconds: time spent in training, over all attempts.
        best_step: step of the lowest held-out loss, None before the first validation.
        best_loss: that loss, nats a token.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_loss: float | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a finished run came to.

    Attributes:
        run_folder: where everything lies.
        student: folder of the trained student.
        steps: optimiser steps done.
        student_step: the step that `student` was taken from: the best by held-out loss.
        tokens: tokens trained on.
        seconds: time spent training.
        held_out_loss: of `student`, nats a token; None without held-out text.
        already_finished: there was nothing left to do.
    """

    run_folder: str
    student: str
    steps: int
    student_step: int
    tokens: int
    seconds: float
    held_out_loss: float | None
    already_finished: bool


@dataclass(frozen=True)
class Events:
    """What the loop tells whoever watches; called on the main process only."""

    on_note: Callable[[str], None] = lambda _: None
    on_warning: Callable[[str], None] = lambda _: None
    on_metrics: Callable[[dict[str, Any], int], None] = lambda _record, _total: None


def make_accelerator(experiment: Experiment) -> Accelerator:
    """The accelerator of one run: precision, trackers, and plain data parallelism.

    Raises:
        ConfigError: accelerate's configuration asks for sharding that training cannot do yet.
    """
    folder = RunFolder(experiment.run_folder)
    kwargs = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    accelerator = Accelerator(
        log_with=list(experiment.train.trackers) or None,
        project_dir=str(folder.root),
        kwargs_handlers=[kwargs],
        mixed_precision="no",
    )
    plain = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in plain:
        raise ConfigError(
            f"accelerate is configured for {accelerator.distributed_type.value}",
            "Launch with torchrun, or an accelerate config of MULTI_GPU, MULTI_CPU or NO.",
        )
    return accelerator


def num_steps(experiment: Experiment, plan: StepPlan) -> int:
    """Optimiser steps of the whole run."""
    return experiment.train.max_steps or experiment.train.num_epochs * plan.steps_per_epoch


class Trainer:
    """One run: holds the wrapped module, the optimiser, the plan and the state.

    Args:
        experiment: all settings.
        parts: tokenizer, store, teacher and student; the student is trained in place.
        accelerator: from `make_accelerator`.
        events: told of notes, warnings and metrics.
    """

    def __init__(
        self,
        experiment: Experiment,
        parts: Parts,
        accelerator: Accelerator,
        events: Events | None = None,
    ) -> None:
        self.experiment = experiment
        self.parts = parts
        self.accelerator = accelerator
        self.events = events or Events()
        self.folder = RunFolder(experiment.run_folder)
        self.state = TrainState()
        self.plan = StepPlan(
            parts.store.train.lengths,
            experiment.train.global_batch_size,
            experiment.train.tokens_per_micro_batch,
            experiment.seed,
        )
        self.total_steps = num_steps(experiment, self.plan)
        vocab_size = parts.student.config.vocab_size
        self.masker = Masker(
            experiment.masking,
            parts.tokenizer,
            vocab_size,
            parts.store.token_counts,
            experiment.seed,
        )
        self.distillation = Distillation(parts.student, parts.teacher, experiment.loss)
        self.dtype = resolve_precision(experiment.train.precision, accelerator.device)
        self.optimizer = make_optimizer(parts.student, experiment.optim)
        self.model = accelerator.prepare_model(self.distillation)
        self._pending: list[dict[str, Any]] = []

    @property
    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The student's parameters by name, tied ones once."""
        return dict(self.parts.student.named_parameters())

    def run(self, stop: StopSignals) -> None:
        """Train from the present state to the last step.

        Raises:
            NonFiniteLossError: before the update that would spoil the weights.
            Interrupted: a signal came; a checkpoint of the last finished step is written.
        """
        train = self.experiment.train
        self.distillation.train()
        self._clock = time.perf_counter()
        while self.state.step < self.total_steps:
            self.step(stop)
            step, last = self.state.step, self.state.step == self.total_steps
            validated = self._validates(step, last)
            improved = validated and self._validate()
            if validated or last or self._stop_signal or step % train.log_every == 0:
                self._flush_metrics()
            if improved or last or self._stop_signal or step % train.save_every == 0:
                self._flush_metrics()
                self.save()
            if self._stop_signal and not last:
                raise Interrupted(
                    f"stopped by signal {self._stop_signal} after step {step}; "
                    f"a checkpoint is written",
                    "",
                    self._stop_signal,
                )

    def step(self, stop: StopSignals) -> None:
        """One optimiser step; its sums stay on the device until metrics are flushed."""
        step = self.state.step
        batches = self.step_batches(step)
        counts = self._global_counts(batches, stop)
        lr = learning_rate(self.experiment.optim, step, self.total_steps)
        sums = self.accumulate_gradients(step, batches, counts)
        parameters = [p for p in self.parts.student.parameters() if p.requires_grad]
        max_norm = self.experiment.optim.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        # The one synchronisation of a step: is it safe to update, and does any rank want to stop?
        grad_norm, num_stopping, tokens = torch.stack(
            [norm.double(), counts[-2], counts[-1]]
        ).tolist()
        if not torch.isfinite(torch.tensor(grad_norm)):
            self._refuse_non_finite(step, batches, counts)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        self._stop_signal = (stop.received or int(signal.SIGTERM)) if num_stopping else 0
        self.state.step += 1
        self.state.tokens += int(tokens)
        self._pending.append(
            {
                "step": self.state.step,
                "sums": sums,
                "counts": counts[: len(TERMS)],
                "grad_norm": grad_norm,
                "lr": lr,
                "tokens": int(tokens),
            }
        )

    def latest_loss(self) -> float:
        """Weighted total of the latest step, over all ranks."""
        pending = self._pending[-1]
        sums = self.accelerator.reduce(pending["sums"], "sum").tolist()
        return float(self._record(pending, sums, pending["counts"].tolist(), 0.0)["loss/total"])

    def step_batches(self, step: int) -> list[PackedBatch]:
        """This rank's micro-batches of one step, on its device."""
        accelerator = self.accelerator
        epoch = self.plan.epoch(step)
        return [
            pack(self.parts.store.train, samples, self.masker, epoch).to(accelerator.device)
            for samples in self.plan.micro_batches(
                step, accelerator.process_index, accelerator.num_processes
            )
        ]

    def _global_counts(self, batches: list[PackedBatch], stop: StopSignals) -> Tensor:
        """Over all ranks: tokens of each loss term, ranks that want to stop, tokens; float64."""
        counts = [self.distillation.counts(batch) for batch in batches]
        totals = [sum(column) for column in zip(*counts, strict=True)]
        totals += [int(bool(stop.received)), sum(batch.num_tokens for batch in batches)]
        local = torch.tensor(totals, dtype=torch.float64, device=self.accelerator.device)
        reduced: Tensor = self.accelerator.reduce(local, "sum")
        return reduced

    def coefficients(self, counts: Tensor) -> Coefficients:
        """alpha / global count of each term, times the ranks that DDP will average over."""
        alphas = torch.tensor(self.distillation.alphas(), dtype=torch.float64, device=counts.device)
        scaled = alphas / counts[: len(TERMS)].clamp(min=1.0) * self.accelerator.num_processes
        return Coefficients(*scaled.float().unbind())

    def accumulate_gradients(self, step: int, batches: list[PackedBatch], counts: Tensor) -> Tensor:
        """Forward and backward of every micro-batch; gradients meet once, at the last.

        Returns:
            This rank's sums of the loss terms, float64 [terms].
        """
        self._seed_dropout(step)
        coefficients = self.coefficients(counts)
        sums = torch.zeros(len(TERMS), dtype=torch.float64, device=counts.device)
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                with self.autocast():
                    output = self.model(batch, coefficients)
                # accelerate divides by its accumulation steps, which stay at 1: the sum is ours.
                self.accelerator.backward(output.total)
            sums += output.terms
        return sums

    def autocast(self) -> Any:
        """The precision of the student's forward pass."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, self.dtype)

    def _seed_dropout(self, step: int) -> None:
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        torch.manual_seed((self.experiment.seed * 1_000_003 + step) * world_size + rank)

    def _refuse_non_finite(self, step: int, batches: list[PackedBatch], counts: Tensor) -> None:
        """Find the sequences that are to blame, then stop."""
        coefficients = self.coefficients(counts)
        culprits = []
        for batch in batches:
            for sample in batch.sample_ids:
                alone = pack(
                    self.parts.store.train, [sample], self.masker, self.plan.epoch(step)
                ).to(self.accelerator.device)
                with torch.no_grad(), self.autocast():
                    terms = self.distillation(alone, coefficients).terms
                if not torch.isfinite(terms).all():
                    culprits.append(sample)
        everywhere = gather_object(culprits)
        if everywhere:
            where = f"the loss of sample {everywhere[0]} of the training split"
            if len(everywhere) > 1:
                where += f" and {len(everywhere) - 1} more"
        else:
            where = "the gradient (each sample's loss alone is finite)"
        raise NonFiniteLossError(
            f"step {step + 1}: {where} is not finite; the weights were not updated",
            "Lower optim.lr, set train.precision=fp32, or look at that sample; then --resume.",
        )

    def _validates(self, step: int, last: bool) -> bool:
        if not len(self.parts.store.held_out):
            return False
        every = self.experiment.validation.every
        return last or bool(every and step % every == 0)

    def held_out(self) -> HeldOutScores:
        """Held-out scores of the student as it is now, beside its teacher."""
        experiment, accelerator = self.experiment, self.accelerator
        masker = held_out_masker(
            self.parts.store, self.parts.tokenizer, experiment.masking.mlm_probability
        )
        batches = held_out_batches(
            self.parts.store.held_out,
            masker,
            experiment.validation.num_sequences,
            experiment.train.tokens_per_micro_batch,
            accelerator.process_index,
            accelerator.num_processes,
        )
        with self.autocast():
            return held_out_scores(self.parts.student, self.parts.teacher, batches, accelerator)

    def _validate(self) -> bool:
        """Measure held-out quality, note it in the step's record; whether it is the best yet."""
        scores = self.held_out()
        self._pending[-1]["held_out"] = scores
        if self.state.best_loss is not None and scores.loss >= self.state.best_loss:
            return False
        self.state.best_loss = scores.loss
        self.state.best_step = self.state.step
        return True

    def _flush_metrics(self) -> None:
        """Gather the pending steps' sums over all ranks, once, and write their records."""
        if not self._pending:
            return
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        self.state.seconds += seconds
        sums = torch.stack([record["sums"] for record in self._pending])
        totals = self.accelerator.reduce(sums, "sum").tolist()
        counts = torch.stack([record["counts"] for record in self._pending]).tolist()
        tokens_per_second = sum(record["tokens"] for record in self._pending) / seconds
        records = [
            self._record(pending, step_totals, step_counts, tokens_per_second)
            for pending, step_totals, step_counts in zip(self._pending, totals, counts, strict=True)
        ]
        self._pending.clear()
        if self.accelerator.is_main_process:
            self.folder.append_metrics(records)
            self.events.on_metrics(records[-1], self.total_steps)
        if self.experiment.train.trackers:
            for record in records:
                values = {key: value for key, value in record.items() if key != "step"}
                self.accelerator.log(values, step=record["step"])

    def _record(
        self,
        pending: dict[str, Any],
        sums: list[float],
        counts: list[float],
        tokens_per_second: float,
    ) -> dict[str, Any]:
        alphas = self.distillation.alphas()
        means = [total / max(count, 1.0) for total, count in zip(sums, counts, strict=True)]
        record: dict[str, Any] = {
            "step": pending["step"],
            "epoch": self.plan.epoch(pending["step"] - 1),
            "loss/total": sum(alpha * mean for alpha, mean in zip(alphas, means, strict=True)),
        }
        for term, alpha, mean in zip(TERMS, alphas, means, strict=True):
            if alpha:
                record[METRIC_NAMES[term]] = mean
        record["optim/lr"] = pending["lr"]
        record["optim/grad_norm"] = pending["grad_norm"]
        record["speed/tokens"] = pending["tokens"]
        record["speed/tokens_per_second"] = tokens_per_second
        if "held_out" in pending:
            scores: HeldOutScores = pending["held_out"]
            for name in ("loss", "accuracy", "agreement", "kl"):
                if (value := getattr(scores, name)) is not None:
                    record[f"held_out/{name}"] = value
        return record

    def save(self) -> None:
        """Write a checkpoint of the present state and rotate the older ones."""
        if self.accelerator.is_main_process:
            tensors = {"student": dict(self.named_parameters), "optimizer": self._moments()}
            checkpoints.save(self.folder.checkpoints, self.state.step, tensors, asdict(self.state))
            checkpoints.rotate(
                self.folder.checkpoints,
                self.experiment.train.keep_checkpoints,
                self.state.best_step,
            )
        self.accelerator.wait_for_everyone()

    def restore(self) -> bool:
        """Continue from the newest whole checkpoint; False when there is none."""
        found: list[int | None] = [None]
        if self.accelerator.is_main_process:
            checkpoint = checkpoints.load_latest(self.folder.checkpoints, self.events.on_warning)
            found = [checkpoint.step if checkpoint else None]
        broadcast_object_list(found)
        if found[0] is None:
            return False
        folder = checkpoints.checkpoint_folder(self.folder.checkpoints, found[0])
        checkpoint = checkpoints.load(folder)
        copy_weights(self.parts.student, checkpoint.tensors("student"))
        self._restore_moments(checkpoint.tensors("optimizer"))
        self.state = TrainState(**checkpoint.state)
        if self.accelerator.is_main_process:
            self.folder.truncate_metrics(self.state.step)
        return True

    def _moments(self) -> dict[str, Tensor]:
        moments = {}
        for name, parameter in self.named_parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                moments[f"{name}.{key}"] = value
        return moments

    def _restore_moments(self, moments: dict[str, Tensor]) -> None:
        for name, parameter in self.named_parameters.items():
            restored = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (value := moments.get(f"{name}.{key}")) is not None:
                    restored[key] = value.to(parameter.device)
            if restored:
                self.optimizer.state[parameter] = restored

    def finish(self, already_finished: bool) -> TrainResult:
        """Write `student/` from the best checkpoint by held-out loss, else from the last."""
        state = self.state
        step = state.best_step or state.step
        if self.accelerator.is_main_process and not (already_finished and self._is_exported()):
            folder = checkpoints.checkpoint_folder(self.folder.checkpoints, step)
            copy_weights(self.parts.student, checkpoints.load(folder).tensors("student"))
            save_model(self.parts.student, self.parts.tokenizer, self.folder.student)
        self.accelerator.wait_for_everyone()
        return TrainResult(
            run_folder=str(self.folder.root),
            student=str(self.folder.student),
            steps=state.step,
            student_step=step,
            tokens=state.tokens,
            seconds=state.seconds,
            held_out_loss=state.best_loss,
            already_finished=already_finished,
        )

    def _is_exported(self) -> bool:
        return (self.folder.student / "model.safetensors").exists()


def copy_weights(model: MaskedLM, tensors: dict[str, Tensor]) -> None:
    """Copy tensors by name into a model, all of its parameters and nothing else."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])


def train(
    experiment: Experiment,
    parts: Parts,
    accelerator: Accelerator,
    *,
    resume: bool,
    events: Events | None = None,
) -> TrainResult:
    """Train the student of `parts`, from the last checkpoint when resuming.

    Raises:
        NonFiniteLossError, Interrupted: see `Trainer.run`.
        RunFolderError: a checkpoint cannot be written, or every one is damaged.
    """
    events = events or Events()
    trainer = Trainer(experiment, parts, accelerator, events)
    if resume and trainer.restore() and accelerator.is_main_process:
        events.on_note(f"resumed after step {trainer.state.step} of {trainer.total_steps}")
    already_finished = trainer.state.step >= trainer.total_steps
    if not already_finished:
        if experiment.train.trackers:
            accelerator.init_trackers(experiment.name)
        with StopSignals().listening() as stop:
            trainer.run(stop)
        accelerator.end_training()
    return trainer.finish(already_finished)
