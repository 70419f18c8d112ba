"""How large and how fast an export is, beside the student and its teacher in torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distilcli.evaluation.speed import median_seconds
from distilcli.export.graph import EncoderGraph, Graph, files_of
from distilcli.export.running import Run, batches_of, evenly_spaced
from distilcli.export.subjects import OfVectors, Subject
from distilcli.models.families import size_mib
from distilcli.models.padded_teacher import PaddedTeacher, TaskModel

_SINGLE, _BATCH = 16, 32  # inputs that are timed one by one, and together
_RUNS = 5
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Speed:
    """Forward passes on the CPU, medians of 5.

    Attributes:
        single_ms: one input, milliseconds.
        batched_ms: 32 inputs, padded to the longest, milliseconds.
        mib: of the weights, or of the file.
    """

    single_ms: float
    batched_ms: float
    mib: float


def measure_speeds(
    subject: Subject, teacher: TaskModel | None, files: Mapping[str, tuple[Path, Run]]
) -> dict[str, Speed]:
    """Time the teacher, the student and its exports on the same inputs; they take turns.

    Args:
        subject: the student, and the inputs.
        teacher: in fp32; None: there is none.
        files: by what they are called, each with what runs it.

    Returns:
        By name, `teacher` and `student` first.
    """
    inputs = subject.first_inputs
    samples = evenly_spaced(_BATCH, len(inputs))
    few = evenly_spaced(_SINGLE, len(samples))
    mib = {"student": size_mib(subject.model)}
    passes: dict[str, list[Callable[[], None]]] = {}
    if teacher is not None:
        mib = {"teacher": size_mib(teacher)} | mib
        passes["teacher"] = _passes_of_teacher(subject, teacher, samples, few)
    runs = {"student": _in_torch(subject.graph)} | {name: run for name, (_, run) in files.items()}
    for name, run in runs.items():
        one_by_one = _batches(subject, subject.graph, samples[few], 1)
        together = _batches(subject, subject.graph, samples, _BATCH)
        passes[name] = [_over(run, one_by_one), _over(run, together)]
    mib |= {
        name: sum(one.stat().st_size for one in files_of(path)) / 2**20
        for name, (path, _) in files.items()
    }
    seconds = []
    for which in (0, 1):
        actions = {name: both[which] for name, both in passes.items()}
        median_seconds(actions, 1, _CPU)  # warm up
        seconds.append(median_seconds(actions, _RUNS, _CPU))
    return {
        name: Speed(1000 * seconds[0][name] / len(few), 1000 * seconds[1][name], mib[name])
        for name in passes
    }


def _passes_of_teacher(
    subject: Subject, teacher: TaskModel, samples: np.ndarray, few: np.ndarray
) -> list[Callable[[], None]]:
    nn.Module.float(teacher.eval())
    inputs = subject.first_inputs
    if isinstance(teacher, PaddedTeacher):  # it reads the texts by itself
        return [
            teacher.passes([inputs.shown[i] for i in chosen.tolist()], size, _CPU)
            for chosen, size in ((samples[few], 1), (samples, _BATCH))
        ]
    if isinstance(subject, OfVectors):
        graph: Graph = EncoderGraph(teacher, subject.encoding)
    else:
        graph = Graph(teacher, subject.graph.output_names)
    run = _in_torch(graph)
    return [
        _over(run, _batches(subject, graph, chosen, size))
        for chosen, size in ((samples[few], 1), (samples, _BATCH))
    ]


def _in_torch(graph: Graph) -> Callable[[Mapping[str, Tensor]], object]:
    @torch.inference_mode()
    def run(batch: Mapping[str, Tensor]) -> object:
        return graph(**batch)

    return run


def _batches(
    subject: Subject, graph: Graph, samples: np.ndarray, size: int
) -> list[dict[str, Tensor]]:
    found = batches_of(graph, subject.first_inputs, samples, size, subject.padding)
    return [batch for _, batch in found]


def _over(
    run: Callable[[Mapping[str, Tensor]], object], batches: list[dict[str, Tensor]]
) -> Callable[[], None]:
    def action() -> None:
        for batch in batches:
            run(batch)

    return action
