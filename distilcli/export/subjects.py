"""What is exported, and what its scores are: one class for each kind of run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.export.graph import EncoderGraph, Graph
from distilcli.export.running import Run, batches_of, rows_read
from distilcli.models.padded_teacher import TaskModel
from distilcli.models.sentence_encoders import Encoding
from distilcli.tasks.embedding import OpenEmbedding
from distilcli.tasks.inputs import Inputs
from distilcli.tasks.outputs import Head
from distilcli.tasks.task import OpenTask

_OUTPUTS: dict[Head, tuple[str, ...]] = {
    "sequence": ("logits",),
    "token": ("logits",),
    "span": ("start_logits", "end_logits"),
}


@dataclass(frozen=True, kw_only=True)
class Subject(ABC):
    """A model, and the text or the rows that it is measured on.

    Attributes:
        name: folder or hub name.
        model: in fp32 and eval mode, on the CPU, with plain attention.
        tokenizer: its own.
        what: it is measured on, for people.
        teacher: loads the model it was distilled from, of which only the speed is measured; None
            where there is none.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    what: str
    teacher: Callable[[], TaskModel | None] = field(default=lambda: None)

    @cached_property
    @abstractmethod
    def graph(self) -> Graph:
        """What is exported."""

    @property
    @abstractmethod
    def measured(self) -> Mapping[str, Inputs]:
        """The inputs that it is measured on, by what they are."""

    @property
    @abstractmethod
    def score(self) -> str:
        """The score by which an export is judged: higher is better."""

    @abstractmethod
    def scores(self, run: Run, size: int, name: str) -> dict[str, float]:
        """All scores, the one that exports are judged by first.

        Args:
            run: computes outputs.
            size: inputs in a batch.
            name: of what computes them; opens the message.

        Raises:
            NonFiniteLossError: an output is NaN or infinite.
        """

    @property
    def positive(self) -> str | None:
        """Of two classes the one that F1 is of; None where there are none."""
        return None

    def title(self, score: str) -> str:
        """A score as tables name it."""
        return score

    @property
    def padding(self) -> int:
        """Id that fills up a batch."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def first_inputs(self) -> Inputs:
        """Those that speed is measured on."""
        return next(iter(self.measured.values()))

    def outputs(self, inputs: Inputs, run: Run, size: int, name: str) -> list[np.ndarray]:
        """Outputs where they are read, of each input in order; see `scores`."""
        found: dict[int, np.ndarray] = {}
        everything = np.arange(len(inputs))
        for samples, batch in batches_of(self.graph, inputs, everything, size, self.padding):
            rows = rows_read(run(batch), inputs, samples, name)
            found |= zip(samples, rows, strict=True)
        return [found[sample] for sample in range(len(inputs))]


@dataclass(frozen=True, kw_only=True)
class MaskedText(Subject):
    """A masked-LM model, measured by the tokens that it finds again.

    Attributes:
        text: masked sequences, whose outputs are read where a token is hidden.
    """

    text: Inputs

    @cached_property
    def graph(self) -> Graph:
        """Logits of every token."""
        return Graph(self.model, ("logits",))

    @property
    def measured(self) -> Mapping[str, Inputs]:
        """The sequences."""
        return {"text": self.text}

    @property
    def score(self) -> str:
        """The share of hidden tokens that are the most probable one."""
        return "accuracy"

    def scores(self, run: Run, size: int, name: str) -> dict[str, float]:
        """Accuracy, and the loss in nats a hidden token."""
        # Summed batch by batch: the logits of all hidden tokens may be more than memory holds.
        right, loss = 0, 0.0
        everything = np.arange(len(self.text))
        for samples, batch in batches_of(self.graph, self.text, everything, size, self.padding):
            rows = rows_read(run(batch), self.text, samples, name)
            for sample, logits in zip(samples, rows, strict=True):
                span = slice(*self.text.output_offsets[sample : sample + 2])
                labels = torch.from_numpy(self.text.targets[span])
                found = torch.from_numpy(logits)
                right += int((found.argmax(dim=-1) == labels).sum())
                loss += float(F.cross_entropy(found.double(), labels, reduction="sum"))
        number = max(len(self.text.targets), 1)
        return {"accuracy": right / number, "loss": loss / number}


@dataclass(frozen=True, kw_only=True)
class OfTask(Subject):
    """A model with the head of a task, measured on its dev examples.

    Attributes:
        task: with these as its dev split.
    """

    task: OpenTask

    @cached_property
    def graph(self) -> Graph:
        """Logits of classes, of tags, or of where an answer starts and ends; or a number."""
        return Graph(self.model, _OUTPUTS[self.task.head])

    @property
    def measured(self) -> Mapping[str, Inputs]:
        """The dev inputs."""
        return {"dev": self.task.dev}

    @property
    def score(self) -> str:
        """That of the task."""
        return self.task.score

    @property
    def positive(self) -> str | None:
        """As the task has it."""
        return self.task.positive

    def title(self, score: str) -> str:
        """With the class that it is of, where it is of one."""
        return self.task.title(score)

    def scores(self, run: Run, size: int, name: str) -> dict[str, float]:
        """What the task counts."""
        rows = self.outputs(self.task.dev, run, size, name)
        return self.task.ordered_scores(np.concatenate(rows))


@dataclass(frozen=True, kw_only=True)
class OfVectors(Subject):
    """A sentence encoder, measured on pairs or a retrieval test.

    Attributes:
        data: those.
        encoding: how its vectors are made.
    """

    data: OpenEmbedding
    encoding: Encoding

    @cached_property
    def graph(self) -> Graph:
        """Vectors of texts."""
        return EncoderGraph(self.model, self.encoding)

    @property
    def measured(self) -> Mapping[str, Inputs]:
        """The texts."""
        return self.data.measured

    @property
    def score(self) -> str:
        """That of the experiment."""
        return self.data.score

    def scores(self, run: Run, size: int, name: str) -> dict[str, float]:
        """What the experiment measures vectors by."""
        vectors = {
            what: np.concatenate(self.outputs(inputs, run, size, name))
            for what, inputs in self.measured.items()
        }
        found = self.data.scores(vectors)
        return {self.score: found[self.score]} | found
