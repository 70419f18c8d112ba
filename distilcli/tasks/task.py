"""The interface of a task: inputs, where outputs are read, what they are, scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from distilcli.errors import ConfigError, extra
from distilcli.tasks.decisions import Decisions
from distilcli.tasks.examples import Examples
from distilcli.tasks.inputs import Cut, Inputs
from distilcli.tasks.outputs import Head, Outputs
from distilcli.text.overlap import Overlap, digest_of_texts, overlap

_MUCH_CUT = 0.05  # of the tokens


@dataclass(frozen=True)
class Skipped:
    """Rows that were left out.

    Attributes:
        train: of the training examples.
        dev: of the dev examples.
    """

    train: int = 0
    dev: int = 0


class OpenTask(ABC):
    """A task with its examples read and made inputs.

    Attributes:
        head: where outputs are read.
        outputs: what they are.
        labels: names of the outputs, in order.
        train: inputs to train on.
        dev: inputs to be measured on.
        num_examples: of the training and of the dev split; there may be more inputs than examples.
        skipped: bad rows that were left out.
        overlap: dev examples that are trained on, too.
        cuts: what of the training and of the dev texts is in no input, because it is too long.
        warnings: what a user should know of the rows, in a sentence each.
        unknown_shares: of the tokens of the training and of the dev inputs, how many are [UNK].
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
    num_examples: tuple[int, int]
    skipped: Skipped
    overlap: Overlap
    warnings: list[str]
    unknown_shares: tuple[float, float]
    score: str
    agreement_means: str
    own_readers: frozenset[str] = frozenset()
    positive: str | None = None
    notes: Sequence[str] = ()
    is_scored_by_scikit: ClassVar[bool] = True
    knowing_nothing: ClassVar[str] = "knowing only how frequent labels are"

    def keep_usable(
        self,
        train: Examples[Any],
        dev: Examples[Any],
        skip_bad_rows: bool,
        named: Callable[[Any], Any],
        texts_of: Callable[[Any], Sequence[str]],
    ) -> None:
        """Refuse or leave out what is bad in both splits, count what is left, compare them.

        Args:
            train: training examples; those of unknown classes are among the bad ones afterwards.
            dev: dev examples, likewise.
            skip_bad_rows: leave bad rows out.
            named: an example with its classes as `labels` has them; raises `BadExample`.
            texts_of: what a model is shown of an example.

        Raises:
            DataError: see `Examples.check`.
        """
        for split in (train, dev):
            split.change(named)
            split.check(skip_bad_rows)
        self.num_examples = len(train.usable), len(dev.usable)
        self.skipped = Skipped(len(train.bad), len(dev.bad))
        trained, measured = (
            [digest_of_texts(*texts_of(x)) for x in s.usable] for s in (train, dev)
        )
        self.overlap = overlap(trained, measured, ("task.train", "task.dev"), "rows")
        self.warnings = [self.overlap.warning] if self.overlap.warning else []

    def say_cuts(self, train: Cut, dev: Cut, key: str, limit: int | None) -> None:
        """Keep what of the texts is in no input, and warn where that is much.

        Args:
            train: of the training texts.
            dev: of the dev texts.
            key: the setting that cuts them.
            limit: its value, in tokens.
        """
        self.cuts = train, dev
        for split, cut in (("train", train), ("dev", dev)):
            if cut.share > _MUCH_CUT:
                self.warnings.append(
                    f"task.{split}: {key} {limit} cuts {cut.share:.1%} of the tokens, in "
                    f"{cut.inputs:,} texts; raise it, as far as the models have positions"
                )

    def title(self, score: str) -> str:
        """A score as tables name it: with the class that it is of, where it is of one."""
        is_of_one = self.positive is not None and score in ("f1", "accuracy_f1")
        return f"{score} ({self.positive})" if is_of_one else score

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
