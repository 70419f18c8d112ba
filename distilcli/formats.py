"""File formats: the documents of one open text, JSONL, CSV, TSV or Parquet file, gzipped or not.

Memory is bounded by the longest document, and every error has the file and the line or row.
"""

import csv
import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from distilcli.errors import DataError
from distilcli.schema import BUILTIN_FOLDER, BUILTIN_PREFIX

FileFormat = Literal["text", "jsonl", "csv", "tsv", "parquet"]

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


def read_documents(file: InputFile, raw: IO[bytes]) -> Iterator[str]:
    """The documents of `file`, which is open as `raw`; some may be empty.

    Raises:
        DataError: its content is not what its format says.
    """
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
    # A GzipFile is an IO[bytes] in all but name.
    return cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb"))


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
            reason = getattr(error, "msg", str(error))
            raise DataError(f"{where}: not valid JSON ({reason})") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: not a JSON object", "JSONL has one object on each line.")
        if file.text_column not in row:
            raise missing_column(where, file.text_column, row)
        yield checked_text(row[file.text_column], where, file.text_column)


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
            raise missing_column(f"{file.path} line 1", file.text_column, header)
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
            raise missing_column(str(file.path), file.text_column, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(PARQUET_ROWS, columns=[file.text_column]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield checked_text(value, f"{file.path} row {number}", file.text_column)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{file.path} after row {number}: not readable Parquet ({error})"
        ) from error


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
        "Name the column that holds the text with text_column.",
    )
