"""Rows of a task's sources, and what becomes of those that cannot be used.

A row that is wrong does not stop the reading: all of them are found, then refused together, each
with its file, its number and the reason, or with `task.skip_bad_rows` left out and counted.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from distilcli.config.data import RowFiles, RowHub
from distilcli.errors import ConfigError, DataError, ModelError, counted, either
from distilcli.text.conll import conll_rows, is_like_conll
from distilcli.text.globs import matching_files
from distilcli.text.hub import hub_rows
from distilcli.text.lines import plain_rows, text_lines
from distilcli.text.row import BadRow, Row, encodable
from distilcli.text.row_formats import read_rows
from distilcli.text.sources import ENDINGS
from distilcli.text.squad import squad_rows

_SHOWN = 10
_ROW_FORMATS = ("jsonl", "csv", "tsv", "parquet")
Example = TypeVar("Example")


class BadExample(Exception):
    """Raised while a row is made an example: why it cannot be one."""


class NoLabel(BadExample):
    """Raised where a cell says that there is no label, so that a teacher may be asked for one."""


@dataclass
class Examples(Generic[Example]):
    """The usable examples of one split, and the rows that are not.

    Attributes:
        name: of the files or the data set, for messages.
        usable: the examples.
        places: where each of them is.
        bad: place and reason of each row that is none.
    """

    name: str
    usable: list[Example] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def check(self, skip_bad_rows: bool, num_others: int = 0) -> None:
        """Refuse bad rows, unless they are to be skipped.

        Args:
            skip_bad_rows: leave them out.
            num_others: usable examples of the same source that are kept elsewhere.

        Raises:
            DataError: some rows are bad, or none is usable.
        """
        if self.bad and not skip_bad_rows:
            more = len(self.bad) - _SHOWN
            raise DataError(
                f"{self.name}: {counted(len(self.bad), 'bad row')}",
                "Fix them, or leave them out with task.skip_bad_rows=true.",
                [*self.bad[:_SHOWN], *([f"and {more:,} more"] if more > 0 else [])],
            )
        if not self.usable and not num_others:
            bad = counted(len(self.bad), "bad one")
            but = f" but {bad}, first {self.bad[0]}" if self.bad else ""
            raise DataError(f"{self.name}: there are no rows{but}")

    def change(self, change: Callable[[Example], Example]) -> None:
        """Change every usable example; those of which `change` raises `BadExample` are bad."""
        kept = []
        for place, example in zip(self.places, self.usable, strict=True):
            try:
                kept.append((place, change(example)))
            except BadExample as error:
                self.bad.append(f"{place}: {error}")
        self.places[:] = [place for place, _ in kept]
        self.usable[:] = [example for _, example in kept]

    def take_out(self, wanted: Callable[[Example], bool]) -> "Examples[Example]":
        """Take some of the usable examples out, into examples of the same name."""
        taken: Examples[Example] = Examples(self.name)
        kept: Examples[Example] = Examples(self.name)
        for place, example in zip(self.places, self.usable, strict=True):
            side = taken if wanted(example) else kept
            side.places.append(place)
            side.usable.append(example)
        self.places, self.usable = kept.places, kept.usable
        return taken


@contextmanager
def bad_rows_first(
    train: Examples[Any],
    dev: Examples[Any],
    skip_bad_rows: bool,
    num_others: int = 0,
    others: Sequence[Examples[Any]] = (),
) -> Iterator[None]:
    """Where classes cannot be told in the block, refuse bad rows, which may be why, instead.

    Args:
        train: training examples with labels.
        dev: dev examples.
        skip_bad_rows: bad rows are left out.
        num_others: training examples without labels.
        others: more examples that may tell them.
    """
    try:
        yield
    except (ConfigError, DataError, ModelError):
        for split in others:
            split.check(skip_bad_rows)
        train.check(skip_bad_rows, num_others)
        dev.check(skip_bad_rows)
        raise


def is_nothing(value: Any) -> bool:
    """Whether a cell holds nothing: null, or the NaN that tables have in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def read_examples(
    source: RowFiles | RowHub,
    key: str,
    needed: list[str],
    convert: Callable[[dict[str, Any]], Example],
    by_ending: dict[str, str],
    optional: Sequence[str] = (),
    as_row: Callable[[str], dict[str, Any]] | None = None,
) -> Examples[Example]:
    """Every example of a source.

    Args:
        source: files or a data set.
        key: its dotted place in the experiment, for messages.
        needed: columns that rows must have.
        convert: makes an example of a row, or raises `BadExample`. It is given the needed columns,
            and the optional ones that the row has.
        by_ending: formats of this task's own, by the ending of a file's name.
        optional: columns that rows may have.
        as_row: makes the columns of a line of plain text; None: a row cannot be plain text.

    Raises:
        ConfigError: the format of a file is unknown.
        DataError: a file or data set as a whole cannot be read.
    """
    examples: Examples[Example] = Examples(_name(source))
    for where, row in _rows(source, key, needed, by_ending, optional, as_row):
        if isinstance(row, BadRow):
            examples.bad.append(f"{where}: {row.reason}")
            continue
        missing = [column for column in needed if column not in row.values]
        try:
            if missing:
                names = ", ".join(map(str, row.values))
                raise BadExample(f"no column {missing[0]!r}; there are: {names}")
            there = [*needed, *(column for column in optional if column in row.values)]
            values = {column: encodable(row.values[column]) for column in there}
            examples.usable.append(convert(values))
            examples.places.append(where)
        except BadExample as error:
            examples.bad.append(f"{where}: {error}")
    return examples


def first_values(source: RowFiles, columns: Sequence[str]) -> dict[str, Any]:
    """What the first row of some files has in these columns; nothing where it is no row.

    Raises:
        ConfigError, DataError: see `read_examples`.
    """
    for _, row in _rows(source, "files", [], {}, columns, None):
        return {} if isinstance(row, BadRow) else dict(row.values)
    return {}


def _name(source: RowFiles | RowHub) -> str:
    return source.hub if isinstance(source, RowHub) else ", ".join(source.files)


def _rows(
    source: RowFiles | RowHub,
    key: str,
    needed: list[str],
    by_ending: dict[str, str],
    optional: Sequence[str],
    as_row: Callable[[str], dict[str, Any]] | None,
) -> Iterator[tuple[str, Row | BadRow]]:
    """Each row with where it is."""
    if isinstance(source, RowHub):
        for number, values in enumerate(hub_rows(source, needed, optional), start=1):
            yield f"{source.hub} {source.split} row {number}", Row(number, values)
        return
    for path in matching_files(source.files, key):
        if path.suffix == ".conllu" and source.columns is None:
            raise ConfigError(
                f"{key}.columns: must be said for {path}",
                "Such as [id, form, lemma, upos, xpos, feats, head, deprel, deps, misc], with "
                "task.words=form task.tags=upos.",
            )
        formats = {*_ROW_FORMATS, *by_ending.values(), *(["text"] if as_row else [])}
        file_format = source.format
        if file_format == "auto":
            file_format = _format_of(path, by_ending, key, formats)
        elif file_format not in formats:
            raise ConfigError(
                f"{key}.format: {file_format} is not for a task of this kind",
                f"Set it to {_known(formats)}.",
            )
        try:
            with path.open("rb") as raw:
                for row in _file_rows(path, raw, file_format, needed, source, optional, as_row):
                    yield f"{path} {row.unit} {row.number}", row
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error})") from error


def _file_rows(
    path: Path,
    raw: Any,
    file_format: str,
    needed: list[str],
    source: RowFiles,
    optional: Sequence[str],
    as_row: Callable[[str], dict[str, Any]] | None,
) -> Iterator[Row | BadRow]:
    columns = source.columns
    if file_format == "squad":
        return squad_rows(path, "".join(text_lines(path, raw)), "answers" in needed)
    if file_format == "conll":
        return conll_rows(text_lines(path, raw), needed, columns)
    if as_row is not None and file_format == "text":
        return plain_rows(text_lines(path, raw), as_row)
    return read_rows(path, raw, file_format, needed, columns, optional)  # type: ignore[arg-type]


def _format_of(path: Path, by_ending: dict[str, str], key: str, formats: set[str]) -> Any:
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    last = endings[-1] if endings else ""
    file_format = by_ending.get(last) or ENDINGS.get(last)
    if file_format == "text" and "text" not in formats:
        raise ConfigError(
            f"{key}.format: {path} is plain text, and these rows need columns",
            f"Set it to {_known(formats)}, if the file is that.",
        )
    if file_format not in formats:
        raise ConfigError(
            f"{key}.format: {path} has no ending that tells its format",
            f"Set it to {_known(formats)}.",
        )
    if file_format == "text" and "conll" in formats and _is_like_conll(path):
        raise ConfigError(
            f"{key}.format: {path} looks like columns of CoNLL, a word a line",
            "Set it to conll; or to text, if each line is a sentence.",
        )
    return file_format


def _known(formats: set[str]) -> str:
    """The formats that rows of a kind of task may have, in words."""
    order = ["text", *_ROW_FORMATS, "squad", "conll"]
    return either([one for one in order if one in formats])


def _is_like_conll(path: Path) -> bool:
    with path.open("rb") as raw:
        return is_like_conll(text_lines(path, raw))
