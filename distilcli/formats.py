"""File formats: the documents of one open text, JSONL, CSV, TSV or Parquet file, gzipped or not.

Memory is bounded by the longest document, and every error has the file and the line or row.
"""

import csv
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from distilcli.errors import DataError
from distilcli.rows import BadRow, Row, json_rows
from distilcli.schema import BUILTIN_FOLDER, BUILTIN_PREFIX

FileFormat = Literal["text", "jsonl", "csv", "tsv", "parquet"]

GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
PARQUET_ROWS = 256  # rows decoded at once; documents are long, so few are enough for speed
# More than any real text has in one line or document. A few MB of gzip can hold thousands of times
# as much, and lines are read whole: memory would run out.
MAX_LINE_BYTES = 256 * 2**20
MAX_DOCUMENT_CHARS = 2**30
# The csv module's own limit, 128 KiB, is less than a novel.
MAX_CSV_FIELD = MAX_LINE_BYTES


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


def read_documents(file: InputFile, raw: IO[bytes]) -> Iterator[str]:
    """The documents of `file`, which is open as `raw`; some may be empty.

    Raises:
        DataError: its content is not what its format says.
    """
    if file.format == "text":
        return _text_documents(file, text_lines(file.path, raw))
    return _row_documents(file, raw)


def text_lines(path: Path, raw: IO[bytes]) -> Iterator[str]:
    """The lines of a text file, gzipped or not, which is open as `raw`.

    Raises:
        DataError: it is not UTF-8, or its gzip is corrupt.
    """
    return _lines(path, _unzipped(path, raw))


def _is_gzip(path: Path, raw: IO[bytes]) -> bool:
    magic = raw.read(len(GZIP_MAGIC))
    raw.seek(0)
    return magic == GZIP_MAGIC or path.suffix.lower() == ".gz"


def _unzipped(path: Path, raw: IO[bytes]) -> IO[bytes]:
    if not _is_gzip(path, raw):
        return raw
    # A GzipFile is an IO[bytes] in all but name.
    return cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb"))


def _corrupt_gzip(path: Path, error: Exception, where: str = "") -> DataError:
    return DataError(f"{path}{where}: corrupt gzip ({error})", "Fetch or compress the file again.")


def _lines(path: Path, stream: IO[bytes]) -> Iterator[str]:
    """Decoded lines with their ends; a byte order mark is taken off the first."""
    number = 0
    try:
        # Not `for line in stream`: that would read a line of any length.
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"{path} line {number}: over {MAX_LINE_BYTES / 2**20:,.0f} MiB",
                    "Break the text into shorter lines; if it has such, the file may be damaged.",
                )
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
    parts: list[str] = []
    num_chars = 0
    for line in lines:
        if file.documents == "file" or line.strip():
            parts.append(line)
            num_chars += len(line)
            if num_chars > MAX_DOCUMENT_CHARS:
                raise DataError(
                    f"{file.path}: a document of over {MAX_DOCUMENT_CHARS:,} characters",
                    f"Set documents to what one document of it is, which is not {file.documents}.",
                )
        elif parts:
            yield "".join(parts)
            parts, num_chars = [], 0
    if parts or file.documents == "file":
        yield "".join(parts)


def _row_documents(file: InputFile, raw: IO[bytes]) -> Iterator[str]:
    for row in read_rows(file.path, raw, file.format, [file.text_column]):
        where = f"{file.path} {row.unit} {row.number}"
        if isinstance(row, BadRow):
            raise DataError(f"{where}: {row.reason}", row.hint)
        if file.text_column not in row.values:
            raise missing_column(where, file.text_column, row.values)
        yield checked_text(row.values[file.text_column], where, file.text_column)


# Rows, of JSONL, CSV, TSV and Parquet


def read_rows(
    path: Path,
    raw: IO[bytes],
    file_format: FileFormat,
    needed: list[str],
    columns: list[str] | None = None,
) -> Iterator[Row | BadRow]:
    """The rows of a file, which is open as `raw`, in order; blank lines are none.

    Args:
        path: of the file, for messages.
        raw: its bytes.
        file_format: jsonl, csv, tsv or parquet.
        needed: columns that a CSV, TSV or Parquet must have; of Parquet no others are read.
        columns: names of the columns of a CSV or TSV that has no header.

    Raises:
        DataError: the file as a whole cannot be read, or lacks a column.
    """
    if file_format == "parquet":
        return _parquet_rows(path, raw, needed)
    lines = text_lines(path, raw)
    if file_format == "jsonl":
        return json_rows(path, lines)
    return _csv_rows(path, lines, file_format, needed, columns)


def _csv_rows(
    path: Path,
    lines: Iterator[str],
    file_format: FileFormat,
    needed: list[str],
    columns: list[str] | None,
) -> Iterator[Row | BadRow]:
    """CSV has quotes (RFC 4180); TSV has none, as IANA registered it."""
    named_by = "the header has" if columns is None else "the columns named are"
    rows = _csv_fields(path, lines) if file_format == "csv" else _tsv_fields(lines)
    header = columns or next((fields for _, fields in rows), None)
    if header is None:
        return
    for column in needed:
        if column not in header:
            raise missing_column(f"{path} line 1", column, header)
    for number, fields in rows:
        if len(fields) == len(header):
            yield Row(number, dict(zip(header, fields, strict=True)))
        else:
            yield BadRow(number, f"{len(fields)} fields, but {named_by} {len(header)}")


def _csv_fields(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(MAX_CSV_FIELD)
    rows = csv.reader(lines, strict=True)
    try:
        for fields in rows:
            if fields:
                yield rows.line_num, fields
    except csv.Error as error:
        raise DataError(f"{path} line {rows.line_num}: {error}") from error


def _tsv_fields(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        if text:
            yield number, text.split("\t")


def _parquet_rows(path: Path, raw: IO[bytes], needed: list[str]) -> Iterator[Row | BadRow]:
    if not _is_gzip(path, raw):
        yield from _plain_parquet_rows(path, raw, needed)
        return
    # Parquet is read from its end, which gzip can only reach by decompressing everything before.
    with tempfile.TemporaryFile() as plain:
        try:
            shutil.copyfileobj(_unzipped(path, raw), plain, 1 << 20)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _corrupt_gzip(path, error) from error
        plain.seek(0)
        yield from _plain_parquet_rows(path, plain, needed)


def _plain_parquet_rows(path: Path, stream: IO[bytes], needed: list[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        parquet = pq.ParquetFile(stream)
        names = parquet.schema_arrow.names
        for column in needed:
            if column not in names:
                raise missing_column(str(path), column, names)
        for batch in parquet.iter_batches(PARQUET_ROWS, columns=needed):
            for row in batch.to_pylist():
                number += 1
                yield Row(number, row, "row")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} after row {number}: not readable Parquet ({error})") from error


def checked_text(value: Any, where: str, column: str) -> str:
    """The value of the text column as a string; nothing at all is an empty document.

    Raises:
        DataError: it is something else than text.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {column} is {type(value).__name__}, not text")
    return value


def missing_column(where: str, column: str, present: Any) -> DataError:
    """The error for a row or file that has the columns `present` but not `column`."""
    return DataError(
        f"{where}: no column {column!r}; there are: {', '.join(map(str, present))}",
        "Name the columns as the file does.",
    )
