"""Which checkpoint a run goes on from, and whether it may."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.batches.plan import StepPlan
from distilcli.distillation.identity import TEACHER_OUTPUTS, Identity, changed
from distilcli.distillation.loss_modules import LossModule
from distilcli.errors import RunFolderError
from distilcli.training import checkpoints
from distilcli.training.optimizer import empty_moments, moments, restore_moments
from distilcli.training.processes import of_main_process
from distilcli.training.run_folder import RunFolder
from distilcli.training.state import TrainState, from_record


def step_to_go_on_from(
    folder: RunFolder,
    identity: Identity,
    plan: StepPlan,
    total_steps: int,
    on_warning: Callable[[str], None],
) -> int | None:
    """The step of the newest whole checkpoint, once it is known to fit; None without one.

    Records of later steps are dropped from `metrics.jsonl`.

    Args:
        folder: of the run.
        identity: what the run reads as it is now.
        plan: which samples each step draws now.
        total_steps: of the run.
        on_warning: told of checkpoints that are passed over, and of what cannot be compared.

    Raises:
        RunFolderError: every checkpoint is damaged, what the run was begun with has changed, or
            its batches would be others.
        WriteError: the records cannot be written.
    """
    newest = checkpoints.load_latest(folder.checkpoints, on_warning, from_record)
    if newest is None:
        # Stopped before the first checkpoint: the initial student is there, made from what it was.
        if folder.has_run:
            check_identity(folder.read_identity(), identity, folder.root)
        folder.truncate_metrics(0)
        return None
    state, before = from_record(newest.state)
    if before is None:
        on_warning(
            f"{newest.folder}: written by a version that kept no fingerprints: whether models, "
            "rows, text and store are still those that it was trained on cannot be told"
        )
    check_identity(before, identity, newest.folder)
    _check_plan(state, plan, total_steps, newest.folder)
    for what in changed(before or {}, identity):
        on_warning(
            f"{newest.folder}: {what} are not those that it was trained on: they were computed "
            "again, and the run will not end with the very bits of an undisturbed one"
        )
    folder.truncate_metrics(newest.step)
    return newest.step


def check_identity(before: Identity | None, now: Identity, where: Path) -> None:
    """Refuse to go on with other models, rows, text or store than a run was begun with.

    Args:
        before: what is known of that; None: nothing, so that nothing is compared.
        now: what a resume would read.
        where: what knows it: opens the message.

    Raises:
        RunFolderError: naming each thing that differs, and where it lies.
    """
    compared = {what: one for what, one in now.items() if not what.startswith(TEACHER_OUTPUTS)}
    differing = changed(before or {}, compared)
    if differing:
        raise RunFolderError(
            f"{where}: what it was trained on has changed since: {', '.join(differing)}",
            "Put that back as it was and resume again, start again with --force, or choose "
            "another name=...",
        )


def _check_plan(state: TrainState, plan: StepPlan, total_steps: int, where: Path) -> None:
    if not plan.is_that_of(state.step_plan, total_steps):
        left_out = len(plan.lengths) % plan.global_batch_size
        raise RunFolderError(
            f"{where}: begun by an older version, which left {left_out:,} samples out of each "
            "epoch; this one trains on them, so its batches would be others",
            "Finish the run with the version named in environment.json, or start again with "
            "--force.",
        )


def take_state(
    folder: Path, module: LossModule, optimizer: torch.optim.AdamW, accelerator: Accelerator
) -> TrainState:
    """Put back weights, projections and moments, on all processes, and say how far they are.

    The main process reads the checkpoint and checks it, and sends it to the others: were each of
    them to read it, a file system would have to deliver it as many times as there are processes.

    Args:
        folder: of the checkpoint.
        module: whose student and projections are trained.
        optimizer: of these.
        accelerator: names the processes; all of them must call this.

    Raises:
        RunFolderError: it is damaged, or of models of other shapes.
    """

    def take() -> tuple[dict[str, Any], list[str]]:
        checkpoint = checkpoints.load(folder)
        take_weights(module.student, checkpoint)
        if len(module.projections):
            take_projections(module.projections, checkpoint)
        restore_moments(optimizer, module.trained(), checkpoint.tensors("optimizer"))
        return checkpoint.state, list(moments(optimizer, module.trained()))

    record, names = of_main_process(accelerator, take)
    if not accelerator.is_main_process:
        restore_moments(optimizer, module.trained(), empty_moments(module.trained(), names))
    if accelerator.num_processes > 1:
        kept = moments(optimizer, module.trained())
        weights = (*module.student.parameters(), *module.projections.parameters())
        for tensor in (*weights, *(kept[name] for name in names)):
            torch.distributed.broadcast(tensor.detach(), src=0)
    return from_record(record)[0]


def take_weights(student: PreTrainedModel, checkpoint: checkpoints.Checkpoint) -> None:
    """Give the student the weights of a checkpoint.

    Raises:
        RunFolderError: they are those of a student of another shape.
    """
    try:
        copy_weights(student, checkpoint.tensors("student"))
    except (KeyError, RuntimeError) as error:  # a name is missing, or a shape is another
        reason = str(error).partition("\n")[0]
        raise RunFolderError(
            f"{checkpoint.folder}: its weights are not those of this student ({reason})",
            "Put back the model that the student was made from, or start again with --force.",
        ) from error


def take_projections(projections: nn.Module, checkpoint: checkpoints.Checkpoint) -> None:
    """Give the projections that are learned beside the student the weights of a checkpoint.

    Raises:
        RunFolderError: it has none, or of other widths.
    """
    try:
        copy_weights(projections, checkpoint.tensors("projections"))
    except (OSError, KeyError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise RunFolderError(
            f"{checkpoint.folder}: it does not hold the learned projections of this run ({reason})",
            "Put back the models and settings that it was begun with, or start again with --force.",
        ) from error


def copy_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy tensors by name into a model, all of its parameters and nothing else."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
