"""What a loss term is: what it looks at, what its sum is divided by, and how the sum is computed.

Each file of this folder that holds a term defines one class from here, and `table.py` lists them.
Whoever runs a model asks a term these things and knows none of them by its name:

- `VocabularyTerm`: on the logits of masked-LM training, whose full size never exists. The fused
  head (`fused_head.py`) shows it one chunk of tokens after another, block by block of the
  vocabulary.
- `OutputTerm`: on the outputs of a task, which are few and are there as a whole.
- `HiddenTerm`: on last hidden states, in both kinds of training.
- `InnerTerm` (in `inside.py`): on what is between and inside the layers, in both kinds.

Every term gives sums, never means. The caller divides once, by counts over all micro-batches and
ranks, so no result depends on how a batch is cut.

Notation (Hinton, Vinyals, Dean 2015): student logits z, teacher logits v, q = softmax(z/T),
p = softmax(v/T).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.logits import Block, BlockGradient, Chunk


def check_temperature(temperature: float) -> None:
    """Refuse what no softmax can be divided by.

    Raises:
        ValueError: temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")


@runtime_checkable  # for tests that check the types in signatures
class Schedule(Protocol):
    """A setting that changes over the steps of a run; see `config/schedules.py`."""

    def at(self, progress: float) -> float:
        """Its value at one step: `progress` is 0 at the first and 1 at the last."""


@runtime_checkable
class TermSettings(Protocol):
    """The section of one term in the settings."""

    @property
    def weight(self) -> float | Schedule:
        """What its mean is multiplied by in the total."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else the term is made with, by the names of its arguments."""


@runtime_checkable
class LossSettings(Protocol):
    """The settings of all terms, each by its name; see `config/losses.py`."""

    @property
    def terms(self) -> Mapping[str, TermSettings]:
        """The section of each term."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The largest weight that each term ever has."""

    @property
    def temperatures(self) -> Mapping[str, float | Schedule]:
        """The temperature of each term."""


class Counts(NamedTuple):
    """What there is to compare in one micro-batch.

    Attributes:
        tokens: all of them.
        compared: positions (masked LM), rows of outputs (tasks) or texts (embeddings) to be
            compared with the teacher.
        labelled: positions or rows that have a label; of rankings, queries whose labels say which
            of their candidates are relevant.
        lists: of rankings, queries with two candidates or more.
        pairs: of rankings, pairs of candidates of one query that are compared.
        grouped: texts that are compared with the others of their group.
    """

    tokens: int
    compared: int
    labelled: int
    lists: int = 0
    pairs: int = 0
    grouped: int = 0


class Term(ABC):
    """One loss term with its settings, as they are at one step of a run: at first the first one.

    Args:
        weight: what its mean is multiplied by in the total.
        temperature: T of the terms that soften distributions.

    Attributes:
        weight: at the present step.
        temperature: at the present step.

    Raises:
        ValueError: temperature is not positive.
    """

    #: Its section of the settings.
    name: ClassVar[str]
    #: Its key in the records of steps.
    metric: ClassVar[str]
    #: Whether it compares with a teacher. Without one it is left out.
    needs_teacher: ClassVar[bool] = True
    #: Whether it looks at last hidden states, and not at what a model's head makes of them.
    on_hidden: ClassVar[bool] = False
    #: Whether it softens distributions, and so has a temperature.
    softens: ClassVar[bool] = False
    #: Whether it compares states number by number, so that a student of another width needs a
    #: learned projection to the teacher's.
    needs_one_width: ClassVar[bool] = False

    def __init__(self, weight: float | Schedule, temperature: float | Schedule) -> None:
        self.weight = first_value(weight)
        self.temperature = first_value(temperature)
        check_temperature(self.temperature)
        self._schedules = {
            name: value
            for name, value in (("weight", weight), ("temperature", temperature))
            if not isinstance(value, (int, float))
        }

    def set_progress(self, progress: float) -> None:
        """Take the settings of one step: `progress` is 0 at the first and 1 at the last."""
        for name, schedule in self._schedules.items():
            setattr(self, name, schedule.at(progress))

    def changing(self) -> dict[str, float]:
        """Those of its settings that change over a run, as they are now, by keys of records."""
        names = [name for name in self._schedules if name == "weight" or self.softens]
        return {f"{name}/{self.name}": getattr(self, name) for name in names}

    @abstractmethod
    def count(self, counts: Counts) -> int:
        """What its sum is divided by."""


def first_value(value: float | Schedule) -> float:
    """The value of a setting at the first step."""
    return value if isinstance(value, (int, float)) else value.at(0.0)


class Begun(NamedTuple):
    """What a term knows of a chunk of tokens before it goes through the vocabulary.

    Attributes:
        sum: the part of its sum that this already gives; None: nothing.
        of_tokens: values of each token for `block`, such as a divergence; None: nothing.
    """

    sum: Float[Tensor, ""] | None = None
    of_tokens: Float[Tensor, " tokens"] | None = None


