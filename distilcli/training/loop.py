"""The loop: steps, validation, checkpoints, and the events it reports.

distilcli train --config configs/quickstart.yaml
torchrun --nproc_per_node 2 -m distilcli train --config configs/quickstart.yaml --resume
"""

import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from distilcli.batches.plan import STEP_PLAN
from distilcli.config.experiment import BaseExperiment
from distilcli.distillation.identity import Identity
from distilcli.distillation.objective import Objective
from distilcli.errors import (
    DistilError,
    Interrupted,
    ModelError,
    NonFiniteLossError,
    RunFolderError,
    WriteError,
)
from distilcli.models.loading import check_finite
from distilcli.models.variable_length import note_of_slow_attention
from distilcli.signals import StopSignals, exit_signal
from distilcli.training import checkpoints
from distilcli.training.checkpoint_writer import CheckpointWriter
from distilcli.training.optimizer import moments
from distilcli.training.processes import of_main_process
from distilcli.training.records import Metrics
from distilcli.training.resuming import step_to_go_on_from, take_state, take_weights
from distilcli.training.run_folder import RunFolder
from distilcli.training.state import TrainState, to_record
from distilcli.training.steps import Stepper, note_of_idle
from distilcli.training.tracking import Trackers
from distilcli.training.train_result import TrainResult


@dataclass(frozen=True)
class Events:
    """What the loop tells whoever watches; called on the main process only."""

    on_note: Callable[[str], None] = lambda _: None
    on_warning: Callable[[str], None] = lambda _: None
    on_metrics: Callable[[dict[str, Any], int], None] = lambda _record, _total: None
    on_student: Callable[[TrainResult], None] = lambda _: None  # it is whole; no tracker has it yet


