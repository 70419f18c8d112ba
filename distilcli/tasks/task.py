"""What a task is to the rest: inputs, an output head, a family of losses, scores."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from distilcli.errors import ConfigError, ModelError, extra
from distilcli.overlap import Overlap, overlap, text_digest
from distilcli.tasks.examples import BadExample, Examples
from distilcli.tasks.inputs import Cut, Inputs
from distilcli.tasks.labels import Classes, check_found, class_key

# Where outputs are read: the first token of an input, the first token of each word, every token.
Head = Literal["sequence", "token", "span"]
# What outputs are: logits of classes of which one is right, logits of classes of which each is
# right or not, numbers.
Family = Literal["one-of", "any-of", "number"]

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
        family: what outputs are.
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
        positive: of two classes the one that the scores f1 and accuracy_f1 are of; else None.
    """

    head: Head
    family: Family
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
    positive: str | None = None

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
        trained, measured = ([text_digest(*texts_of(x)) for x in s.usable] for s in (train, dev))
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
    def agreement(self, outputs: np.ndarray, of_teacher: np.ndarray) -> float:
        """How far one model's answers are another's, whatever is right; see `agreement_means`.

        Args:
            outputs: float32 [rows, outputs], in the order of `dev`.
            of_teacher: those of the other one.

        Returns:
            1 where they are all the same.
        """

    @abstractmethod
    def constant_outputs(self) -> np.ndarray:
        """What a model that looks at no input would put out for `dev`: the training frequencies."""


def batched(count: int, size: int = 1024) -> Iterator[slice]:
    """Slices of `size` that cover `count`."""
    return (slice(start, start + size) for start in range(0, count, size))


def class_names(
    found: set[str], given: list[str] | None, of_teacher: list[str] | None
) -> list[str]:
    """Classes in the order of their ids: as the experiment lists them, the teacher's, or as found.

    Args:
        found: classes of the training examples.
        given: `task.labels`.
        of_teacher: names in the configuration of a fine-tuned teacher; None where it has none.

    Raises:
        ConfigError: `task.labels` are not different from one another, or fewer than two.
        DataError: the classes of the examples cannot be told from one another.
        ModelError: the teacher's classes are others than the experiment's or the data's.
    """
    check_found(found)
    names = given or sorted(found, key=_by_number)
    if len(set(names)) != len(names) or len(names) < 2:
        raise ConfigError(
            f"task.labels: {', '.join(names) or 'none'}", "A task needs two classes or more."
        )
    if of_teacher is None:
        return names
    generic = all(name == f"LABEL_{index}" for index, name in enumerate(of_teacher))
    # Data that has ids and no names says nothing about the teacher's names.
    are_ids = names == [str(index) for index in range(len(names))]
    alike = same_classes(of_teacher, names)
    generic = generic or (are_ids and not alike)
    if not alike and not (generic and len(of_teacher) == len(names)):
        raise ModelError(
            f"the teacher's classes are {_few(of_teacher)}, the task's are {_few(names)}",
            _way_out(names, of_teacher),
        )
    if generic:
        return names
    if given is None:
        return of_teacher
    if [class_key(name) for name in of_teacher] != [class_key(name) for name in names]:
        raise ModelError(
            f"the teacher's classes are in the order {_few(of_teacher)}, task.labels says "
            f"{_few(names)}",
            f"List them in the teacher's order: task.labels=[{', '.join(of_teacher)}]",
        )
    return names


def same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists name the same classes, in any order; capitals do not count.

    They do where a class of the first list would not be one any more without its capitals.
    """
    keys = {class_key(name) for name in one}
    if len(keys) < len(one):
        return set(one) == set(other)
    return keys == {class_key(name) for name in other}


def _way_out(names: Sequence[str], of_teacher: Sequence[str]) -> str:
    """What to do where the teacher's classes are not the task's."""
    if {class_key(name) for name in names} < {class_key(name) for name in of_teacher}:
        return (
            f"The rows have only some of them: list them all, task.labels=[{', '.join(of_teacher)}]"
        )
    return (
        "Use a teacher that was fine-tuned on this task. If its classes mean the same, give them "
        "the names of the rows, in id2label of its config.json."
    )


def positive_class(
    labels: Sequence[str], named: str | None, given: Sequence[str] | None
) -> str | None:
    """The class of two that F1 is of, whatever the order of a teacher's outputs.

    Args:
        labels: of the outputs.
        named: `task.positive`.
        given: `task.labels`, of which else the last is taken; None: the last one, sorted.

    Returns:
        One of the labels; None where there are more than two.

    Raises:
        ConfigError: one is named that there is not, or where there are more than two.
    """
    if len(labels) != 2:
        if named is not None:
            raise ConfigError(
                f"task.positive: {named}, but there are {len(labels)} classes",
                "Leave it out: macro_f1 is the mean of F1 over classes.",
            )
        return None
    last = given[-1] if given else max(labels, key=lambda name: _by_number(class_key(name)))
    try:
        return Classes(labels).name_of(named if named is not None else last)
    except BadExample as error:
        raise ConfigError(f"task.positive: {error}", "Name one of them.") from None


def _by_number(name: str) -> tuple[bool, float, str]:
    """Sorts 2 before 10, and numbers before words."""
    try:
        number = float(name)
    except ValueError:
        number = math.inf
    return (False, number, name) if math.isfinite(number) else (True, 0.0, name)


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


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
