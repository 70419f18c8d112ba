"""Teachers of a task that read its texts themselves: whether that goes, and their outputs.

Such a teacher has a tokenizer of its own, or an architecture that this package does not pack. It
runs padded, once, and its outputs are kept as those of the student's inputs.
"""

from pathlib import Path

import torch
from torch import Tensor

from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.identity import Fingerprint, Identity
from distilcli.distillation.teacher_outputs import TeacherOutputs, weights_fingerprint
from distilcli.distillation.teachers import Teacher
from distilcli.errors import ConfigError
from distilcli.losses.table import TASK_TERMS, hidden_terms, inner_terms
from distilcli.models.padded_teacher import PaddedTeacher
from distilcli.tasks.inputs import Inputs, TaskBatch
from distilcli.tasks.shown import digest_of_shown
from distilcli.tasks.task import OpenTask
from distilcli.text.tokenizers import load_tokenizer, tokenizer_fingerprint


def refuse_own_readers(experiment: TaskExperiment, readers: frozenset[str]) -> None:
    """Refuse settings that need a teacher which reads the student's tokens.

    Args:
        experiment: all settings.
        readers: keys of the teachers that read for themselves.

    Raises:
        ConfigError: naming the setting, and why.
    """
    teacher, loss = experiment.teacher, experiment.loss
    if not readers or teacher is None or not loss.asks_for_teacher:
        return
    key = min(readers)
    why = f"{key}.model {teacher.by_key[key].model} reads texts with a tokenizer of its own"
    if teacher.cache is None:
        raise ConfigError(
            f"teacher.cache: null, but {why}, and a step has only the student's tokens",
            "Name a folder in teacher.cache, where its outputs are kept.",
        )
    if experiment.augmentation is not None:
        raise ConfigError(
            f"augmentation: {why}, and copies are changed tokens of the student, which are no text",
            "Leave augmentation out; more text without labels will do the same.",
        )
    inner = inner_terms(TASK_TERMS, loss.weights)
    hidden = hidden_terms(TASK_TERMS, loss.weights) if "teacher" in readers else []
    if inner or hidden:
        name = [*inner, *hidden][0]
        raise ConfigError(
            f"loss.{name}: {why}, and has no states for the student's tokens",
            f"Set loss.{name}.weight=0.",
        )


class OwnOutputs(TeacherOutputs):
    """Outputs of a teacher that reads for itself, for the student's inputs.

    Args:
        root: folder of all entries.
        teacher: whose outputs they are.
        inputs: for which.
        tokens_per_batch: of one forward pass of the teacher, padding included.
    """

    def __init__(
        self, root: Path, teacher: PaddedTeacher, inputs: Inputs, tokens_per_batch: int
    ) -> None:
        assert len(inputs.shown) == len(inputs), "every input says what it is made of"
        self._tokens = tokens_per_batch
        super().__init__(root, teacher, inputs, with_hidden=False)

    def depends_on(self, teacher: PaddedTeacher) -> list[str]:
        """The model's weights, how it reads, and what: not the student's tokens."""
        shown = digest_of_shown(self.inputs.shown)
        return [weights_fingerprint(teacher.model), teacher.reading(), shown, str(teacher.dtype)]

    def run(self, teacher: PaddedTeacher, batch: TaskBatch) -> tuple[Tensor, Tensor]:
        """Outputs where the student's are read; there are no states of its tokens."""
        shown = [self.inputs.shown[sample] for sample in batch.sample_ids]
        return teacher.run(shown, self._tokens), torch.empty(0)


class ReadingTeacher(Teacher):
    """A teacher that reads the texts of each step: to try a few steps without writing anything.

    Args:
        teacher: reads them.
        inputs: to train on.
        tokens_per_batch: of one forward pass of the teacher, padding included.
    """

    def __init__(self, teacher: PaddedTeacher, inputs: Inputs, tokens_per_batch: int) -> None:
        super().__init__()
        self._teacher = teacher
        self._shown = inputs.shown
        self._tokens = tokens_per_batch

    @property
    def width(self) -> int:
        """Of its hidden states, which nobody compares."""
        return self._teacher.width

    def outputs(self, batch: TaskBatch) -> tuple[Tensor, None]:
        """Computed from the texts of the batch's samples."""
        shown = [self._shown[sample] for sample in batch.sample_ids]
        return self._teacher.run(shown, self._tokens).to(batch.input_ids.device), None


def identity_of_readers(experiment: TaskExperiment, task: OpenTask) -> Identity:
    """What such teachers read beside the student's tokens: the texts, by their own tokenizers."""
    found: Identity = {}
    if experiment.teacher is None or not task.own_readers:
        return found
    for key, one in experiment.teacher.by_key.items():
        if key in task.own_readers:
            own = load_tokenizer(one.model, one.revision, needs=("pad_token",))
            digest = tokenizer_fingerprint(own)
            found[f"{key}.model tokenizer"] = Fingerprint(one.model, digest)
    places = experiment.task.places()
    for split, inputs in task.sources().items():
        digest = digest_of_shown(inputs.shown)
        found[f"task.{split} texts"] = Fingerprint(places[split], digest)
    return found
