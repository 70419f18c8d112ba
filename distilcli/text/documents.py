"""Documents of one open file: text, or a column of rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from distilcli.errors import DataError
from distilcli.files.paths import BUILTIN_FOLDER, BUILTIN_PREFIX
from distilcli.text.lines import text_lines
from distilcli.text.row import BadRow
from distilcli.text.row_formats import FileFormat, missing_column, read_rows

MAX_DOCUMENT_CHARS = 2**30


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
