"""A teacher that is a file: its outputs, in columns of the rows or in files of their own.

Rows of files are matched with the rows of the task by a column of ids, or else by their texts: the
first row of a text with the first output for that text, the second with the second, and so on. So
the order of the files does not matter, and what they hold besides is passed over.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distilcli.config.row_outputs import RowOutputs
from distilcli.errors import ConfigError, counted
from distilcli.tasks.cells import id_of
from distilcli.tasks.examples import BadExample, Examples, is_nothing, read_examples
from distilcli.tasks.output_cells import (
    Cell,
    Meaning,
    class_cell,
    columns_cell,
    look_like_probabilities,
    number_cell,
    number_cells,
    word_cells,
)
from distilcli.tasks.output_matching import Filed, Key, Matching, keys_of
from distilcli.text.overlap import digest_of_texts


@dataclass(frozen=True)
class Columns:
    """What of the rows of a kind of task matters here.

    Attributes:
        shown: columns by which rows of files are matched.
        example: makes an example of these columns; raises `BadExample`.
        texts_of: the texts of an example.
        is_number: whether the output is a number.
        is_read: which words or documents of an example have outputs; None: an example has one
            output.
        parts_of: the texts of each part of an example whose outputs are matched one by one, such as
            query and document; None: an example is matched as a whole.
    """

    shown: Sequence[str]
    example: Callable[[dict[str, Any]], Any]
    texts_of: Callable[[Any], Sequence[str]]
    is_number: bool
    is_read: Callable[[Any], Sequence[bool]] | None
    parts_of: Callable[[Any], Sequence[Sequence[str]]] | None = None


class WrittenOutputs:
    """The outputs of a teacher for the rows of a task, as they were written down.

    Examples get an attribute `taught`: what their row says of outputs, and after `settle` the
    outputs themselves, float32 [outputs, classes], or None of a dev example that has none.

    Args:
        config: where they are.
        columns: of the rows of the task.

    Attributes:
        warnings: what looks wrong with the outputs once they are settled, in a sentence each.
    """

    def __init__(self, config: RowOutputs, columns: Columns) -> None:
        self._config = config
        self._columns = columns
        self._of_outputs = config.columns_of(columns.is_number)
        self._filed: Examples[Filed] | None = None
        self._may_be_lists = self._has_some = True
        self.warnings: list[str] = []
        if config.source is not None:
            self._filed = self._read_files()

    @property
    def are_ids_alone(self) -> bool:
        """Whether rows bring ids, and there are no outputs."""
        return self._config.are_ids_alone

    @property
    def needed(self) -> list[str]:
        """Columns that rows to train on must have; dev rows may have them."""
        if self._config.files is None and not self.are_ids_alone:
            return self._of_outputs
        return [] if self._config.id is None else [self._config.id]

    def attach(self, example: Any, values: dict[str, Any], may_lack: bool) -> Any:
        """The example with what its row says of outputs.

        Args:
            example: made of the row.
            values: of the row.
            may_lack: whether the row may be without; else that is a bad row.

        Raises:
            BadExample: see `output_cells`; or the row has no id.
        """
        cells = [values.get(column) for column in self.needed]
        if may_lack and any(is_nothing(cell) or cell == "" for cell in cells):
            return example
        if self._config.files is None and not self.are_ids_alone:
            return _with_taught(example, self._cell(values))
        if self._config.id is not None:
            return _with_taught(example, self._id(values))
        return _with_taught(example, self._keys(example))

    def names(self, train: Iterable[Any]) -> list[str] | None:
        """The classes, in the order in which the first outputs that name them do; None: none do.

        Args:
            train: examples to train on.
        """
        if self._columns.is_number or self.are_ids_alone:
            return None
        if self._config.columns is not None:
            return list(self._config.columns)
        cells: Iterable[Any] = (example.taught for example in train)
        if self._filed is not None:
            cells = (filed.outputs for filed in self._filed.usable)
        cells = list(cells)
        self._has_some = bool(cells)
        named = next((cell.names for cell in cells if cell.names is not None), None)
        return None if named is None else list(named)

    def check_order(
        self, labels: Sequence[str] | None, names: Sequence[str] | None, skip_bad_rows: bool
    ) -> None:
        """Refuse lists where nobody says which class is which.

        Args:
            labels: `task.labels`.
            names: what `names` has found.
            skip_bad_rows: whether bad rows of the files are left out.

        Raises:
            ConfigError: neither `task.labels` nor the outputs name the classes.
            DataError: the files have no outputs that could.
        """
        self._may_be_lists = labels is not None
        is_asked = not self._columns.is_number and not self.are_ids_alone
        if labels is not None or names is not None or not is_asked:
            return
        if self._has_some:
            raise ConfigError(
                "task.labels: the teacher's outputs are lists, and nothing says which class each "
                "value is of",
                "List the classes in task.labels, in the order of the outputs; or write the "
                "outputs as objects, by class.",
            )
        if self._filed is not None:
            self._filed.check(skip_bad_rows)

    def settle(
        self,
        train: Sequence[Examples[Any]],
        dev: Examples[Any],
        labels: Sequence[str],
        one_is_right: bool,
        skip_bad_rows: bool,
    ) -> None:
        """Give every example its outputs; those to train on that have none are bad rows.

        Args:
            train: examples to train on, of each source.
            dev: those to be measured on.
            labels: the classes, in the order of their ids.
            one_is_right: whether probabilities of the classes add up to 1.
            skip_bad_rows: whether bad rows of the files are left out.

        Raises:
            DataError: rows of the files are bad, or one text has several outputs and nothing says
                which row each is for.
        """
        if self.are_ids_alone:
            return
        meaning = Meaning(
            labels,
            self._config.holds == "probabilities",
            not one_is_right,
            self._columns.is_number,
            self._may_be_lists,
        )
        if self._filed is None:
            for split in (*train, dev):
                split.change(lambda one: self._of_row(one, meaning))
        else:
            self._filed.change(lambda filed: replace(filed, outputs=meaning.logits(filed.outputs)))
            self._filed.check(skip_bad_rows)
            matching = Matching(self._filed, train, dev, self._config.id)
            for split in train:
                split.change(lambda one: self._of_file(one, matching.for_train))
            dev.change(lambda one: self._of_file(one, matching.for_dev))
        self._doubt(meaning, [one.taught for split in train for one in split.usable])

    def _doubt(self, meaning: Meaning, outputs: Sequence[np.ndarray]) -> None:
        """Warn of logits that look like probabilities, of which the softmax is nearly even."""
        if meaning.are_probabilities or meaning.is_number or not outputs:
            return
        if look_like_probabilities(np.concatenate(outputs), meaning.any_of):
            each = "each is from 0 to 1" + ("" if meaning.any_of else ", and they add up to 1")
            self.warnings.append(
                f"task.teacher_outputs.holds: logits, but the outputs look like probabilities: "
                f"{each}; if that is what they are, set it to probabilities"
            )

    def _of_row(self, example: Any, meaning: Meaning) -> Any:
        """An example with the outputs that its row brings."""
        if example.taught is None:
            return example
        return self._settled(example, meaning.logits(example.taught))

    def _of_file(self, example: Any, find: Callable[[Any, bytes], Filed | None]) -> Any:
        """An example with the outputs that rows of the files have for it."""
        if self._columns.parts_of is not None:
            return _with_taught(example, self._of_parts(keys_of(example), find))
        [key] = keys_of(example)
        row = find(key, self._texts(example))
        if row is None:
            return _with_taught(example, None)
        try:
            return self._settled(example, row.outputs)
        except BadExample as error:
            raise BadExample(f"{error}, in {row.place}") from None

    def _of_parts(
        self, keys: Sequence[Key], find: Callable[[Any, Any], Filed | None]
    ) -> np.ndarray | None:
        """The outputs of all parts of an example, [parts, 1]; None: some have none."""
        rows = []
        for number, key in enumerate(keys, start=1):
            try:
                rows.append(find(key, key))
            except BadExample as error:
                raise BadExample(f"document {number}: {error}") from None
        known = [row.outputs for row in rows if row is not None]
        return np.stack(known) if len(known) == len(rows) else None

    def _settled(self, example: Any, found: np.ndarray) -> Any:
        """An example with its outputs, of those of its words that have some."""
        if self._columns.is_read is None:
            return _with_taught(example, found[None])
        is_read = np.array(self._columns.is_read(example), dtype=bool)
        self._check_number(len(is_read), len(found))
        missing = np.flatnonzero(is_read & np.isnan(found).any(axis=1))
        if len(missing):
            raise BadExample(f"no outputs of the teacher for word {missing[0] + 1}")
        return _with_taught(example, found[is_read])

    def _check_number(self, read: int, found: int) -> None:
        if read != found:
            what = "document" if self._columns.is_number else "word"
            raise BadExample(f"{counted(read, what)}, but outputs for {found:,}")

    def _keys(self, example: Any) -> Key | tuple[Key, ...]:
        if self._columns.parts_of is None:
            return self._texts(example)
        return tuple(digest_of_texts(*texts) for texts in self._columns.parts_of(example))

    def _texts(self, example: Any) -> bytes:
        return digest_of_texts(*self._columns.texts_of(example))

    def _cell(self, values: dict[str, Any]) -> Cell:
        if self._config.columns is not None:
            return columns_cell(
                list(self._config.columns), [values[column] for column in self._of_outputs]
            )
        value = values[self._of_outputs[0]]
        if self._columns.is_number:
            has_one = self._columns.is_read is None
            return number_cell(value) if has_one else number_cells(value)
        return class_cell(value) if self._columns.is_read is None else word_cells(value)

    def _id(self, values: dict[str, Any]) -> str:
        column = str(self._config.id)
        return id_of(values[column], column)

    def _read_files(self) -> Examples[Filed]:
        """The rows of the files; texts must be there where rows are matched by them."""
        shown = list(self._columns.shown)
        by_id = self._config.id is not None

        def convert(values: dict[str, Any]) -> list[Filed]:
            texts, cell = b"", self._cell(values)
            keys: Key | tuple[Key, ...] = texts
            if all(column in values for column in shown):
                example = self._columns.example(values)
                texts, keys = self._texts(example), self._keys(example)
                if self._columns.is_read is not None:
                    self._check_number(len(self._columns.is_read(example)), len(cell.values))
            if isinstance(keys, tuple):
                parts = zip(keys, cell.values, strict=True)
                return [Filed(key, None, Cell(None, value)) for key, value in parts]
            return [Filed(self._id(values) if by_id else keys, texts or None, cell)]

        assert self._config.source is not None
        needed = [str(self._config.id)] if by_id else shown
        rows = read_examples(
            self._config.source,
            "task.teacher_outputs",
            list(dict.fromkeys([*needed, *self._of_outputs])),
            convert,
            {},
            optional=shown,
        )
        found: Examples[Filed] = Examples(rows.name, bad=rows.bad)
        for place, row in zip(rows.places, rows.usable, strict=True):
            found.usable += [replace(filed, place=place) for filed in row]
            found.places += [place] * len(row)
        return found


def _with_taught(example: Any, taught: Any) -> Any:
    return replace(example, taught=taught)


def outputs_of(examples: Sequence[Any]) -> np.ndarray | None:
    """The outputs of examples end to end, float32 [outputs, classes]; None: some have none."""
    if not examples or any(example.taught is None for example in examples):
        return None
    return np.concatenate([example.taught for example in examples])