class Trainer:
    """One run: takes steps from where it stands to the last, and keeps what they give.

    Args:
        experiment: all settings.
        objective: samples and losses; its student is trained in place.
        accelerator: from `processes.make_accelerator`.
        events: told of notes, warnings and metrics.
        identity: of all that the run reads; only the main process needs it.
    """

    def __init__(
        self,
        experiment: BaseExperiment,
        objective: Objective,
        accelerator: Accelerator,
        events: Events,
        identity: Identity,
    ) -> None:
        self.experiment = experiment
        self.objective = objective
        self.accelerator = accelerator
        self.events = events
        self.folder = RunFolder(experiment.run_folder)
        self.state = TrainState(step_plan=STEP_PLAN)
        self.writer = CheckpointWriter(self.folder.checkpoints, experiment.train.keep_checkpoints)
        self.stepper = Stepper(experiment, objective, accelerator)
        self.metrics = Metrics(objective.module, accelerator)
        self.trackers = Trackers(experiment, accelerator.is_main_process, events.on_warning)
        self.identity = identity

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.state.step >= self.stepper.total_steps

    def run(self, stop: StopSignals) -> None:
        """Train from the present state to the last step.

        Raises:
            NonFiniteLossError: before the update that would spoil the weights.
            Interrupted: a signal came; a checkpoint of the last finished step is written.
            ProcessLostError: another process did not come to a step.
            WriteError: a checkpoint or a record cannot be written.
        """
        train = self.experiment.train
        self.stepper.distillation.train()
        for batches in self.stepper.batches_from(self.state.step):
            outcome = self.stepper.take(self.state.step, batches, bool(stop.received))
            self.metrics.add(outcome)
            self.state.step = outcome.step
            self.state.tokens += outcome.tokens
            stopping = bool(outcome.num_stopping)
            if stopping:
                stop.receive(signal.SIGTERM)  # where no signal came, but another process was told
            validates = self._validates()
            saves = self.finished or stopping or self._is_due(train.save_every)
            if not (validates or saves or self._is_due(train.log_every)):
                continue  # the device is not asked for anything
            self.stepper.check_finite()
            saves = (validates and self._validate()) or saves
            self._flush_metrics()
            if saves:
                self.save(wait=self.finished or stopping)
            if stopping and not self.finished:
                raise _interrupted(stop, f"after step {outcome.step}; a checkpoint is written")

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0

    def _validates(self) -> bool:
        every = self.experiment.validation.every
        due = self.finished or bool(every and self._is_due(every))
        return due and self.objective.num_held_out > 0

    def _validate(self) -> bool:
        """Measure held-out quality for the step's record; whether it is the best yet."""
        try:
            with self.stepper.autocast():
                scores = self.objective.held_out(self.accelerator)
        except NonFiniteLossError as error:
            where = f"step {self.state.step}: {error.message}"
            raise NonFiniteLossError(where, f"{error.hint} Checkpoints are intact.") from error
        self.metrics.add_held_out(self.state.step, scores)
        best = self.state.best_criterion
        if best is not None and scores.criterion >= best:
            return False
        self.state.best_criterion = scores.criterion
        self.state.best_scores = scores.metrics()
        self.state.best_step = self.state.step
        return True

    def _flush_metrics(self) -> None:
        records, seconds = self.metrics.flush()
        self.state.seconds += seconds
        if self.accelerator.is_main_process:
            self.folder.append_metrics(records)
            self.events.on_metrics(records[-1], self.stepper.total_steps)
        self.trackers.log(records)

    def save(self, wait: bool) -> None:
        """Write a checkpoint of the present state and rotate the older ones.

        Args:
            wait: return only when it is whole on disk, on all ranks.

        Raises:
            NonFiniteLossError: the last update made a weight NaN or infinite.
            WriteError: this checkpoint, or the one before, could not be written.
        """
        try:  # losses and gradient were finite; what a huge step made of the weights need not be
            check_finite(self.objective.student, f"step {self.state.step}: the student")
            check_finite(self.objective.module.projections, f"step {self.state.step}: projections")
        except ModelError as error:
            raise NonFiniteLossError(
                f"{error.message}; it is not written",
                "Lower optim.lr; checkpoints from before this step are intact.",
            ) from error
        if self.accelerator.is_main_process:
            module = self.objective.module
            tensors: dict[str, dict[str, Tensor]] = {
                "student": dict(self.objective.student.named_parameters()),
                "optimizer": moments(self.stepper.optimizer, module.trained()),
            }
            if len(module.projections):
                tensors["projections"] = dict(module.projections.named_parameters())
            state = self.state
            record = to_record(state, self.identity)
            self.writer.write(state.step, tensors, record, state.best_step)
            if wait:
                self.writer.wait()
        if wait:
            self.accelerator.wait_for_everyone()

    def restore(self) -> bool:
        """Continue from the newest whole checkpoint; False when there is none.

        Raises:
            RunFolderError: every checkpoint is damaged, what the newest was trained on has changed
                since, or it would go on with other batches than those it was begun with.
        """
        step = of_main_process(
            self.accelerator,
            lambda: step_to_go_on_from(
                self.folder,
                self.identity,
                self.stepper.plan,
                self.stepper.total_steps,
                self.events.on_warning,
            ),
        )
        if step is None:
            return False
        folder = checkpoints.checkpoint_folder(self.folder.checkpoints, step)
        module, optimizer = self.objective.module, self.stepper.optimizer
        self.state = take_state(folder, module, optimizer, self.accelerator)
        return True

    def finish(self, already_finished: bool) -> TrainResult:
        """Write `student/` from the best checkpoint by held-out scores, else from the last."""
        state = self.state
        step = state.step if state.best_step is None else state.best_step
        exported = (self.folder.student / "model.safetensors").exists()
        if self.accelerator.is_main_process and not (already_finished and exported):
            checkpoint = self._student_checkpoint(step)
            step = checkpoint.step
            take_weights(self.objective.student, checkpoint)
            try:
                self.objective.save_student(self.folder.student)
            except ModelError as error:
                raise WriteError(
                    error.message, "Free disk space or fix the permissions, then --resume."
                ) from error
        self.accelerator.wait_for_everyone()
        return TrainResult(
            run_folder=str(self.folder.root),
            student=str(self.folder.student),
            steps=state.step,
            student_step=step,
            tokens=state.tokens,
            seconds=state.seconds,
            held_out=state.best_scores if step == state.best_step else {},
            already_finished=already_finished,
        )

    def _student_checkpoint(self, step: int) -> checkpoints.Checkpoint:
        """The checkpoint of a step, or the last one should that be damaged."""
        root = self.folder.checkpoints
        try:
            return checkpoints.load(checkpoints.checkpoint_folder(root, step))
        except RunFolderError as error:
            if step == self.state.step:
                raise
            self.events.on_warning(f"{error.message}; the last one becomes the student")
            return checkpoints.load(checkpoints.checkpoint_folder(root, self.state.step))

    def close(self, goes_on: bool = False) -> None:
        """End the last write, trackers and the process group; see `Stepper.close`.

        Args:
            goes_on: the processes go on to another run, and keep their group.

        Raises:
            WriteError: the last checkpoint could not be written.
        """
        self.stepper.close()
        self.writer.wait()
        self.trackers.close()
        if goes_on:
            if self.experiment.train.compile:
                torch.compiler.reset()  # else its graphs count towards the limit of the next run
        else:
            self.accelerator.end_training()

    def refuse_to_go_on(self, stop: StopSignals) -> None:
        """Stop where another run would follow, if a signal came to some process.

        Raises:
            Interrupted: on all processes.
        """
        received = torch.tensor([stop.received], device=self.accelerator.device)
        if not bool(self.accelerator.gather(received).any()):
            return
        stop.receive(signal.SIGTERM)  # where none came
        self.close()
        raise _interrupted(stop, f"after the last step; {self.folder.student} is written")


