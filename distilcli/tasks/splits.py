"""The examples of a task: to train on, with or without labels, and to be measured on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distilcli.config.data import TransferFiles
from distilcli.config.tasks import RowTask
from distilcli.tasks.examples import Examples, read_examples
from distilcli.tasks.inputs import Cut

Example = TypeVar("Example")
_TEXT_ENDINGS = dict.fromkeys((".txt", ".text"), "text")


@dataclass(frozen=True)
class RowReader(Generic[Example]):
    """How the rows of a kind of task become examples.

    Attributes:
        shown: columns of what a model is shown.
        labels: columns of what is asked.
        convert: makes an example of these columns, given also whether it may lack a label; raises
            `BadExample`.
        unlabelled: makes an example without a label of the columns `shown`, likewise.
        has_label: whether an example has one.
        endings: formats of this task's own, by the ending of a file's name.
        as_row: makes the columns `shown` of a line of plain text; None: a line cannot be a row.
        joined: puts rows together where several of them make one example.
    """

    shown: list[str]
    labels: list[str]
    convert: Callable[[dict[str, Any], bool], Example]
    unlabelled: Callable[[dict[str, Any]], Example]
    has_label: Callable[[Example], bool]
    endings: dict[str, str]
    as_row: Callable[[str], dict[str, Any]] | None = None
    joined: Callable[[Examples[Example]], Examples[Example]] = lambda rows: rows


@dataclass
class Splits(Generic[Example]):
    """All examples of a task.

    Attributes:
        train: those to train on that have a label.
        unlabelled: those of `task.train` that have none.
        transfer: those of `task.transfer`, whose labels nobody looks at.
        dev: those to be measured on.
        has_train: whether there is a `task.train`.
        has_transfer: whether there is a `task.transfer`.
    """

    train: Examples[Example]
    unlabelled: Examples[Example]
    transfer: Examples[Example]
    dev: Examples[Example]
    has_train: bool
    has_transfer: bool

    @property
    def num_unlabelled(self) -> int:
        """Examples to train on that only a teacher labels."""
        return len(self.unlabelled.usable) + len(self.transfer.usable)


@dataclass(frozen=True)
class Unlabelled:
    """What of the training inputs only a teacher labels: the last ones.

    Attributes:
        examples: of `task.train`, and of `task.transfer`.
        inputs: likewise.
        cut: what of both is in no input.
    """

    examples: tuple[int, int]
    inputs: tuple[int, int]
    cut: Cut


def read_splits(
    config: RowTask, reader: RowReader[Example], may_lack_labels: bool
) -> Splits[Example]:
    """Read the rows of a task.

    Args:
        config: where they are.
        reader: of this kind of task.
        may_lack_labels: whether a row to train on may be without a label; else it is a bad one.

    Raises:
        ConfigError, DataError: see `read_examples`.
    """

    def example(values: dict[str, Any]) -> Example:
        return reader.convert(values, False)

    def for_a_teacher(values: dict[str, Any]) -> Example:
        return reader.convert(values, may_lack_labels)

    needed, endings = [*reader.shown, *reader.labels], reader.endings
    train: Examples[Example] = Examples("task.train")
    if config.train is not None:
        train = reader.joined(
            read_examples(config.train, "task.train", needed, for_a_teacher, endings)
        )
    unlabelled = train.take_out(lambda one: not reader.has_label(one))
    transfer: Examples[Example] = Examples("task.transfer")
    if config.transfer is not None:
        has_text = isinstance(config.transfer, TransferFiles) and reader.as_row is not None
        rows = read_examples(
            config.transfer,
            "task.transfer",
            reader.shown,
            reader.unlabelled,
            endings | (_TEXT_ENDINGS if has_text else {}),
            as_row=reader.as_row,
        )
        transfer = reader.joined(rows)
    dev = reader.joined(read_examples(config.dev, "task.dev", needed, example, endings))
    has_train, has_transfer = config.train is not None, config.transfer is not None
    return Splits(train, unlabelled, transfer, dev, has_train, has_transfer)