class VocabularyTerm(Term):
    """A term on logits over the vocabulary."""

    @abstractmethod
    def begin(self, chunk: Chunk, labels: Int[Tensor, " labelled"]) -> Begun | None:
        """Look at a whole chunk, for what needs the whole vocabulary: log-sums, divergences.

        Args:
            chunk: logits of the student, and of the teacher if the term needs one.
            labels: the original ids of its first tokens.

        Returns:
            None if the chunk holds nothing for this term.
        """

    @abstractmethod
    def block(
        self,
        block: Block,
        labels: Int[Tensor, " labelled"],
        begun: Begun,
        coefficient: Float[Tensor, ""],
        gradient: BlockGradient,
    ) -> Float[Tensor, ""] | None:
        """Add coefficient * d sum / d z of one block of the vocabulary to `gradient`.

        Args:
            block: some rows of the chunk that `begin` saw.
            labels: as in `begin`.
            begun: what `begin` gave.
            coefficient: weight over global count.
            gradient: of the total with respect to the student's logits of this block.

        Returns:
            What the block adds to the sum; None: nothing more.
        """


class HiddenTerm(Term):
    """A term on the last hidden states of every token."""

    on_hidden = True
    needs_one_width = True

    def count(self, counts: Counts) -> int:
        """Tokens."""
        return counts.tokens

    @abstractmethod
    def sum(
        self, student: Float[Tensor, "tokens hidden"], teacher: Float[Tensor, "tokens hidden"]
    ) -> Float[Tensor, ""]:
        """The sum over tokens, with its gradient."""


class Rows(NamedTuple):
    """The outputs for a task's micro-batch.

    Attributes:
        kind: what they are.
        student: the student's.
        teachers: of each teacher, in fp32; none where no term asks for them.
        targets: of each row.
        shares: of each teacher in the mean of several; they add up to 1.
        sizes: rows of each query, where they are the candidates of queries.
    """

    kind: "OutputKind"
    student: Float[Tensor, "rows classes"]
    teachers: Sequence[Float[Tensor, "rows classes"]]
    targets: Tensor
    shares: Sequence[float] = (1.0,)
    sizes: Sequence[int] = ()

    def teacher_at(self, temperature: float) -> Float[Tensor, "rows classes"]:
        """Outputs of the teacher, or what stands for those of several at this temperature."""
        if len(self.teachers) == 1:
            return self.teachers[0]
        return self.kind.mixed(self.teachers, self.shares, temperature)


class OutputTerm(Term):
    """A term on the outputs of a task."""

    @abstractmethod
    def sum_of_rows(self, rows: Rows) -> Float[Tensor, ""]:
        """The sum over rows, with its gradient."""


class OutputKind(Protocol):
    """What the outputs of a task are; see `tasks/outputs.py`."""

    def hard(self, rows: Rows) -> Float[Tensor, ""]:
        """Sum over rows of the loss on labels."""

    def soft(self, term: "Divergence", rows: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        """Sum over rows of a divergence between student and teacher."""

    def mixed(
        self, teachers: Sequence[Tensor], shares: Sequence[float], temperature: float
    ) -> Tensor:
        """What stands for the rows of several teachers at a temperature."""


class Divergence(VocabularyTerm, OutputTerm):
    """A term that compares the distributions of student and teacher.

    A subclass says what it is for classes of which one is right. Of classes that are each right or
    not, each is then two classes with the logits z and 0.
    """

    softens = True

    def count(self, counts: Counts) -> int:
        """Positions or rows that are compared."""
        return counts.compared

    def sum_of_rows(self, rows: Rows) -> Float[Tensor, ""]:
        """The sum over rows, as the kind of outputs has it."""
        return rows.kind.soft(self, rows.student, rows.teacher_at(self.temperature))

    @abstractmethod
    def of_classes(
        self, student: Float[Tensor, "rows classes"], teacher: Float[Tensor, "rows classes"]
    ) -> Float[Tensor, ""]:
        """Sum over rows, where one class is right."""

    def of_each_class(
        self, student: Float[Tensor, "rows classes"], teacher: Float[Tensor, "rows classes"]
    ) -> Float[Tensor, ""]:
        """Sum over rows of the mean over classes, where each class is right or not."""
        pairs = (torch.stack([x, torch.zeros_like(x)], dim=-1) for x in (student, teacher))
        return self.of_classes(*(pair.flatten(0, 1) for pair in pairs)) / student.shape[1]

    def of_numbers(
        self, student: Float[Tensor, "rows numbers"], teacher: Float[Tensor, "rows numbers"]
    ) -> Float[Tensor, ""]:
        """Sum over rows, where outputs are numbers.

        Raises:
            ValueError: the term has no meaning for numbers.
        """
        raise ValueError(f"{self.name} compares distributions, and a number has none")
