"""`train --dry-run`: find what will fail, and estimate the cost, before a long run."""

import resource
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from distilcli.config.experiment import BaseExperiment
from distilcli.distillation.loss_modules import LossModule
from distilcli.distillation.objective import Objective
from distilcli.errors import DistilError, RunFolderError
from distilcli.models.families import num_parameters
from distilcli.training.records import Metrics
from distilcli.training.run_folder import RunFolder
from distilcli.training.steps import Stepper

_NUM_STEPS = 2
_MIB, _GIB = 2**20, 2**30
_FLOATS_PER_PARAMETER = 3  # the weight and AdamW's two moments


@dataclass(frozen=True)
class Preflight:
    """What two steps on this machine say about the whole run.

    Attributes:
        steps_per_epoch: on average; an epoch need not end with a step.
        batches: how many samples the steps draw, for people to read.
        samples_per_epoch: drawn in one pass.
        unlabelled_per_epoch: those of them that only a teacher labels.
        losses: weighted total of each step tried.
        teacher: what `Objective.check_teacher` found.
        tokens_per_second: of the last step, all processes together.
        peak_memory_gib: of one process: of its GPU, or resident on the CPU.
        checkpoint_mib: size of one checkpoint.
        disk_needed_gib: by the checkpoints that are kept, the best one, the one being written, and
            the student as it starts and ends, less what lies in the run folder already.
        disk_free_gib: where the run folder is or will be.
    """

    num_processes: int
    micro_batches: int
    total_steps: int
    steps_per_epoch: float
    batches: str
    samples_per_epoch: int
    unlabelled_per_epoch: int
    losses: list[float]
    teacher: dict[str, float | None]
    tokens_per_second: float
    seconds_to_finish: float
    peak_memory_gib: float
    checkpoint_mib: float
    disk_needed_gib: float
    disk_free_gib: float


def preflight(
    experiment: BaseExperiment, objective: Objective, accelerator: Accelerator
) -> Preflight:
    """Try the teacher and two optimiser steps; nothing is written.

    Raises:
        DataError: the tokenizer does not know most of the text.
        ModelError: the teacher does no better than knowing nothing.
        NonFiniteLossError: a step's loss is not finite.
        RunFolderError: the disk has no room for the checkpoints.
        DistilError: the ranks' weights differ after the same steps.
        ProcessLostError: another process does not come to a step.
    """
    objective.refuse_unknown_text()
    stepper = Stepper(experiment, objective, accelerator)
    disk_needed, disk_free = _disk(experiment, objective.module, stepper.total_steps)
    teacher = objective.check_teacher(accelerator)
    stepper.distillation.train()
    metrics = Metrics(objective.module, accelerator)
    records, seconds = [], 0.0
    batches = stepper.batches_from(0)
    for step in range(min(_NUM_STEPS, stepper.total_steps)):
        metrics.flush()
        metrics.add(stepper.take(step, next(batches)))
        stepper.check_finite()
        step_records, seconds = metrics.flush()
        records += step_records
    check_ranks_agree(objective.module.trained().values(), accelerator)
    report = Preflight(
        num_processes=accelerator.num_processes,
        micro_batches=len(stepper.plan.micro_batches(0, 0, accelerator.num_processes)),
        total_steps=stepper.total_steps,
        steps_per_epoch=stepper.plan.steps_per_epoch,
        batches=stepper.plan.describe(stepper.total_steps),
        samples_per_epoch=len(objective.lengths),
        unlabelled_per_epoch=objective.num_unlabelled,
        losses=[record["loss/total"] for record in records],
        teacher=teacher,
        tokens_per_second=records[-1]["speed/tokens_per_second"],
        seconds_to_finish=seconds * stepper.total_steps,
        peak_memory_gib=_peak_memory_gib(accelerator.device),
        checkpoint_mib=_checkpoint_bytes(objective.module) / _MIB,
        disk_needed_gib=disk_needed / _GIB,
        disk_free_gib=disk_free / _GIB,
    )
    stepper.close()
    return report


def _checkpoint_bytes(module: LossModule) -> int:
    return _FLOATS_PER_PARAMETER * 4 * sum(p.numel() for p in module.trained().values())


def _disk(experiment: BaseExperiment, module: LossModule, total_steps: int) -> tuple[int, int]:
    """Bytes that the run will still need on disk, and that are free there; of the main process.

    Raises:
        RunFolderError: there are not enough.
    """
    folder = RunFolder(experiment.run_folder)
    size = _checkpoint_bytes(module)
    train, validate_every = experiment.train, experiment.validation.every
    written = total_steps // train.save_every + 1
    written += total_steps // validate_every if validate_every else 0
    # Those that are kept, the best one, and the next one, which is whole before the oldest goes.
    number = min(train.keep_checkpoints + 2, written)
    models = 2 * 4 * num_parameters(module.student)  # as it starts and as it ends
    needed = number * size + models - _bytes_below(folder.root)
    found = [max(0, needed), shutil.disk_usage(_nearest_folder(folder.root)).free]
    broadcast_object_list(found)  # the main process writes; its disk counts
    needed, free = found
    if needed > free:
        raise RunFolderError(
            f"{folder.root}: {needed / _MIB:,.1f} MiB more are needed there, for {number} "
            f"checkpoints of {size / _MIB:,.1f} MiB and the student, and {free / _MIB:,.1f} MiB "
            "are free",
            "Free disk space, lower train.keep_checkpoints or choose another output_dir=...",
        )
    return needed, free


def _bytes_below(folder: Path) -> int:
    """Of all weights under a folder, in which another process may be writing."""
    total = 0
    for file in folder.rglob("*.safetensors"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def check_ranks_agree(parameters: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Refuse to go on when gradients were not synchronised.

    Raises:
        DistilError: the sums of the ranks' weights are not bitwise equal.
    """
    with torch.no_grad():
        sums = torch.stack([parameter.double().sum() for parameter in parameters])
    gathered = accelerator.gather(sums[None])
    if not bool((gathered == gathered[0]).all()):
        raise DistilError(
            "after the same steps the ranks hold different weights: gradients are not synchronised",
            "Check the launcher: every rank must be of one process group.",
        )


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB
