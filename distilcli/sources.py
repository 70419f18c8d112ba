"""Documents out of files and hub data sets, one after another, in bounded memory.

A source is resolved first (globs, formats, columns: mistakes show before any work is done), then
read. Every error says which file and which line or row it is about.

    inputs = resolve(experiment.data.sources, "data.sources")
    for text in Reader(inputs).documents(inputs): ...
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distilcli.config import FilesSource, HubSource
from distilcli.errors import ConfigError, DataError
from distilcli.formats import FileFormat, InputFile, checked_text, missing_column, read_documents
from distilcli.globs import file_id, is_saved_data_set, matching_files
from distilcli.hub import hub_answer
from distilcli.rows import NO_LABEL
from distilcli.schema import resolve_path
from distilcli.task_config import RowHub

ENDINGS: dict[str, FileFormat] = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}

Input = InputFile | HubSource


def resolve(sources: Sequence[FilesSource | HubSource], key: str) -> list[Input]:
    """Every file and hub data set that `sources` name, in reading order and each one once.

    Args:
        sources: as the experiment gives them.
        key: dotted place of `sources` in the experiment, for messages.

    Raises:
        ConfigError: the format of a file is unknown, or `documents` is not said for text.
        DataError: a path or glob matches nothing.
    """
    inputs: dict[Any, Input] = {}
    for index, source in enumerate(sources):
        parts: Sequence[Input]
        if isinstance(source, HubSource):
            parts = [source]
        else:
            parts = _resolve_files(source, f"{key}.{index}")
        for part in parts:
            inputs.setdefault(_input_id(part), part)
    return list(inputs.values())


def refuse_common(train: Sequence[Input], held_out: Sequence[Input], keys: tuple[str, str]) -> None:
    """Refuse to hold out what is trained on.

    Args:
        train: inputs to train on.
        held_out: inputs to be measured on.
        keys: dotted places of both in the experiment, for messages.

    Raises:
        DataError: an input is among both.
    """
    trained = {_input_id(part) for part in train}
    for part in held_out:
        if _input_id(part) in trained:
            name = part.name if isinstance(part, InputFile) else part.hub
            raise DataError(
                f"{keys[1]}: {name} is in {keys[0]}, too",
                f"Hold out other text; or leave {keys[1]} out, and a share of the documents is "
                "kept out of training (data.held_out_fraction).",
            )


def _input_id(part: Input) -> Any:
    """What tells the text of an input from that of others, whatever it is called."""
    # Another column of the same file is another text.
    return (file_id(part.path), part.text_column) if isinstance(part, InputFile) else part


def _resolve_files(source: FilesSource, key: str) -> list[InputFile]:
    return [_input_file(path, source, key) for path in matching_files(source.files, key)]


def _input_file(path: Path, source: FilesSource, key: str) -> InputFile:
    file_format = _format_by_ending(path, key) if source.format == "auto" else source.format
    if file_format == "text" and source.documents is None:
        raise ConfigError(
            f"{key}.documents: must be said for text files such as {path}",
            "Say what one document is: file, line or blank-line.",
        )
    size = path.stat().st_size
    return InputFile(path, file_format, source.documents, source.text_column, size)


def _format_by_ending(path: Path, key: str) -> FileFormat:
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    file_format = ENDINGS.get(endings[-1]) if endings else None
    if file_format is None:
        raise ConfigError(
            f"{key}.format: {path} has no ending that tells its format",
            "Set it to text, jsonl, csv, tsv or parquet.",
        )
    return file_format


class Reader:
    """Reads the documents of resolved inputs and knows how far it is.

    Attributes:
        total_bytes: size of all files as they lie on disk; None when a hub data set is among them.
    """

    def __init__(self, inputs: Sequence[Input]) -> None:
        sizes = [part.num_bytes for part in inputs if isinstance(part, InputFile)]
        self.total_bytes = sum(sizes) if len(sizes) == len(inputs) else None
        self._finished_bytes = 0
        self._position: Callable[[], int] = int

    @property
    def bytes_read(self) -> int:
        """Bytes of the files read so far, compressed ones as they lie on disk."""
        return self._finished_bytes + self._position()

    def documents(self, inputs: Sequence[Input]) -> Iterator[str]:
        """Read some of the inputs, once and in their order; a document may be empty.

        Raises:
            DataError: an input cannot be read; the message has the file and the line or row.
        """
        for part in inputs:
            if isinstance(part, HubSource):
                yield from _hub_documents(part)
                continue
            yield from self._file_documents(part)
            self._position = int
            self._finished_bytes += part.num_bytes

    def _file_documents(self, file: InputFile) -> Iterator[str]:
        try:
            with file.path.open("rb") as raw:
                self._position = raw.tell
                yield from read_documents(file, raw)
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read ({error})") from error


def _hub_documents(source: HubSource) -> Iterator[str]:
    """Stream a data set of the hub, or a local folder that `load_dataset` understands."""
    for number, row in enumerate(hub_rows(source, [source.text_column]), start=1):
        where = f"{source.hub} row {number}"
        if source.text_column not in row:
            raise missing_column(where, source.text_column, row)
        yield checked_text(row[source.text_column], where, source.text_column)


def hub_rows(source: HubSource | RowHub, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Stream the rows of a data set of the hub, or of a local folder that `datasets` reads.

    Args:
        source: which data set.
        columns: those that are wanted, where the data set says which it has. Numbers of classes
            become the names that the data set has for them; -1, by which `datasets` says that
            there is no label, becomes None.

    Raises:
        DataError: the data set cannot be found or read, or a number is that of no class.
    """
    number = 0
    folder = Path(resolve_path(source.hub))
    try:
        for row in _streamed_rows(source, folder, columns):
            number += 1
            yield row
    except DataError as error:
        raise DataError(
            f"data set {source.hub} after row {number}: {error.message}", error.hint
        ) from error
    except Exception as error:  # network, hub and Arrow errors share no base class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        hint = "Check the name, subset, split and revision, and that the hub can be reached."
        if folder.is_dir():
            hint = "Check the folder, the split and the columns."
        else:
            answer = hub_answer(error, source.revision or "main", "data set")
            reason, hint = answer or (reason, hint)
        raise DataError(f"data set {source.hub} after row {number}: {reason}", hint) from error


