"""The parts of a run on a task: tokenizer, rows, fine-tuned teacher and student."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.inner_terms import check_terms
from distilcli.distillation.other_teachers import load_other_finetuned, own_readers
from distilcli.distillation.own_tokenizer import refuse_own_readers
from distilcli.distillation.run_kind import Parts, experiment_tokenizer
from distilcli.errors import ConfigError
from distilcli.losses.candidates import candidates_of
from distilcli.losses.table import TASK_TERMS, wanted_terms
from distilcli.losses.terms import Counts, OutputTerm
from distilcli.models.checks import check_tokenizer
from distilcli.models.own_readers import first_reads_itself
from distilcli.models.placement import resolve_precision
from distilcli.models.task_models import (
    build_task_student,
    load_finetuned_teacher,
    longest_input,
    teacher_labels,
)
from distilcli.tasks.length_read import length_read
from distilcli.tasks.open import open_task
from distilcli.tasks.task import OpenTask
from distilcli.text.tokenizer_checks import unknown_share, unknown_warning
from distilcli.text.tokenizers import TextTokenizer, load_tokenizer


@dataclass(frozen=True)
class TaskParts(Parts):
    """What training on a task needs.

    Attributes:
        task: its inputs.
    """

    task: OpenTask


def assemble_task(experiment: TaskExperiment, device: torch.device) -> TaskParts:
    """Read the task's examples and load its models.

    Raises:
        ConfigError, DataError, ModelError: see `open_task`, `load_finetuned_teacher` and
            `build_task_student`; also where student and teacher do not have what a loss term
            compares, where a model has no embedding for some token, or where the rows to train on
            and to be measured on are the same.
    """
    tokenizer = task_tokenizer(experiment)
    task = _open(experiment, tokenizer)
    task.overlap.refuse_same()
    # Copied before the teacher's precision is lowered: the student starts from fp32.
    teacher = load_finetuned_teacher(experiment, task)
    student = build_task_student(experiment, task, teacher)
    for model, where in ((teacher, "the teacher"), (student, "the student")):
        if isinstance(model, PreTrainedModel):
            check_tokenizer(model, tokenizer, where)
    if teacher is not None and experiment.teacher is not None:
        if isinstance(teacher, PreTrainedModel):
            check_terms(TASK_TERMS, experiment.loss, student, teacher)
        nn.Module.to(teacher, dtype=resolve_precision(experiment.teacher.precision, device))
    others = load_other_finetuned(experiment, task, tokenizer, device)
    return TaskParts(tokenizer, teacher, student, task, others=others)


def open_task_of(experiment: TaskExperiment) -> OpenTask:
    """The experiment's task, read as training will read it; see `open_task`."""
    return _open(experiment, task_tokenizer(experiment))


def task_tokenizer(experiment: TaskExperiment) -> PreTrainedTokenizerFast:
    """The tokenizer of the student: that of its teacher, unless this one reads for itself.

    Raises:
        ConfigError, ModelError: see `first_reads_itself`.
    """
    source = experiment.model_source
    if first_reads_itself(experiment) and source is not None:
        return load_tokenizer(source)
    return experiment_tokenizer(experiment)


def _open(experiment: TaskExperiment, tokenizer: PreTrainedTokenizerFast) -> OpenTask:
    """The task, with a warning where its tokenizer does not know its texts."""
    section, labels = experiment.task, teacher_labels(experiment)
    read = length_read(section)
    if section.max_length is None:
        lengths = [longest_input(experiment), *([] if read is None else [read])]
        section = section.model_copy(update={"max_length": min(lengths)})
    taught = experiment.is_taught
    task = open_task(section, TextTokenizer(tokenizer), labels, taught)
    _check_labels(experiment, task)
    _tell_of_length(experiment, task, read)

    def reads_alike(other: PreTrainedTokenizerFast) -> bool:
        if experiment.augmentation is not None:  # which puts tokens of the first one into inputs
            return False
        read = open_task(section, TextTokenizer(other), labels, taught)
        pairs = (task.train, read.train), (task.dev, read.dev)
        return all(one.fingerprint() == two.fingerprint() for one, two in pairs)

    task.own_readers = own_readers(experiment, tokenizer, reads_alike)
    refuse_own_readers(experiment, task.own_readers)
    _check_micro_batches(experiment, task)
    task.unknown_shares = {
        split: unknown_share(np.bincount(inputs.token_ids), tokenizer)
        for split, inputs in task.sources().items()
    }
    for split, share in task.unknown_shares.items():
        warning = unknown_warning(share, tokenizer)
        if warning:
            task.warn_of_inputs(split, warning)
    return task


def _tell_of_length(experiment: TaskExperiment, task: OpenTask, read: int | None) -> None:
    """Say how much of a text the model behind a file has read, or that the student reads more."""
    if read is None:
        return
    if experiment.task.max_length is None:
        task.notes = [
            *task.notes,
            f"texts are cut at {read:,} tokens or fewer, as the model read them that made "
            "task.teacher_outputs",
        ]
        return
    more = int((task.train.lengths > read).sum())
    if more:
        task.warnings.append(
            f"the model that made task.teacher_outputs read {read:,} tokens of a text, and "
            f"{more:,} inputs to train on have more; set task.max_length={read}"
        )


def _check_micro_batches(experiment: TaskExperiment, task: OpenTask) -> None:
    """Refuse inputs, and queries with all their candidates, that no micro-batch can hold."""
    tokens = experiment.train.tokens_per_micro_batch
    largest = int(task.train.sample_lengths.max())
    if task.train.group_offsets is not None and largest > tokens:
        raise ConfigError(
            f"train.tokens_per_micro_batch {tokens} is under the {largest} tokens of all "
            "candidates of one query, which are never cut apart",
            f"Raise it to {largest} or more, cut inputs with task.max_length, or give the query "
            "fewer candidates.",
        )
    longest = max(int(inputs.lengths.max()) for inputs in (task.train, task.dev))
    if longest > tokens:
        raise ConfigError(
            f"train.tokens_per_micro_batch {tokens} is under the {longest} tokens of the longest "
            "input",
            f"Raise it to {longest} or more, or cut inputs: task.max_length.",
        )


def _check_labels(experiment: TaskExperiment, task: OpenTask) -> None:
    """Refuse a weight of the labels where nothing has one."""
    if experiment.loss.asks_for_labels and not task.num_examples[0]:
        raise ConfigError(
            "loss.labels.weight is above 0, and no row to train on has a label",
            "Set loss.labels.weight=0, so that only the teacher is learned from.",
        )
    if task.train.group_offsets is not None:
        _check_candidates(experiment, task, np.diff(task.train.group_offsets).tolist())


def _check_candidates(experiment: TaskExperiment, task: OpenTask, sizes: list[int]) -> None:
    """Refuse a loss on rankings that no query to train on has anything for."""
    found = candidates_of(task.train.targets, sizes)
    counts = Counts(
        int(task.train.lengths.sum()), sum(sizes), found.labelled, found.lists, found.pairs
    )
    for term in wanted_terms(TASK_TERMS, experiment.loss, experiment.is_taught):
        if not isinstance(term, OutputTerm) or term.count(counts):
            continue
        why = (
            "has a relevant document (a label above 0) beside another one with a label"
            if found.lists
            else "has two candidates or more"
        )
        raise ConfigError(
            f"loss.{term.name}.weight is above 0, and no query to train on {why}",
            f"Look at the rows, or set loss.{term.name}.weight=0.",
        )
