"""The examples of a task: to train on, with or without labels, and to be measured on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distilcli.config.data import TransferFiles
from distilcli.config.tasks import RowTask
from distilcli.tasks.examples import Examples, read_examples
from distilcli.tasks.inputs import Cut
from distilcli.tasks.written_outputs import Columns, WrittenOutputs

Example = TypeVar("Example")
Settings = TypeVar("Settings", bound=RowTask)
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
        texts_of: what a model is shown of an example.
        is_read: which words of an example have outputs; None: an example has one output.
        parts_of: see `Columns`.
        matched: columns by which rows are matched with those of files; None: `shown`.
    """

    shown: list[str]
    labels: list[str]
    convert: Callable[[dict[str, Any], bool], Example]
    unlabelled: Callable[[dict[str, Any]], Example]
    has_label: Callable[[Example], bool]
    endings: dict[str, str]
    as_row: Callable[[str], dict[str, Any]] | None = None
    joined: Callable[[Examples[Example]], Examples[Example]] = lambda rows: rows
    texts_of: Callable[[Example], Sequence[str]] = lambda _: ()
    is_read: Callable[[Example], Sequence[bool]] | None = None
    parts_of: Callable[[Example], Sequence[Sequence[str]]] | None = None
    matched: list[str] | None = None


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
        written: a teacher's outputs for the examples, where a file is the teacher; else None.
    """

    train: Examples[Example]
    unlabelled: Examples[Example]
    transfer: Examples[Example]
    dev: Examples[Example]
    has_train: bool
    has_transfer: bool
    written: WrittenOutputs | None = None

    @property
    def to_train(self) -> list[Examples[Example]]:
        """Those to train on, in the order of their inputs."""
        return [self.train, self.unlabelled, self.transfer]

    @property
    def others(self) -> list[Examples[Example]]:
        """Those of `task.transfer`, where there is one."""
        return [self.transfer] if self.has_transfer else []

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
    written = _written_outputs(config, reader)
    brought = [] if written is None else written.needed

    def taught(example: Example, values: dict[str, Any], is_dev: bool = False) -> Example:
        if written is None:
            return example
        found: Example = written.attach(example, values, is_dev)
        return found

    def for_dev(values: dict[str, Any]) -> Example:
        return taught(reader.convert(values, False), values, is_dev=True)

    def for_a_teacher(values: dict[str, Any]) -> Example:
        return taught(reader.convert(values, may_lack_labels), values)

    def unlabelled_one(values: dict[str, Any]) -> Example:
        return taught(reader.unlabelled(values), values)

    needed, endings = [*reader.shown, *reader.labels], reader.endings
    train: Examples[Example] = Examples("task.train")
    if config.train is not None:
        train = reader.joined(
            read_examples(config.train, "task.train", [*needed, *brought], for_a_teacher, endings)
        )
    unlabelled = train.take_out(lambda one: not reader.has_label(one))
    transfer: Examples[Example] = Examples("task.transfer")
    if config.transfer is not None:
        has_text = isinstance(config.transfer, TransferFiles) and reader.as_row is not None
        rows = read_examples(
            config.transfer,
            "task.transfer",
            [*reader.shown, *brought],
            unlabelled_one,
            endings | (_TEXT_ENDINGS if has_text else {}),
            as_row=reader.as_row,
        )
        transfer = reader.joined(rows)
    dev = reader.joined(
        read_examples(config.dev, "task.dev", needed, for_dev, endings, optional=brought)
    )
    has_train, has_transfer = config.train is not None, config.transfer is not None
    return Splits(train, unlabelled, transfer, dev, has_train, has_transfer, written)


def _written_outputs(config: RowTask, reader: RowReader[Example]) -> WrittenOutputs | None:
    """A teacher's outputs, where a file is the teacher."""
    if config.teacher_outputs is None:
        return None
    columns = Columns(
        reader.matched or reader.shown,
        reader.unlabelled,
        reader.texts_of,
        config.asks_for_number,
        reader.is_read,
        reader.parts_of,
    )
    return WrittenOutputs(config.teacher_outputs, columns)


def named_by_outputs(config: Settings, splits: Splits[Any]) -> Settings:
    """The settings with the classes that a teacher's outputs name, where they list none.

    Raises:
        ConfigError: neither the settings nor the outputs name the classes.
        DataError: there are no outputs.
    """
    if splits.written is None or config.teacher_outputs is None:
        return config
    given = getattr(config, "labels", None)
    names = splits.written.names(one for split in splits.to_train for one in split.usable)
    splits.written.check_order(given, names, config.skip_bad_rows)
    if given is not None or names is None:
        return config
    return config.model_copy(update={"labels": names})
