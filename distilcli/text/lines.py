"""Lines of text files, gzipped or not, in bounded memory."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from distilcli.errors import DataError
from distilcli.text.row import Row

GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
# More than any real text has in one line or document. A few MB of gzip can hold thousands of times
# as much, and lines are read whole: memory would run out.
MAX_LINE_BYTES = 256 * 2**20


def text_lines(path: Path, raw: IO[bytes]) -> Iterator[str]:
    """The lines of a text file, gzipped or not, which is open as `raw`.

    Raises:
        DataError: it is not UTF-8, or its gzip is corrupt.
    """
    return _lines(path, unzipped(path, raw))


def plain_rows(lines: Iterator[str], as_row: Callable[[str], dict[str, Any]]) -> Iterator[Row]:
    """A row for each line of plain text; blank lines are none.

    Args:
        lines: of a file, with their ends.
        as_row: the columns of a line, whose end is taken off.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Row(number, as_row(line.rstrip("\r\n")))


def is_gzip(path: Path, raw: IO[bytes]) -> bool:
    """Whether a file is gzipped, by its first bytes or its name."""
    magic = raw.read(len(GZIP_MAGIC))
    raw.seek(0)
    return magic == GZIP_MAGIC or path.suffix.lower() == ".gz"


def unzipped(path: Path, raw: IO[bytes]) -> IO[bytes]:
    """The bytes of a file, decompressed where it is gzipped."""
    if not is_gzip(path, raw):
        return raw
    # A GzipFile is an IO[bytes] in all but name.
    return cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb"))


def corrupt_gzip(path: Path, error: Exception, where: str = "") -> DataError:
    """The error for a file whose gzip is not valid."""
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
        raise corrupt_gzip(path, error, f" after line {number}") from error
