"""The teachers beside the first one, with which it is averaged: loading them, and what they read.

Distributions can be averaged where they are over the same tokens, of the same text. So every
teacher must have the tokenizer of the first one. On a task it is enough that another one makes the
same inputs of all examples, and one that does not reads the texts itself, padded.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.config.experiment import BaseExperiment, MaskedLMExperiment, TaskExperiment
from distilcli.config.models import NamedTeacher
from distilcli.errors import ModelError
from distilcli.evaluation.asked import teacher_names
from distilcli.models.checks import check_length, check_same_vocabulary, check_tokenizer
from distilcli.models.families import MaskedLM
from distilcli.models.loading import load_masked_lm
from distilcli.models.own_readers import first_reads_itself, must_read_itself
from distilcli.models.padded_teacher import TaskModel
from distilcli.models.placement import resolve_precision
from distilcli.models.task_models import load_finetuned_teacher
from distilcli.tasks.task import OpenTask
from distilcli.text.tokenizers import load_tokenizer, tokenizer_fingerprint


def other_teachers(experiment: BaseExperiment) -> dict[str, NamedTeacher]:
    """All teachers but the first one, by the section of the settings that names each."""
    if experiment.teacher is None:
        return {}
    return {key: one for key, one in experiment.teacher.by_key.items() if key != "teacher"}


class Called(NamedTuple):
    """What a teacher is called.

    Attributes:
        name: beside other models, for people.
        model: folder or hub name.
        where: for messages: the key that names it, and the model.
    """

    name: str
    model: str
    where: str

    @property
    def key(self) -> str:
        """The name as a part of keys of records."""
        return self.name.replace(" ", "_")


def called_teachers(experiment: BaseExperiment) -> list[Called]:
    """What the teachers are called, the first one first."""
    by_key = {} if experiment.teacher is None else experiment.teacher.by_key
    named = zip(teacher_names(len(by_key)), by_key.items(), strict=True)
    return [Called(name, one.model, f"{key}.model {one.model}") for name, (key, one) in named]


def load_others(
    experiment: MaskedLMExperiment,
    teacher: MaskedLM | None,
    tokenizer: PreTrainedTokenizerFast,
    device: torch.device | None = None,
) -> tuple[MaskedLM, ...]:
    """The other teachers of masked-LM training, checked against the first one.

    Args:
        experiment: names them.
        teacher: the first one.
        tokenizer: of all teachers.
        device: decides their precision; None: fp32.

    Raises:
        ModelError: one cannot be loaded, or its vocabulary or positions do not fit.
    """
    found = []
    for key, one in other_teachers(experiment).items():
        dtype = torch.float32 if device is None else resolve_precision(one.precision, device)
        model = load_masked_lm(one.model, revision=one.revision, dtype=dtype, role=f"{key}.model")
        where = f"{key}.model {one.model}"
        check_length(model, experiment.data.max_length)
        check_tokenizer(model, tokenizer, where)
        assert teacher is not None, "an experiment with other teachers has a first one"
        check_same_vocabulary(model, teacher, where)
        found.append(model)
    return tuple(found)


def load_other_finetuned(
    experiment: TaskExperiment,
    task: OpenTask,
    tokenizer: PreTrainedTokenizerFast,
    device: torch.device | None = None,
) -> tuple[TaskModel, ...]:
    """The other teachers of a task.

    Args:
        experiment: names them.
        task: that they are fine-tuned on.
        tokenizer: of the task's inputs.
        device: decides their precision; None: fp32.

    Raises:
        ModelError: one cannot be loaded, or has no head for this task.
    """
    found = []
    for key, one in other_teachers(experiment).items():
        model = load_finetuned_teacher(experiment, task, key)
        assert model is not None, "its section is there"
        if isinstance(model, PreTrainedModel):
            check_tokenizer(model, tokenizer, f"{key}.model {one.model}")
        if device is not None:
            nn.Module.to(model, dtype=resolve_precision(one.precision, device))
        found.append(model)
    return tuple(found)


def own_readers(
    experiment: TaskExperiment,
    tokenizer: PreTrainedTokenizerFast,
    reads_alike: Callable[[PreTrainedTokenizerFast], bool],
) -> frozenset[str]:
    """Keys of the teachers of a task that read its texts with tokenizers of their own.

    Args:
        experiment: names them.
        tokenizer: of the task's inputs.
        reads_alike: whether another tokenizer makes the same inputs of all texts.

    Raises:
        ConfigError, ModelError: see `first_reads_itself`; or a tokenizer cannot be loaded.
    """
    found = {"teacher"} if first_reads_itself(experiment) else set()
    fingerprint = tokenizer_fingerprint(tokenizer)
    for key, one in other_teachers(experiment).items():
        if must_read_itself(one, key):
            found.add(key)
            continue
        own = load_tokenizer(one.model, one.revision, needs=("pad_token",))
        if tokenizer_fingerprint(own) != fingerprint and not reads_alike(own):
            found.add(key)
    return frozenset(found)


def refuse_other_tokenizers(experiment: BaseExperiment, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse teachers of masked-LM training with other tokens than the first one's.

    Args:
        experiment: names them.
        tokenizer: of the first one.

    Raises:
        ModelError: naming the teacher.
    """
    fingerprint = tokenizer_fingerprint(tokenizer)
    for key, one in other_teachers(experiment).items():
        own = load_tokenizer(one.model, one.revision)
        if tokenizer_fingerprint(own) != fingerprint:
            raise ModelError(
                f"{key}.model {one.model}: its tokenizer is another than that of "
                f"{tokenizer.name_or_path}",
                "Teachers are averaged token by token: use teachers of one tokenizer.",
            )
