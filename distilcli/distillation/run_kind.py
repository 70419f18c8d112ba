"""One interface for every kind of run: its data, its parts, what it trains towards, its measure.

The commands go one way, whatever is trained: prepare, assemble, objective, compare. What differs
from kind to kind is behind `RunKind`, with one implementation each: `masked_lm.py`, `tasks.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.config.experiment import BaseExperiment
from distilcli.corpus.prepare import Progress
from distilcli.distillation.identity import Identity
from distilcli.distillation.objective import Objective
from distilcli.errors import ModelError
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.result import Result
from distilcli.models.padded_teacher import TaskModel
from distilcli.text.tokenizers import load_tokenizer, tokenizer_fingerprint


class ProgressBar(Protocol):
    """Progress of one activity."""

    def update(self, done: float, total: float | None, text: str) -> None:
        """Show that `done` of `total` is done; None: nobody knows how much there is."""


class Audience(Protocol):
    """Whoever is told what goes on."""

    def note(self, text: str) -> None:
        """Say what is going on."""

    def warn(self, text: str) -> None:
        """Say what looks wrong."""

    def bar(self, description: str) -> AbstractContextManager[ProgressBar]:
        """Show the progress of one activity."""


class Place(Protocol):
    """The folder of a run that is about to start or to go on, as the main process sees it."""

    @property
    def initial_student(self) -> Path:
        """Where the student at start lies."""

    @property
    def keeps_student(self) -> bool:
        """Whether the run goes on with an initial student that lies there."""

    def take(self) -> None:
        """Keep other runs out of it."""

    def begin(self) -> None:
        """Write down what is run; with force, what ran there is removed."""


@dataclass(frozen=True)
class Parts:
    """What training needs, loaded on the CPU.

    Attributes:
        tokenizer: of the data and both models.
        teacher: None when the experiment has none.
        student: in fp32, as it starts.
        others: the teachers beside the first one, with which it is averaged.
    """

    tokenizer: PreTrainedTokenizerFast
    teacher: TaskModel | None
    student: PreTrainedModel
    others: tuple[TaskModel, ...] = field(default=(), kw_only=True)


E = TypeVar("E", bound=BaseExperiment)
P = TypeVar("P", bound=Parts)


class RunKind(ABC, Generic[E, P]):
    """A kind of run, of one experiment.

    Args:
        experiment: all settings.
    """

    def __init__(self, experiment: E) -> None:
        self.experiment = experiment

    @abstractmethod
    def prepare(self, num_proc: int, audience: Audience) -> Result:
        """Make the data that is missing, or look at what is there, and say what it holds."""

    @abstractmethod
    def assemble(
        self, device: torch.device, initial_student: Path, place: Place | None, audience: Audience
    ) -> P:
        """Load the parts of a run.

        Args:
            device: decides the teacher's precision.
            initial_student: where the student at start lies.
            place: of the main process, which makes what is missing before the others come here;
                None for those.
            audience: told what is made.
        """

    @abstractmethod
    def assemble_unsaved(self, device: torch.device, *, by_content: bool) -> P:
        """Load the parts with a student that is made in memory; nothing is written.

        Args:
            device: decides the teacher's precision.
            by_content: read every byte of a token store; one process of a run does.
        """

    @abstractmethod
    def warn_about_data(self, parts: P, audience: Audience) -> None:
        """Warn of what a user should know of the data before trusting what is trained on it."""

    @abstractmethod
    def identity(self, parts: P, initial_student: Path) -> Identity:
        """What a run depends on, by content."""

    @abstractmethod
    def objective(
        self,
        parts: P,
        accelerator: Accelerator,
        on_note: Callable[[str], None],
        *,
        may_write: bool = True,
    ) -> Objective:
        """What is trained towards.

        Args:
            parts: of this run; the student is trained in place.
            accelerator: of the run.
            on_note: told what the teacher is doing.
            may_write: whether a teacher's outputs may be kept on disk.
        """

    @abstractmethod
    def check_asked(self, asked: Asked) -> None:
        """Refuse what cannot be measured of this kind.

        Raises:
            ConfigError: naming the option.
        """

    @abstractmethod
    def label(self, run: str, student: str) -> str:
        """What a student of a run is called beside other models.

        Args:
            run: name of the run.
            student: name of the student's folder in it.
        """

    @abstractmethod
    def compare(
        self, paths: dict[str, str], asked: Asked, accelerator: Accelerator, audience: Audience
    ) -> Result:
        """Measure models beside the teacher.

        Args:
            paths: folder or hub name of each model, by what it is called.
            asked: on what, and what of it.
            accelerator: names the device.
            audience: told what is measured.
        """


def show_progress(bar: ProgressBar) -> Callable[[Progress], None]:
    """A callback that draws the progress of preparing text on a bar."""

    def show(progress: Progress) -> None:
        text = f"{progress.documents:,} documents, {progress.tokens:,} tokens"
        bar.update(progress.bytes_read, progress.total_bytes, text)

    return show


AnyKind = RunKind[Any, Any]


def experiment_tokenizer(experiment: BaseExperiment) -> PreTrainedTokenizerFast:
    """The tokenizer that reads the experiment's text."""
    revision = experiment.teacher.revision if experiment.teacher else None
    return load_tokenizer(experiment.tokenizer_source, revision)


def student_tokenizer(
    name: str, expected: PreTrainedTokenizerFast | None = None
) -> PreTrainedTokenizerFast:
    """The tokenizer that lies beside a student.

    Args:
        name: folder or hub name of the student.
        expected: the one that it must be, with which rows have been read; None: any.

    Raises:
        ModelError: it is another one, or there is none.
    """
    tokenizer = load_tokenizer(name)
    if expected is None or tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(expected):
        return tokenizer
    raise ModelError(
        f"student {name}: its tokenizer is another than that of the experiment",
        "Name the experiment that it was trained with: --config FILE.",
    )
