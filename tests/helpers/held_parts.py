"""`distilcli predict` that stays where it is after some parts: for whatever must find it there."""

import time
from typing import Any

from tiny_experiments import Running, _main, start_function

from distilcli.distillation import predictions, teacher_outputs
from distilcli.distillation.teacher_outputs import TeacherOutputs


def start_held_after_parts(number: int, size: int, *arguments: str) -> Running:
    """Start `distilcli ARGUMENTS`, which computes so many parts of so many inputs, and no more."""
    return start_function(held_after_parts, [str(number), str(size), *arguments])


def held_after_parts(number: str, size: str, *arguments: str) -> None:
    """What the process of `start_held_after_parts` does."""
    teacher_outputs.PART = predictions.PART = int(size)
    compute = TeacherOutputs._compute_part

    def compute_or_stay(outputs: TeacherOutputs, model: Any, part: int, *rest: Any) -> Any:
        while part >= int(number):
            time.sleep(0.005)
        return compute(outputs, model, part, *rest)

    TeacherOutputs._compute_part = compute_or_stay
    _main(*arguments)
