"""Models with heads, the tasks and experiments that they are for, and their weights by part."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from task_models import BODIES, HEADS, make_inputs, outputs_of
from torch import nn
from transformers import PreTrainedModel

from distilcli.config.experiment import TaskExperiment
from distilcli.models.families import encoder_layers

LENGTHS = [9, 5, 12, 12, 3, 20, 2]
LABELS = {
    "sequence": ["no", "yes", "maybe"],
    "token": ["O", "B-X", "I-X"],
    "span": ["start", "end"],
}

each_body = pytest.mark.parametrize("body", BODIES)
each_head = pytest.mark.parametrize("head", HEADS)


def task_of(head: str, labels: list[str] | None = None) -> Any:
    """As much of a task as models depend on."""
    rows = make_inputs([5], head)
    labels = labels or LABELS[head]
    return SimpleNamespace(
        head=head,
        outputs=outputs_of(head, "one-of"),
        labels=labels,
        train=rows,
        dev=rows,
        own_readers=frozenset(),
        notes=(),
    )


def experiment_of(student: dict[str, Any], teacher: object = None, **more: Any) -> TaskExperiment:
    """An experiment whose task is never opened."""
    files = {"files": ["none.csv"]}
    sections = {
        "name": "models",
        "task": {"kind": "classification", "max_length": 16, "train": files, "dev": files},
        "teacher": None if teacher is None else {"model": str(teacher), "precision": "fp32"},
        "student": student,
    }
    return TaskExperiment.model_validate(sections | more)


def saved(model: PreTrainedModel, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def put_layers(model: PreTrainedModel, layers: list[nn.Module]) -> None:
    """Let a model have these layers and no others."""
    stack = encoder_layers(model)
    del stack[:]
    stack.extend(layers)


def same(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    return same_weights(one.state_dict(), other.state_dict())


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def body_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Without the pooler, which belongs to the head of a sequence."""
    weights = model.base_model.state_dict()
    return {name: weight for name, weight in weights.items() if "pooler" not in name}


def head_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    body = {f"{model.base_model_prefix}.{name}" for name in body_weights(model)}
    return {name: weight for name, weight in model.state_dict().items() if name not in body}
