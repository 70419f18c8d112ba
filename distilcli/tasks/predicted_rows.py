"""Rows of a task with a model's outputs, as `distilcli predict` writes them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from distilcli.errors import ConfigError
from distilcli.files.json_text import to_json
from distilcli.tasks.length_read import LENGTH_COLUMN
from distilcli.tasks.task import OpenTask

ENDINGS = (".jsonl", ".parquet")
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class PredictedRows:
    """What is written of each row besides its outputs.

    Attributes:
        task: knows what examples show.
        labels: names of the outputs; empty: they are numbers.
        column: of the outputs.
        id_column: of the ids; None: there are none.
        longest: tokens of a text that the model reads, where some texts have more; else None.
    """

    task: OpenTask
    labels: Sequence[str]
    column: str
    id_column: str | None
    longest: int | None

    @classmethod
    def of(
        cls,
        task: OpenTask,
        is_number: bool,
        column: str | None,
        id_column: str | None,
        longest: int | None = None,
    ) -> Self:
        """Rows of a task that was opened.

        Args:
            task: it keeps its examples to train on.
            is_number: whether its output is a number.
            column: of the outputs; None: `logits`, or `score` of numbers.
            id_column: of the ids; None: there are none.
            longest: tokens of a text that the model reads at most; None: it is not known.

        Raises:
            ConfigError: one column would be two things.
        """
        column = column or ("score" if is_number else "logits")
        others = [*task.shown_columns, *([] if id_column is None else [id_column])]
        # Rows of another meaning may have a column of that name: then the length is not said.
        if LENGTH_COLUMN in (*others, column) or not _is_cut(task):
            longest = None
        if column in others:
            raise ConfigError(
                f"{column}: the rows have a column of this name, and so has the file to write",
                "Name the column of the outputs: task.teacher_outputs.column.",
            )
        return cls(task, [] if is_number else task.labels, column, id_column, longest)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        ids = [] if self.id_column is None else [self.id_column]
        length = [] if self.longest is None else [LENGTH_COLUMN]
        return list(dict.fromkeys([*ids, *self.task.shown_columns, self.column, *length]))

    def __len__(self) -> int:
        return sum(len(self.task.written_rows(example)) for example in self.task.examples)

    def rows(self, outputs: Iterable[np.ndarray]) -> Iterator[dict[str, Any]]:
        """Each row with its outputs.

        Args:
            outputs: of all of them, some at a time, float32 [outputs, classes].
        """
        coming = (self._written(row) for some in outputs for row in shortest(some))
        for example in self.task.examples:
            for shown, is_read in self.task.written_rows(example):
                row: dict[str, Any] = {}
                if self.id_column is not None:
                    row[self.id_column] = example.taught
                row |= shown
                if is_read is None:
                    row[self.column] = next(coming)
                else:
                    row[self.column] = [next(coming) if one else None for one in is_read]
                if self.longest is not None:
                    row[LENGTH_COLUMN] = self.longest
                yield row

    def _written(self, values: Sequence[float]) -> Any:
        if not self.labels:
            return values[0]
        return dict(zip(self.labels, values, strict=True))


def _is_cut(task: OpenTask) -> bool:
    """Whether some row to train on is not shown as a whole, in one input."""
    cuts = [task.cuts[0], *([] if task.unlabelled is None else [task.unlabelled.cut])]
    is_parted = task.head == "token" and len(task.train) > len(task.examples)
    return is_parted or any(cut.inputs for cut in cuts)


def shortest(outputs: np.ndarray) -> list[list[float]]:
    """Numbers of float32 as those of float64 with the fewest digits that are read back as them."""
    short = outputs.astype(str).astype(np.float64)
    is_same = short.astype(np.float32) == outputs
    found: list[list[float]] = np.where(is_same, short, outputs.astype(np.float64)).tolist()
    return found


def write_rows(rows: PredictedRows, outputs: Iterable[np.ndarray], path: Path, ending: str) -> None:
    """Write all rows to a new file.

    Args:
        rows: what is written of each.
        outputs: see `PredictedRows.rows`.
        path: of the file.
        ending: one of `ENDINGS`, which says the format.

    Raises:
        OSError: it cannot be written.
    """
    if ending == ".parquet":
        _write_parquet(rows, outputs, path)
        return
    with path.open("w", encoding="utf-8") as file:
        for row in rows.rows(outputs):
            file.write(to_json(row) + "\n")


def _write_parquet(rows: PredictedRows, outputs: Iterable[np.ndarray], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    of_row: Any = pa.float32()
    if rows.labels:
        of_row = pa.struct([(label, pa.float32()) for label in rows.labels])
    if rows.task.lists_outputs:
        of_row = pa.list_(of_row)
    types: dict[str, Any] = dict.fromkeys(rows.task.listed_columns, pa.list_(pa.string()))
    types |= {rows.column: of_row, LENGTH_COLUMN: pa.int32()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in rows.columns])
    with pq.ParquetWriter(path, schema) as writer:
        some: list[dict[str, Any]] = []
        for row in rows.rows(outputs):
            some.append(row)
            if len(some) == _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(some, schema))
                some = []
        if some:
            writer.write_table(pa.Table.from_pylist(some, schema))
