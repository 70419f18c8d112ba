"""What the outputs of a task are, and what follows from that: their losses and their problem type.

A task has one of these; the modules and models ask it, and never which one it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distilcli.losses.candidates import by_query
from distilcli.losses.labels import (
    binary_cross_entropy,
    cross_entropy,
    listwise_cross_entropy,
    squared_error,
)
from distilcli.losses.mixture import mean_of_numbers, mixed_binary_logits, mixed_logits
from distilcli.losses.terms import Counts, Divergence, Rows
from distilcli.tasks.inputs import TaskBatch

# Where outputs are read: the first token of an input, the first token of each word, every token.
Head = Literal["sequence", "token", "span"]

# Instead of minus infinity, of which a difference would be NaN.
_OUTSIDE = -1e30


class Outputs(ABC):
    """What a row of outputs means. Losses are sums over rows."""

    #: What transformers calls it in a model's config.
    problem_type: ClassVar[str]
    #: Whether one of several classes is right.
    of_one_class: ClassVar[bool] = False
    #: What they are, for people; None: the classes say it.
    in_words: ClassVar[str | None] = None

    def rows(
        self, outputs: Float[Tensor, "outputs classes"], lengths: Sequence[int]
    ) -> Float[Tensor, "rows choices"]:
        """The outputs as the losses compare them, one distribution or number a row.

        Args:
            outputs: of a model, where they are read.
            lengths: tokens of each input.
        """
        return outputs

    def targets(self, targets: Tensor) -> Tensor:
        """The targets of a batch, one for each of `rows`."""
        return targets

    def counts(self, batch: TaskBatch) -> Counts:
        """Tokens, rows, and rows with a label."""
        return Counts(batch.num_tokens, batch.num_outputs, batch.num_labels)

    @abstractmethod
    def hard(self, rows: Rows) -> Float[Tensor, ""]:
        """Sum over rows of the loss on labels; rows without a label count for nothing."""

    @abstractmethod
    def soft(self, term: Divergence, rows: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        """Sum over rows of a divergence between student and teacher.

        Raises:
            ValueError: that divergence has no meaning for these outputs.
        """

    def mean(
        self,
        outputs: Sequence[Float[Tensor, "outputs classes"]],
        shares: Sequence[float],
        lengths: Sequence[int],
    ) -> Float[Tensor, "outputs classes"]:
        """Outputs that have the mean of several models' distributions, or are their mean.

        Args:
            outputs: of each model, where they are read.
            shares: of each in the mean; they add up to 1.
            lengths: tokens of each input.
        """
        return self.mixed(outputs, shares, 1.0)

    @abstractmethod
    def mixed(
        self, teachers: Sequence[Tensor], shares: Sequence[float], temperature: float
    ) -> Float[Tensor, "rows choices"]:
        """What stands for the rows of several teachers, for a term of this temperature.

        Args:
            teachers: rows of each.
            shares: of each in the mean; they add up to 1.
            temperature: T.
        """


class OneOf(Outputs):
    """Logits of classes of which one is right."""

    problem_type = "single_label_classification"
    of_one_class = True

    def hard(self, rows: Rows) -> Float[Tensor, ""]:
        """Cross-entropy, in nats."""
        return cross_entropy(rows.student, rows.targets)

    def soft(
        self,
        term: Divergence,
        rows: Float[Tensor, "rows classes"],
        teacher: Float[Tensor, "rows classes"],
    ) -> Float[Tensor, ""]:
        """Between the distributions over classes."""
        return term.of_classes(rows, teacher)

    def mixed(
        self, teachers: Sequence[Tensor], shares: Sequence[float], temperature: float
    ) -> Float[Tensor, "rows classes"]:
        """The mean of the distributions over classes, as logits."""
        return mixed_logits(teachers, shares, temperature)


class AnyOf(Outputs):
    """Logits of classes of which each is right or not."""

    problem_type = "multi_label_classification"

    def hard(self, rows: Rows) -> Float[Tensor, ""]:
        """The mean over classes of the binary cross-entropy, in nats."""
        return binary_cross_entropy(rows.student, rows.targets)

    def soft(
        self,
        term: Divergence,
        rows: Float[Tensor, "rows classes"],
        teacher: Float[Tensor, "rows classes"],
    ) -> Float[Tensor, ""]:
        """The mean over classes, each of which has a distribution over right and wrong."""
        return term.of_each_class(rows, teacher)

    def mixed(
        self, teachers: Sequence[Tensor], shares: Sequence[float], temperature: float
    ) -> Float[Tensor, "rows classes"]:
        """Of each class the mean of the probabilities that it is right, as a logit."""
        return mixed_binary_logits(teachers, shares, temperature)


class Number(Outputs):
    """A number."""

    problem_type = "regression"
    in_words = "a number"

    def hard(self, rows: Rows) -> Float[Tensor, ""]:
        """The squared error."""
        return squared_error(rows.student[:, 0], rows.targets)

    def soft(
        self, term: Divergence, rows: Float[Tensor, "rows 1"], teacher: Float[Tensor, "rows 1"]
    ) -> Float[Tensor, ""]:
        """What the term means for numbers."""
        return term.of_numbers(rows, teacher)

    def mixed(
        self, teachers: Sequence[Tensor], shares: Sequence[float], temperature: float
    ) -> Float[Tensor, "rows 1"]:
        """The mean of the numbers, at any temperature."""
        return mean_of_numbers(teachers, shares)


class Relevance(Number):
    """A score of each candidate of a query; those of one query are compared with each other."""

    in_words = "a score of each candidate"

    def counts(self, batch: TaskBatch) -> Counts:
        """Tokens, candidates, queries whose labels say what is relevant, lists, pairs."""
        groups = batch.candidates
        assert groups is not None
        return Counts(
            batch.num_tokens, batch.num_outputs, groups.labelled, groups.lists, groups.pairs
        )

    def hard(self, rows: Rows) -> Float[Tensor, ""]:
        """The list-wise cross-entropy of each query's labels, in nats."""
        total = rows.student.new_zeros(())
        for scores, labels in by_query([rows.student[:, 0], rows.targets], rows.sizes):
            total = total + listwise_cross_entropy(scores, labels)
        return total