def train(
    experiment: BaseExperiment,
    objective: Objective,
    accelerator: Accelerator,
    *,
    resume: bool,
    events: Events | None = None,
    identity: Identity | None = None,
    tracked_as: str | None = None,
    goes_on: bool = False,
) -> TrainResult:
    """Train the student of `objective`, from the last checkpoint when resuming.

    Args:
        experiment: all settings.
        objective: samples and losses.
        accelerator: from `processes.make_accelerator`.
        resume: go on from the newest whole checkpoint, if there is one.
        events: told of notes, warnings and metrics.
        identity: of all that the run reads, which checkpoints keep and a resume compares; only
            the main process needs it.
        tracked_as: the project that trackers report to; None: the experiment's name.
        goes_on: the processes go on to another run, and keep their group.

    Raises:
        NonFiniteLossError, Interrupted: see `Trainer.run`.
        ProcessLostError: another process does not answer any more, while steps are taken.
        WriteError: a checkpoint, a record or the student cannot be written.
        RunFolderError: see `Trainer.restore`.
    """
    events = events or Events()
    trainer = Trainer(experiment, objective, accelerator, events, identity or {})
    _begin(trainer, resume)
    already_finished = trainer.finished
    if not already_finished and accelerator.is_main_process:
        events.on_note(f"steps: {trainer.stepper.plan.describe(trainer.stepper.total_steps)}")
        idle = note_of_idle(trainer.stepper.plan, accelerator.num_processes)
        if idle is not None:
            events.on_warning(idle)
        slow = note_of_slow_attention(objective.student, accelerator.device, trainer.stepper.dtype)
        if slow is not None:
            events.on_note(slow)
    # To the end: after the last step a request to stop changes nothing any more.
    with StopSignals().listening() as stop, closing(trainer.trackers):
        if not already_finished:
            trainer.trackers.start(tracked_as or experiment.name, resumed=resume)
            _take_steps(trainer, stop)
        result = trainer.finish(already_finished)
        if accelerator.is_main_process:
            events.on_student(result)
        trainer.trackers.end(result.figures, result.steps, Path(result.student))
        if goes_on:
            trainer.refuse_to_go_on(stop)
        trainer.close(goes_on)
    return result


def _begin(trainer: Trainer, resume: bool) -> None:
    """Go on from a checkpoint, or write down what the run that begins here depends on."""
    try:
        resumed = resume and trainer.restore()
    except DistilError:
        trainer.close()  # all ranks are here
        raise
    if not trainer.accelerator.is_main_process:
        return
    if resumed:
        total = trainer.stepper.total_steps
        trainer.events.on_note(f"resumed after step {trainer.state.step} of {total}")
    else:
        trainer.folder.write_identity(trainer.identity)


def _interrupted(stop: StopSignals, when: str) -> Interrupted:
    number = signal.Signals(stop.received)
    return Interrupted(
        f"stopped by {number.name} {when}, and this goes on from it:",
        "distilcli train --resume",
        exit_signal(number),
    )


def _take_steps(trainer: Trainer, stop: StopSignals) -> None:
    """From the present state to the last step; see `Trainer.run`."""
    try:
        with trainer.stepper.hosts.naming_the_lost("after an exchange that failed"):
            trainer.run(stop)
    except (Interrupted, NonFiniteLossError):
        trainer.close()  # all ranks are here; trackers write out what they hold
        raise
