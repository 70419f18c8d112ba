"""The interface of a task: inputs, where outputs are read, what they are, scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from distilcli.errors import ConfigError, counted, extra
from distilcli.tasks.decisions import Decisions
from distilcli.tasks.inputs import Cut, Inputs, end_to_end, has_label, part_of
from distilcli.tasks.outputs import Head, Outputs
from distilcli.tasks.splits import Splits, Unlabelled
from distilcli.tasks.written_outputs import outputs_of
from distilcli.text.overlap import Overlap, digest_of_texts, overlap

_MUCH_CUT = 0.05  # of the tokens


# What a model is shown of a row, by column, and which of its words or documents have outputs; None:
# it has one output.
WrittenRow = tuple[dict[str, Any], Sequence[bool] | None]


@dataclass(frozen=True)
class Skipped:
    """Rows that were left out.

    Attributes:
        train: of the training examples.
        dev: of the dev examples.
        transfer: of those that only a teacher labels.
    """

    train: int = 0
    dev: int = 0
    transfer: int = 0


class OpenTask(ABC):
    """A task with its examples read and made inputs.

    Attributes:
        head: where outputs are read.
        outputs: what they are.
        labels: names of the outputs, in order.
        train: inputs to train on; those of examples with a label come first.
        dev: inputs to be measured on.
        examples: what the inputs to train on were made of, in their order; empty where outputs of
            a teacher came with them.
        unlabelled: which of the training inputs only a teacher labels; None: there are none, and
            no rows that might be.
        num_examples: of those with a label to train on, and of the dev split; there may be more
            inputs than examples.
        skipped: bad rows that were left out.
        overlap: dev examples that are trained on, too.
        cuts: what of the training and of the dev texts is in no input, because it is too long.
        warnings: what a user should know of the rows, in a sentence each.
        warnings_of_inputs: those of them that are of what a model is shown besides `dev`, and do
            not only matter to training and measuring.
        unknown_shares: how many of the tokens of each of `sources` are [UNK].
        score: name of the score by which students are chosen and compared.
        agreement_means: what `agreement` is the share of, for people.
        own_readers: keys of the teachers that read its texts with tokenizers of their own, and
            not its inputs.
        positive: of two classes the one that the scores f1 and accuracy_f1 are of; else None.
        notes: what else is said of the rows.
        is_scored_by_scikit: whether scoring it needs scikit-learn, of the extra `eval`.
        knowing_nothing: what `constant_scores` are the scores of, for people.
    """

    head: Head
    outputs: Outputs
    labels: list[str]
    train: Inputs
    dev: Inputs
    examples: Sequence[Any] = ()
    unlabelled: Unlabelled | None = None
    num_examples: tuple[int, int]
    skipped: Skipped
    overlap: Overlap
    warnings: list[str]
    warnings_of_inputs: list[str]
    unknown_shares: dict[str, float]
    score: str
    agreement_means: str
    own_readers: frozenset[str] = frozenset()
    positive: str | None = None
    notes: Sequence[str] = ()
    is_scored_by_scikit: ClassVar[bool] = True
    knowing_nothing: ClassVar[str] = "knowing only how frequent labels are"

    def keep_usable(
        self,
        splits: Splits[Any],
        skip_bad_rows: bool,
        named: Callable[[Any], Any],
        texts_of: Callable[[Any], Sequence[str]],
    ) -> None:
        """Refuse or leave out what is bad in all splits, count what is left, compare them.

        Args:
            splits: all examples; those of unknown classes are among the bad ones afterwards.
            skip_bad_rows: leave bad rows out.
            named: an example with its classes as `labels` has them; raises `BadExample`.
            texts_of: what a model is shown of an example.

        Raises:
            DataError: see `Examples.check`.
        """
        train, dev, transfer = splits.train, splits.dev, splits.transfer
        for split in (train, dev):
            split.change(named)
        if splits.written is not None:
            splits.written.settle(
                splits.to_train, dev, self.labels, self.outputs.of_one_class, skip_bad_rows
            )
            train.bad += splits.unlabelled.bad
        if splits.has_train:
            train.check(skip_bad_rows, len(splits.unlabelled.usable))
        if splits.has_transfer:
            transfer.check(skip_bad_rows)
        dev.check(skip_bad_rows)
        self.num_examples = len(train.usable), len(dev.usable)
        self.skipped = Skipped(len(train.bad), len(dev.bad), len(transfer.bad))
        trained, unlabelled, transferred, measured = (
            [digest_of_texts(*texts_of(x)) for x in s.usable]
            for s in (train, splits.unlabelled, transfer, dev)
        )
        trained += unlabelled
        self.overlap = overlap(trained, measured, ("task.train", "task.dev"), "rows")
        # Without labels a row of both gives nothing away that is measured: no reason to refuse it.
        of_transfer = overlap(transferred, measured, ("task.transfer", "task.dev"), "rows")
        found = self.overlap, replace(of_transfer, are_same=False)
        self.warnings = [one.warning for one in found if one.warning]
        self.warnings_of_inputs = []
        if splits.written is not None:
            self.warnings += splits.written.warnings

    def make_inputs(
        self,
        splits: Splits[Any],
        make: Callable[[Sequence[Any]], tuple[Inputs, Cut]],
        key: str,
        limit: int | None,
    ) -> None:
        """Make the inputs of all splits, and warn where much of their texts is cut.

        Args:
            splits: all examples, which `keep_usable` has seen.
            make: inputs of some examples, and what of their texts is in none.
            key: the setting that cuts them.
            limit: its value, in tokens.
        """
        nothing = Cut(0, 0, 0)
        of_train = splits.train, splits.unlabelled, splits.transfer
        made = [make(split.usable) if split.usable else None for split in of_train]
        self.train = end_to_end([one[0] for one in made if one is not None])
        cuts = [nothing if one is None else one[1] for one in made]
        self.dev, of_dev = make(splits.dev.usable)
        self.cuts = cuts[0], of_dev
        if splits.num_unlabelled or splits.has_transfer:
            num_inputs = [0 if one is None else len(one[0]) for one in made]
            self.unlabelled = Unlabelled(
                (len(splits.unlabelled.usable), len(splits.transfer.usable)),
                (num_inputs[1], num_inputs[2]),
                cuts[1] + cuts[2],
            )
        if splits.written is None or splits.written.are_ids_alone:
            self.examples = [one for split in of_train for one in split.usable]
        else:
            self._add_outputs(splits)
        of_rows = {"train": cuts[0] + cuts[1], "transfer": cuts[2], "dev": of_dev}
        for split, cut in of_rows.items():
            if cut.share > _MUCH_CUT:
                self.warn_of_inputs(
                    split,
                    f"{key} {limit} cuts {cut.share:.1%} of the tokens, in "
                    f"{counted(cut.inputs, 'text')}; raise it, as far as the models have positions",
                )

    def warn_of_inputs(self, split: str, warning: str) -> None:
        """Add a warning of what a model is shown.

        Args:
            split: the key below `task` that names the rows.
            warning: a sentence.
        """
        self.warnings.append(f"task.{split}: {warning}")
        if split != "dev":
            self.warnings_of_inputs.append(self.warnings[-1])

    def _add_outputs(self, splits: Splits[Any]) -> None:
        """Give the inputs the outputs of the teacher that came with their rows."""
        taught = outputs_of([one for split in splits.to_train for one in split.usable])
        self.train = replace(self.train, teacher_outputs=taught)
        dev = splits.dev.usable
        self.dev = replace(self.dev, teacher_outputs=outputs_of(dev))
        num_taught = sum(one.taught is not None for one in dev)
        if 0 < num_taught < len(dev):
            self.warnings.append(
                f"task.dev: {num_taught:,} of {len(dev):,} rows have outputs of the teacher, which "
                "is therefore not measured"
            )

    def sources(self) -> dict[str, Inputs]:
        """The inputs by the key below `task` that names their rows; none of what has no rows."""
        num_train = len(self.train)
        if self.unlabelled is not None:
            num_train -= self.unlabelled.inputs[1]
        found = {
            "train": part_of(self.train, 0, num_train),
            "transfer": part_of(self.train, num_train, len(self.train)),
            "dev": self.dev,
        }
        return {key: inputs for key, inputs in found.items() if len(inputs)}

    def known_targets(self) -> np.ndarray:
        """Targets of the training examples that have a label; of the dev examples if none has."""
        known = self.train.targets[has_label(self.train.targets)]
        return known if len(known) else self.dev.targets

    def title(self, score: str) -> str:
        """A score as tables name it: with the class that it is of, where it is of one."""
        is_of_one = self.positive is not None and score in ("f1", "accuracy_f1")
        return f"{score} ({self.positive})" if is_of_one else score

    @property
    def shown_columns(self) -> Sequence[str]:
        """Columns of what a model is shown of a row, where outputs are written down by rows."""
        raise NotImplementedError

    @property
    def listed_columns(self) -> Sequence[str]:
        """Those of `shown_columns` that hold lists of texts."""
        return []

    @property
    def lists_outputs(self) -> bool:
        """Whether a row has a list of outputs, such as one for each word."""
        return False

    def written_rows(self, example: Any) -> Sequence[WrittenRow]:
        """The rows that an example is written down as, where outputs are written down by rows."""
        raise NotImplementedError

    @abstractmethod
    def scores(self, outputs: np.ndarray) -> dict[str, float]:
        """Scores of the outputs for all dev inputs.

        Args:
            outputs: float32 [rows, outputs], in the order of `dev`.

        Returns:
            By name, `score` among them; shares and correlations as fractions.
        """

    def ordered_scores(self, outputs: np.ndarray) -> dict[str, float]:
        """`scores`, the one that models are compared by first."""
        scores = self.scores(outputs)
        return {self.score: scores[self.score]} | scores

    @abstractmethod
    def decisions(self, outputs: np.ndarray) -> Decisions | None:
        """What outputs say of each dev example, and how sure they are; None of numbers.

        Args:
            outputs: float32 [rows, outputs], in the order of `dev`.
        """

    def agreement(self, outputs: np.ndarray, of_teacher: np.ndarray) -> float:
        """How far one model's answers are another's, right or wrong; see `agreement_means`.

        Args:
            outputs: float32 [rows, outputs], in the order of `dev`.
            of_teacher: those of the other one.

        Returns:
            1 where they are all the same.
        """
        own, other = self.decisions(outputs), self.decisions(of_teacher)
        assert own is not None
        assert other is not None
        return share_of_equal(own.said, other.said)

    @abstractmethod
    def constant_outputs(self) -> np.ndarray:
        """Outputs for `dev` of a model that ignores its input: the training frequencies."""

    def constant_scores(self) -> dict[str, float]:
        """Scores of a model that ignores its input."""
        return self.scores(self.constant_outputs())


def batched(count: int, size: int = 1024) -> Iterator[slice]:
    """Slices of `size` that cover `count`."""
    return (slice(start, start + size) for start in range(0, count, size))


def share_of_equal(found: np.ndarray, other: np.ndarray) -> float:
    """Share of equal rows of two arrays of one shape."""
    equal: np.ndarray = found == other
    return float(equal.all(axis=tuple(range(1, equal.ndim))).mean())


def check_score(score: str, names: tuple[str, ...], is_possible: bool, needs: str) -> None:
    """Refuse a score that these classes do not have.

    Raises:
        ConfigError: `score` is one of `names`, and those are not possible.
    """
    if score in names and not is_possible:
        raise ConfigError(f"task.score: {score} needs {needs}", "Choose another one.")


def scikit_metrics() -> Any:
    """scikit-learn's metrics, which come with the extra `eval`.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    with extra("eval", "tasks are scored with scikit-learn and SciPy"):
        from sklearn import metrics
    return metrics
