"""Documents out of files and hub data sets, one after another, in bounded memory.

A source is resolved first (globs, formats, columns: mistakes show before any work is done), then
read. Every error says which file and which line or row it is about.

    inputs = resolve(experiment.data.sources, "data.sources")
    for text in Reader(inputs).documents(inputs): ...
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distilcli.config.data import FilesSource, HubSource
from distilcli.errors import ConfigError, DataError
from distilcli.text.documents import InputFile, checked_text, read_documents
from distilcli.text.globs import file_id, matching_files
from distilcli.text.hub import hub_rows
from distilcli.text.row_formats import FileFormat, missing_column

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
