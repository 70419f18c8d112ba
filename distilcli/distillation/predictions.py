"""A fine-tuned model and the rows of a task that it is shown, as `distilcli predict` wants them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from distilcli.config.data import RowFiles, TransferFiles
from distilcli.config.experiment import TaskExperiment
from distilcli.config.losses import LabelsConfig, TaskLossConfig
from distilcli.config.models import TaskTeacher
from distilcli.config.row_outputs import RowOutputs
from distilcli.distillation.own_tokenizer import OwnOutputs
from distilcli.distillation.task_parts import open_task_of, task_tokenizer
from distilcli.distillation.teacher_outputs import PART, TeacherOutputs
from distilcli.errors import ConfigError, RunFolderError
from distilcli.models.checks import check_tokenizer
from distilcli.models.padded_teacher import PaddedTeacher, TaskModel
from distilcli.models.placement import resolve_precision
from distilcli.models.task_models import (
    load_finetuned_teacher,
    longest_input,
    teacher_labels,
)
from distilcli.tasks.open import expanded
from distilcli.tasks.predicted_rows import ENDINGS, PredictedRows, write_rows
from distilcli.tasks.task import OpenTask


def check_output(output: Path, config: RowOutputs | None) -> None:
    """Refuse a file that cannot be written, or that the experiment would not read.

    Args:
        output: the file.
        config: `task.teacher_outputs` of the experiment.

    Raises:
        ConfigError: its ending says no format; or the experiment reads something else than what is
            written.
        RunFolderError: there is something already.
    """
    if output.suffix not in ENDINGS:
        raise ConfigError(
            f"--output {output}: its ending says no format",
            f"Give it one of these: {', '.join(ENDINGS)}.",
        )
    if output.exists() or output.is_symlink():
        raise RunFolderError(
            f"--output {output}: it is there already", "Remove it, or name another."
        )
    if config is not None and (config.columns is not None or config.holds == "probabilities"):
        key = "columns" if config.columns is not None else "holds"
        raise ConfigError(
            f"task.teacher_outputs.{key}: what is written are logits, in one column of objects by "
            "class",
            f"Leave out task.teacher_outputs.{key}.",
        )


def for_model(
    experiment: TaskExperiment, model: str, rows: Sequence[str], id_column: str | None
) -> TaskExperiment:
    """The experiment with this model as its teacher, and nothing but that to learn from.

    Args:
        experiment: names the task and, if it has a teacher, its precision.
        model: folder or hub name.
        rows: files whose rows take the place of those to train on; none: there are none.
        id_column: column of ids; None: that of `task.teacher_outputs`, if there is one.

    Raises:
        ConfigError: outputs of this kind of task are not written down.
    """
    if not experiment.task.writes_outputs:
        raise ConfigError(
            "the outputs of this kind of task are not written down",
            "Name the model as teacher of an experiment; teacher.cache keeps its outputs.",
        )
    if id_column is not None and experiment.task.ranks:
        raise ConfigError(
            "--id: the scores of a query's candidates are matched by query and document",
            "Leave it out.",
        )
    named = experiment.teacher
    if named is not None and named.model == model:
        # Its outputs are kept in the file, whether or not a run would keep them.
        cache = TaskTeacher.model_fields["cache"].default
        teacher = named.model_copy(update={"others": [], "cache": cache})
    else:
        precision = "auto" if named is None else named.precision
        teacher = TaskTeacher(model=model, precision=precision)
    outputs = experiment.task.teacher_outputs
    id_column = id_column or (None if outputs is None else outputs.id)
    ids = None if id_column is None else RowOutputs.of_ids(id_column)
    task = experiment.task.model_copy(update={"teacher_outputs": ids})
    loss = TaskLossConfig(labels=LabelsConfig(weight=0.0))
    changes = {"teacher": teacher, "task": task, "loss": loss, "augmentation": None}
    found = experiment.model_copy(update=changes)
    return _with_rows(found, rows) if rows else found


def _with_rows(experiment: TaskExperiment, files: Sequence[str]) -> TaskExperiment:
    """The experiment with rows of these files, whose labels nobody looks at, to train on."""
    task: Any = expanded(experiment.task, teacher_labels(experiment))
    rows: dict[str, Any] = {"files": list(files)}
    train = task.train
    if isinstance(train, RowFiles) and Path(files[0]).suffix == Path(train.files[0]).suffix:
        # What was said of the files before holds for others of their kind.
        rows |= {"format": train.format, "columns": train.columns}
    source = TransferFiles.model_validate(rows)
    task = task.model_copy(update={"train": None, "transfer": source})
    return experiment.model_copy(update={"task": task})


@dataclass(frozen=True)
class Predictions:
    """A model, and the rows that it is shown.

    Attributes:
        experiment: see `for_model`.
        task: with the rows as its training split.
        model: on the CPU, in the precision that it computes in.
        rows: what is written of each.
    """

    experiment: TaskExperiment
    task: OpenTask
    model: TaskModel
    rows: PredictedRows

    @classmethod
    def open(cls, experiment: TaskExperiment, column: str | None, device: torch.device) -> Self:
        """Read the rows and load the model.

        Args:
            experiment: see `for_model`.
            column: that the outputs are written to; None: `logits`, or `score` of numbers.
            device: decides the precision.

        Raises:
            ConfigError, DataError, ModelError: as of a run with this model as its teacher.
        """
        task = open_task_of(experiment)
        asks_for_number = experiment.task.asks_for_number
        longest = None
        if not task.own_readers:  # whose tokens are others
            longest = experiment.task.max_length or longest_input(experiment)
        rows = PredictedRows.of(task, asks_for_number, column, _id_column(experiment), longest)
        model = load_finetuned_teacher(experiment, task)
        assert model is not None
        assert experiment.teacher is not None
        if isinstance(model, PreTrainedModel):
            check_tokenizer(model, task_tokenizer(experiment), "MODEL")
        nn.Module.to(model, dtype=resolve_precision(experiment.teacher.precision, device))
        return cls(experiment, task, model, rows)

    @property
    def tokens(self) -> int:
        """Tokens of one forward pass."""
        return self.experiment.train.tokens_per_micro_batch

    def outputs(self, root: Path) -> TeacherOutputs:
        """The outputs for all inputs, which are kept in this folder as those of a teacher are."""
        if isinstance(self.model, PaddedTeacher):
            return OwnOutputs(root, self.model, self.task.train, self.tokens)
        return TeacherOutputs(root, self.model, self.task.train, with_hidden=False)

    def write(self, outputs: TeacherOutputs, path: Path, ending: str) -> None:
        """Write all rows with their outputs to a new file.

        Args:
            outputs: all of them, computed.
            path: of the file.
            ending: says the format.

        Raises:
            OSError: it cannot be written.
        """
        number = len(outputs.inputs)
        parts = (range(first, min(first + PART, number)) for first in range(0, number, PART))
        write_rows(self.rows, (outputs.of(part)[0] for part in parts), path, ending)


def _id_column(experiment: TaskExperiment) -> str | None:
    outputs = experiment.task.teacher_outputs
    return None if outputs is None else outputs.id
