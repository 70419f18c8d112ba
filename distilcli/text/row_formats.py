"""Rows of one open JSONL, CSV, TSV or Parquet file, gzipped or not.

Memory is bounded by the longest row, and every error has the file and the line or row.
"""

import csv
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from distilcli.errors import DataError
from distilcli.text.json_rows import json_rows
from distilcli.text.lines import MAX_LINE_BYTES, corrupt_gzip, is_gzip, text_lines, unzipped
from distilcli.text.row import BadRow, Row

FileFormat = Literal["text", "jsonl", "csv", "tsv", "parquet"]
PARQUET_ROWS = 256  # rows decoded at once; documents are long, so few are enough for speed
# The csv module's own limit, 128 KiB, is less than a novel.
MAX_CSV_FIELD = MAX_LINE_BYTES


def read_rows(
    path: Path,
    raw: IO[bytes],
    file_format: FileFormat,
    needed: list[str],
    columns: list[str] | None = None,
    optional: Sequence[str] = (),
) -> Iterator[Row | BadRow]:
    """The rows of a file, which is open as `raw`, in order; blank lines are none.

    Args:
        path: of the file, for messages.
        raw: its bytes.
        file_format: jsonl, csv, tsv or parquet.
        needed: columns that a CSV, TSV or Parquet must have.
        columns: names of the columns of a CSV or TSV that has no header.
        optional: columns of a Parquet that are read where it has them; no others are.

    Raises:
        DataError: the file as a whole cannot be read, or lacks a column.
    """
    if file_format == "parquet":
        return _parquet_rows(path, raw, needed, optional)
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


def _parquet_rows(
    path: Path, raw: IO[bytes], needed: list[str], optional: Sequence[str]
) -> Iterator[Row | BadRow]:
    if not is_gzip(path, raw):
        yield from _plain_parquet_rows(path, raw, needed, optional)
        return
    # Parquet is read from its end, which gzip can only reach by decompressing everything before.
    with tempfile.TemporaryFile() as plain:
        try:
            shutil.copyfileobj(unzipped(path, raw), plain, 1 << 20)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise corrupt_gzip(path, error) from error
        plain.seek(0)
        yield from _plain_parquet_rows(path, plain, needed, optional)


def _plain_parquet_rows(
    path: Path, stream: IO[bytes], needed: list[str], optional: Sequence[str]
) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        parquet = pq.ParquetFile(stream)
        names = parquet.schema_arrow.names
        for column in needed:
            if column not in names:
                raise missing_column(str(path), column, names)
        wanted = list(dict.fromkeys([*needed, *(name for name in optional if name in names)]))
        for batch in parquet.iter_batches(PARQUET_ROWS, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield Row(number, row, "row")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} after row {number}: not readable Parquet ({error})") from error


def missing_column(where: str, column: str, present: Any) -> DataError:
    """The error for a row or file that has the columns `present` but not `column`."""
    return DataError(
        f"{where}: no column {column!r}; there are: {', '.join(map(str, present))}",
        "Name the columns as the file does.",
    )