def _streamed_rows(
    source: HubSource | RowHub, folder: Path, columns: list[str]
) -> Iterator[dict[str, Any]]:
    import datasets

    if is_saved_data_set(folder):
        rows = _saved_split(folder, source.split)
    else:
        rows = datasets.load_dataset(
            str(folder) if source.hub.startswith("~") else source.hub,
            source.subset,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
    if rows.column_names and set(columns) <= set(rows.column_names):
        rows = rows.select_columns(columns)
    classes = {}
    for name, feature in (rows.features or {}).items():
        inner = getattr(feature, "feature", feature)  # of lists, what is in them
        if isinstance(inner, datasets.ClassLabel):
            classes[name] = inner.names
    for row in rows:
        for name, names in classes.items():
            row[name] = _named(row[name], names)
        yield row


def _saved_split(folder: Path, split: str) -> Any:
    """One split of what `save_to_disk` wrote, memory-mapped."""
    import datasets

    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DataError(f"no split {split!r}; there are: {', '.join(saved)}", "Name another.")
        saved = saved[split]
    elif saved.split is not None and str(saved.split) != split:
        raise DataError(f"it holds the split {saved.split}", f"Set split to {saved.split}.")
    return saved.with_format(None)  # rows are plain Python values, whatever it was saved with


def _named(value: Any, names: list[str]) -> Any:
    """The class of a number, or the classes of several; -100, which is to be passed over, stays."""
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or value == NO_LABEL:
        return value
    if not 0 <= value < len(names):
        raise DataError(
            f"class {value} of a data set that names {len(names)}", "Correct its features."
        )
    return names[value]
