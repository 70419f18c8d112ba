"""Models on the dev examples of a task: their outputs, and what those score."""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from distilcli.batches.packing import by_length
from distilcli.evaluation.gathering import everywhere, gathered, scores_of, share_of
from distilcli.models.attention import use_packed_attention
from distilcli.models.padded_teacher import PaddedTeacher, TaskModel
from distilcli.models.running import run_model
from distilcli.tasks.inputs import Inputs, pack_inputs
from distilcli.tasks.task import OpenTask


@dataclass(frozen=True)
class TaskScores:
    """Held-out scores on a task.

    Attributes:
        values: all scores, by name.
        score: the name of the one that students are chosen by.
    """

    values: dict[str, float]
    score: str

    @property
    def criterion(self) -> float:
        """By which students are chosen: lower is better."""
        return -self.values[self.score]

    def metrics(self) -> dict[str, float]:
        """As metric keys and values; the score by which students are chosen comes first."""
        first = {self.score: self.values[self.score]}
        return {f"held_out/{name}": value for name, value in (first | self.values).items()}


def measured_scores(
    task: OpenTask,
    model: TaskModel,
    accelerator: Accelerator,
    tokens_per_micro_batch: int,
    name: str,
) -> dict[str, float]:
    """Dev scores of a model as it was loaded; the one that models are compared by comes first.

    Raises:
        NonFiniteLossError: an output is NaN or infinite; its message opens with `name`.
    """
    return task.ordered_scores(
        measured_outputs(task, model, accelerator, tokens_per_micro_batch, name)
    )


def measured_outputs(
    task: OpenTask,
    model: TaskModel,
    accelerator: Accelerator,
    tokens_per_micro_batch: int,
    name: str,
) -> np.ndarray:
    """Outputs of a model as it was loaded for all dev inputs; see `dev_outputs`."""
    nn.Module.to(model.eval(), accelerator.device)
    if isinstance(model, PreTrainedModel):
        use_packed_attention(model)
    return dev_outputs(task, model, accelerator, tokens_per_micro_batch, name)


def dev_scores(
    task: OpenTask,
    model: PreTrainedModel,
    accelerator: Accelerator,
    tokens_per_micro_batch: int,
    name: str = "the student",
) -> TaskScores:
    """Scores of a packed model on the dev examples, over all processes; its mode is restored.

    Raises:
        NonFiniteLossError: an output is NaN or infinite; its message opens with `name`.
    """
    outputs = {"dev": _dev_rows(task, model, accelerator, tokens_per_micro_batch)}
    message = _NOT_FINITE.format(name)
    scores = scores_of(outputs, lambda found: task.scores(found["dev"]), accelerator, message)
    return TaskScores(scores, task.score)


_NOT_FINITE = "{}: not all of its outputs for the dev examples are finite"


def dev_outputs(
    task: OpenTask,
    model: TaskModel,
    accelerator: Accelerator,
    tokens_per_micro_batch: int,
    name: str,
) -> np.ndarray:
    """A packed model's outputs for all dev inputs in order, float32 [rows, outputs].

    Each process runs a part of the inputs, and all get all outputs.

    Raises:
        NonFiniteLossError: an output is NaN or infinite; its message opens with `name`.
    """
    outputs = _dev_rows(task, model, accelerator, tokens_per_micro_batch)
    return everywhere(outputs, accelerator, _NOT_FINITE.format(name))


def _dev_rows(
    task: OpenTask, model: TaskModel, accelerator: Accelerator, tokens_per_micro_batch: int
) -> np.ndarray | None:
    """The outputs of all dev inputs, on the main process; each runs its share of them."""
    mine = share_of(len(task.dev), accelerator)
    found = outputs_of(model, task.dev, mine, accelerator.device, tokens_per_micro_batch)
    return gathered(found, task.dev.num_outputs_of, accelerator)


@torch.no_grad()
def outputs_of(
    model: TaskModel,
    inputs: Inputs,
    samples: np.ndarray,
    device: torch.device,
    tokens_per_micro_batch: int,
) -> list[tuple[int, np.ndarray]]:
    """Each of these inputs' index with the model's outputs, float32 [rows, outputs].

    They are computed in the precision of the model's weights, whatever the caller's autocast says.
    In bf16 outputs that are nearly equal become equal, and a ranking would not be the model's own.
    """
    was_training = model.training
    model.eval()
    found: list[tuple[int, np.ndarray]] = []
    for group in by_length(samples, inputs.lengths, tokens_per_micro_batch):
        if isinstance(model, PaddedTeacher):
            outputs = model.run([inputs.shown[i] for i in group], tokens_per_micro_batch)
        else:
            with torch.autocast(device.type, enabled=False):
                outputs, _ = run_model(model, pack_inputs(inputs, group).to(device))
        ends = np.cumsum(inputs.num_outputs_of[group])[:-1]
        found += zip(group, np.split(outputs.float().cpu().numpy(), ends), strict=True)
    model.train(was_training)
    return found
