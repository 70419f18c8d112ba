"""Outputs of a teacher that a test computes and keeps, by themselves, without an experiment."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel

from distilcli.distillation.teacher_outputs import TeacherOutputs
from distilcli.tasks.inputs import Inputs

LENGTHS = [9, 5, 12, 12, 3, 20, 7, 4, 15, 6, 11]
NUM_PARTS = 3  # of four inputs each, the last one of three
ALONE = SimpleNamespace(
    process_index=0, num_processes=1, device=torch.device("cpu"), wait_for_everyone=lambda: None
)


def compute(cached: TeacherOutputs, teacher: PreTrainedModel, accelerator: Any = ALONE) -> list:
    """Compute what is missing; what was said of the progress."""
    said: list[tuple[int, int]] = []
    teacher = deepcopy(teacher)  # which is changed to packed attention
    cached.compute(teacher, accelerator, 30, lambda done, total: said.append((done, total)))
    return said


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What an entry depends on


def key_of(teacher: PreTrainedModel, inputs: Inputs, with_hidden: bool = False) -> str:
    return TeacherOutputs(Path("root"), teacher, inputs, with_hidden).key


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])
