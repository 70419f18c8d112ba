"""`train --dry-run`: find what cannot work, and what it will cost, before the hours are spent."""

import resource
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from distilcli.assembly import Parts
from distilcli.batches import IGNORE_INDEX, PackedBatch, held_out_batches
from distilcli.config import Experiment
from distilcli.errors import DistilError, ModelError, RunFolderError
from distilcli.metrics import Metrics
from distilcli.models import MaskedLM, num_parameters
from distilcli.run_folder import RunFolder
from distilcli.steps import Stepper
from distilcli.store import TokenStore
from distilcli.validation import held_out_masker, held_out_scores

_NUM_STEPS = 2
_NUM_SEQUENCES = 200
_MIB, _GIB = 2**20, 2**30
_FLOATS_PER_PARAMETER = 3  # the weight and AdamW's two moments


@dataclass(frozen=True)
class Preflight:
    """What two steps on this machine say about the whole run.

    Attributes:
        losses: weighted total of each step tried.
        teacher_loss: held-out masked-LM loss of the teacher, nats a token; None without either.
        unigram_loss: the same of a model that knows only token frequencies.
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
    steps_per_epoch: int
    losses: list[float]
    teacher_loss: float | None
    unigram_loss: float | None
    tokens_per_second: float
    seconds_to_finish: float
    peak_memory_gib: float
    checkpoint_mib: float
    disk_needed_gib: float
    disk_free_gib: float


def preflight(experiment: Experiment, parts: Parts, accelerator: Accelerator) -> Preflight:
    """Try the teacher and two optimiser steps; nothing is written.

    Raises:
        ModelError: the teacher predicts held-out text no better than token frequencies do.
        NonFiniteLossError: a step's loss is not finite.
        RunFolderError: the disk has no room for the checkpoints.
        DistilError: the ranks' weights differ after the same steps.
        ProcessLostError: another process does not come to a step.
    """
    stepper = Stepper(experiment, parts, accelerator)
    disk_needed, disk_free = _disk(experiment, parts.student, stepper.total_steps)
    teacher_loss, unigram = _teacher_sanity(experiment, parts, accelerator)
    stepper.distillation.train()
    metrics = Metrics(stepper.distillation.alphas(), accelerator)
    records, seconds = [], 0.0
    batches = stepper.batches_from(0)
    for step in range(min(_NUM_STEPS, stepper.total_steps)):
        metrics.flush()
        metrics.add(stepper.take(step, next(batches)))
        stepper.check_finite()
        step_records, seconds = metrics.flush()
        records += step_records
    check_ranks_agree(parts.student, accelerator)
    report = Preflight(
        num_processes=accelerator.num_processes,
        micro_batches=len(stepper.plan.micro_batches(0, 0, accelerator.num_processes)),
        total_steps=stepper.total_steps,
        steps_per_epoch=stepper.plan.steps_per_epoch,
        losses=[record["loss/total"] for record in records],
        teacher_loss=teacher_loss,
        unigram_loss=unigram,
        tokens_per_second=records[-1]["speed/tokens_per_second"],
        seconds_to_finish=seconds * stepper.total_steps,
        peak_memory_gib=_peak_memory_gib(accelerator.device),
        checkpoint_mib=_checkpoint_bytes(parts.student) / _MIB,
        disk_needed_gib=disk_needed / _GIB,
        disk_free_gib=disk_free / _GIB,
    )
    stepper.close()
    return report


def _teacher_sanity(
    experiment: Experiment, parts: Parts, accelerator: Accelerator
) -> tuple[float | None, float | None]:
    """Held-out loss of the teacher and of token frequencies, in nats a masked token."""
    if not len(parts.store.held_out):
        return None, None
    masker = held_out_masker(parts.store, parts.tokenizer, experiment.masking.mlm_probability)
    batches = list(
        held_out_batches(
            parts.store.held_out,
            masker,
            _NUM_SEQUENCES,
            experiment.train.tokens_per_micro_batch,
            accelerator.process_index,
            accelerator.num_processes,
        )
    )
    unigram = unigram_loss(parts.store, batches, accelerator)
    if parts.teacher is None:
        return None, unigram
    teacher_loss = held_out_scores(parts.teacher, None, batches, accelerator).loss
    if not teacher_loss < unigram:
        raise ModelError(
            f"teacher.model {experiment.teacher.model if experiment.teacher else ''}: its "
            f"held-out masked-LM loss, {teacher_loss:.3f}, is no better than the "
            f"{unigram:.3f} of token frequencies alone",
            "Check that the teacher and its tokenizer belong together and know this text.",
        )
    return teacher_loss, unigram


def _checkpoint_bytes(student: MaskedLM) -> int:
    return _FLOATS_PER_PARAMETER * 4 * num_parameters(student)


def _disk(experiment: Experiment, student: MaskedLM, total_steps: int) -> tuple[int, int]:
    """Bytes that the run will still need on disk, and that are free there; of the main process.

    Raises:
        RunFolderError: there are not enough.
    """
    folder = RunFolder(experiment.run_folder)
    size = _checkpoint_bytes(student)
    train, validate_every = experiment.train, experiment.validation.every
    written = total_steps // train.save_every + 1
    written += total_steps // validate_every if validate_every else 0
    # Those that are kept, the best one, and the next one, which is whole before the oldest goes.
    number = min(train.keep_checkpoints + 2, written)
    models = 2 * 4 * num_parameters(student)  # as it starts and as it ends
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


def check_ranks_agree(student: MaskedLM, accelerator: Accelerator) -> None:
    """Refuse to go on when gradients were not synchronised.

    Raises:
        DistilError: the sums of the ranks' weights are not bitwise equal.
    """
    with torch.no_grad():
        sums = torch.stack([parameter.double().sum() for parameter in student.parameters()])
    gathered = accelerator.gather(sums[None])
    if not bool((gathered == gathered[0]).all()):
        raise DistilError(
            "after the same steps the ranks hold different weights: gradients are not synchronised",
            "Check the launcher: every rank must be of one process group.",
        )


def unigram_loss(store: TokenStore, batches: list[PackedBatch], accelerator: Accelerator) -> float:
    """Cross-entropy of the masked tokens under the training split's token frequencies."""
    counts = store.token_counts.astype(np.float64) + 1.0
    log_probs = torch.from_numpy(np.log(counts / counts.sum()))
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        labels = batch.labels[batch.labels != IGNORE_INDEX].cpu()
        sums += torch.stack([-log_probs[labels].sum(), torch.tensor(float(len(labels)))])
    total, count = accelerator.reduce(sums.to(accelerator.device), "sum").tolist()
    return float(total / max(count, 1.0))


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB
