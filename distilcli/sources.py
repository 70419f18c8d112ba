"""Documents out of files and hub data sets, one after another, in bounded memory.

A source is resolved first (globs, formats, columns: mistakes show before any work is done), then
read. Every error says which file and which line or row it is about.

    inputs = resolve(experiment.data.sources, "data.sources")
    for text in Reader(inputs).documents(inputs): ...
"""

import csv
import glob
import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from distilcli.config import BUILTIN_FOLDER, BUILTIN_PREFIX, FilesSource, HubSource, resolve_path
from distilcli.errors import ConfigError, DataError

FileFormat = Literal["text", "jsonl", "csv", "tsv", "parquet"]

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
GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
PARQUET_ROWS = 256  # rows decoded at once; documents are long, so few are enough for speed
MAX_CSV_FIELD = 2**31 - 1  # the csv module's own limit, 128 KiB, is less than a novel


@dataclass(frozen=True)
class InputFile:
    """One file of a `FilesSource`, with everything that reading it needs."""

    path: Path
    format: FileFormat
    documents: str | None
    text_column: str
    num_bytes: int

    @property
    def name(self) -> str:
        """The path as a user would write it: what ships inside the package is `builtin:`."""
        if self.path.is_relative_to(BUILTIN_FOLDER):
            return BUILTIN_PREFIX + self.path.relative_to(BUILTIN_FOLDER).as_posix()
        return self.path.as_posix()


Input = InputFile | HubSource


def resolve(sources: Sequence[FilesSource | HubSource], key: str) -> list[Input]:
    """Every file and hub data set that `sources` name, in reading order.

    Args:
        sources: as the experiment gives them.
        key: dotted place of `sources` in the experiment, for messages.

    Raises:
        ConfigError: the format of a file is unknown, or `documents` is not said for text.
        DataError: a path or glob matches nothing.
    """
    inputs: list[Input] = []
    for index, source in enumerate(sources):
        if isinstance(source, HubSource):
            inputs.append(source)
        else:
            inputs.extend(_resolve_files(source, f"{key}.{index}"))
    return inputs


def _resolve_files(source: FilesSource, key: str) -> list[InputFile]:
    # A dictionary, because a file that two patterns of one source match is read once.
    paths = dict.fromkeys(path for pattern in source.files for path in _matches(pattern, key))
    return [_input_file(path, source, key) for path in paths]


def _matches(pattern: str, key: str) -> list[Path]:
    name = resolve_path(pattern)
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise DataError(
            f"{key}.files: {pattern} is a folder", f"Name the files in it, such as {pattern}/*.txt"
        )
    matches = sorted(glob.glob(str(path), recursive=True))
    found = [Path(match) for match in matches if Path(match).is_file()]
    if not found:
        raise DataError(
            f"{key}.files: {pattern} matches no file",
            "Relative paths are relative to the working directory.",
        )
    return found


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
                yield from _documents(file, raw)
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read ({error})") from error


def _documents(file: InputFile, raw: IO[bytes]) -> Iterator[str]:
    if file.format == "parquet":
        return _parquet_documents(file, raw)
    lines = _lines(file.path, _unzipped(file.path, raw))
    if file.format == "jsonl":
        return _jsonl_documents(file, lines)
    if file.format in ("csv", "tsv"):
        return _csv_documents(file, lines)
    return _text_documents(file, lines)


def _is_gzip(path: Path, raw: IO[bytes]) -> bool:
    magic = raw.read(len(GZIP_MAGIC))
    raw.seek(0)
    return magic == GZIP_MAGIC or path.suffix.lower() == ".gz"


def _unzipped(path: Path, raw: IO[bytes]) -> IO[bytes]:
    if not _is_gzip(path, raw):
        return raw
    stream: Any = gzip.GzipFile(fileobj=raw, mode="rb")
    return stream  # type: ignore[no-any-return]  # GzipFile is an IO[bytes] in all but name


def _corrupt_gzip(path: Path, error: Exception, where: str = "") -> DataError:
    return DataError(f"{path}{where}: corrupt gzip ({error})", "Fetch or compress the file again.")


def _lines(path: Path, stream: IO[bytes]) -> Iterator[str]:
    """Decoded lines with their ends; a byte order mark is taken off the first."""
    number = 0
    try:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(UTF8_BOM)
            yield line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} line {number}: not UTF-8 (byte {error.object[error.start]:#04x} "
            f"at position {error.start + 1} of the line)",
            "Convert the file to UTF-8.",
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _corrupt_gzip(path, error, f" after line {number}") from error


def _text_documents(file: InputFile, lines: Iterator[str]) -> Iterator[str]:
    if file.documents == "line":
        yield from lines
        return
    if file.documents == "file":
        yield "".join(lines)
        return
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "".join(paragraph)
            paragraph = []
    if paragraph:
        yield "".join(paragraph)


def _jsonl_documents(file: InputFile, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file.path} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: not a JSON object", "JSONL has one object on each line.")
        if file.text_column not in row:
            raise _missing_column(where, file.text_column, row)
        yield _checked_text(row[file.text_column], where, file.text_column)


def _csv_documents(file: InputFile, lines: Iterator[str]) -> Iterator[str]:
    """Rows under a header. CSV has quotes (RFC 4180); TSV has none, as IANA registered it."""
    csv.field_size_limit(MAX_CSV_FIELD)
    rows = (
        csv.reader(lines, strict=True)
        if file.format == "csv"
        else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    try:
        header = next(rows, None)
        if header is None:
            return
        if file.text_column not in header:
            raise _missing_column(f"{file.path} line 1", file.text_column, header)
        column = header.index(file.text_column)
        for row in rows:
            if row and len(row) != len(header):
                raise DataError(
                    f"{file.path} line {rows.line_num}: {len(row)} fields, "
                    f"but the header has {len(header)}"
                )
            if row:
                yield row[column]
    except csv.Error as error:
        raise DataError(f"{file.path} line {rows.line_num}: {error}") from error


def _parquet_documents(file: InputFile, raw: IO[bytes]) -> Iterator[str]:
    if not _is_gzip(file.path, raw):
        yield from _parquet_rows(file, raw)
        return
    # Parquet is read from its end, which gzip can only reach by decompressing everything before.
    with tempfile.TemporaryFile() as plain:
        try:
            shutil.copyfileobj(_unzipped(file.path, raw), plain, 1 << 20)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _corrupt_gzip(file.path, error) from error
        plain.seek(0)
        yield from _parquet_rows(file, plain)


def _parquet_rows(file: InputFile, stream: IO[bytes]) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        parquet = pq.ParquetFile(stream)
        if file.text_column not in parquet.schema_arrow.names:
            raise _missing_column(str(file.path), file.text_column, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(PARQUET_ROWS, columns=[file.text_column]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield _checked_text(value, f"{file.path} row {number}", file.text_column)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{file.path} after row {number}: not readable Parquet ({error})"
        ) from error


def _hub_documents(source: HubSource) -> Iterator[str]:
    """Stream a data set of the hub, or a local folder that `load_dataset` understands."""
    name, number = source.hub, 0
    try:
        for number, row in enumerate(_hub_rows(source), start=1):
            where = f"{name} row {number}"
            if source.text_column not in row:
                raise _missing_column(where, source.text_column, row)
            yield _checked_text(row[source.text_column], where, source.text_column)
    except (DataError, GeneratorExit):
        raise
    except Exception as error:  # network, hub and Arrow errors share no base class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"data set {name} after row {number}: {reason}",
            "Check the name, subset, split and revision, and that the hub can be reached.",
        ) from error


def _hub_rows(source: HubSource) -> Iterator[dict[str, Any]]:
    import datasets

    rows = datasets.load_dataset(
        str(Path(source.hub).expanduser()) if source.hub.startswith("~") else source.hub,
        source.subset,
        split=source.split,
        revision=source.revision,
        streaming=True,
    )
    if rows.column_names and source.text_column in rows.column_names:
        rows = rows.select_columns([source.text_column])
    return iter(rows)


def _checked_text(value: Any, where: str, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {column} is {type(value).__name__}, not text")
    return value


def _missing_column(where: str, column: str, present: Any) -> DataError:
    return DataError(
        f"{where}: no column {column!r}; there are: {', '.join(map(str, present))}",
        "Name the column that holds the text with text_column.",
    )