class Spans(OneOf):
    """A logit of each token to be where a span starts, and one to be where it ends.

    The rows are two distributions over the tokens of each input: all starts, then all ends.
    """

    in_words = "where the answer starts and ends"

    def rows(
        self, outputs: Float[Tensor, "tokens 2"], lengths: Sequence[int]
    ) -> Float[Tensor, "rows longest"]:
        """`by_input`."""
        return by_input(outputs, lengths)

    def mean(
        self,
        outputs: Sequence[Float[Tensor, "tokens 2"]],
        shares: Sequence[float],
        lengths: Sequence[int],
    ) -> Float[Tensor, "tokens 2"]:
        """Each column as `mixed` has it of each input, at T = 1."""
        rows = self.mixed([self.rows(one, lengths) for one in outputs], shares, 1.0)
        twice = [*lengths, *lengths]
        ends = [row[:length] for row, length in zip(rows, twice, strict=True)]
        return torch.stack([torch.cat(ends[: len(lengths)]), torch.cat(ends[len(lengths) :])], 1)

    def targets(self, targets: Tensor) -> Tensor:
        """The places of all starts, then of all ends, [rows]."""
        return targets.T.flatten()

    def counts(self, batch: TaskBatch) -> Counts:
        """Tokens, starts and ends, those that are known."""
        return Counts(batch.num_tokens, 2 * len(batch.lengths), 2 * batch.num_labels)


def by_input(
    outputs: Float[Tensor, "tokens 2"], lengths: Sequence[int]
) -> Float[Tensor, "twice_inputs longest"]:
    """Start logits of each input, then end logits of each, filled up to the longest input."""
    columns = [column.split(list(lengths)) for column in outputs.unbind(dim=1)]
    rows = [row for column in columns for row in column]
    return pad_sequence(rows, batch_first=True, padding_value=_OUTSIDE)
