"""Rows that JSON holds: one object on each line, or one array of objects.

An array is decoded object by object, so memory is bounded by the longest of them (and by the
longest line of the file).
"""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from distilcli.errors import DataError
from distilcli.files.json_text import parse_json
from distilcli.text.row import BadRow, Row

_ONE_A_LINE = "JSONL has one object on each line; one JSON array of objects is read, too."
_DECODER = json.JSONDecoder()


def why_not_json(error: ValueError) -> str:
    """What `parse_json` found wrong, without the place in the text."""
    return str(getattr(error, "msg", error))


def json_rows(path: Path, lines: Iterator[str]) -> Iterator[Row | BadRow]:
    """The objects of a file, one on each line or all in one array; blank lines are none.

    Raises:
        DataError: the file is an array that is not valid JSON. Of a line that is not, the others
            can still be read; of an array nothing after the mistake can.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            lines = chain([line], lines)
            if line.lstrip().startswith("["):
                yield from _objects(_ArrayItems(path, lines))
            else:
                yield from _line_rows(lines, number)
            return


def _line_rows(lines: Iterator[str], first: int) -> Iterator[Row | BadRow]:
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            yield BadRow(number, f"not valid JSON ({why_not_json(error)})", _ONE_A_LINE)
            continue
        if isinstance(row, dict):
            yield Row(number, row)
        else:
            yield BadRow(number, "not a JSON object", _ONE_A_LINE)


def _objects(items: Iterable[Any]) -> Iterator[Row | BadRow]:
    for number, item in enumerate(items, start=1):
        if isinstance(item, dict):
            yield Row(number, item, "item")
        else:
            yield BadRow(number, "not a JSON object", "Each item must be an object.", "item")


class _ArrayItems:
    """The items of the one array that a text is, decoded one after another.

    Args:
        path: of the file, for messages.
        lines: of the text; the first one begins with the bracket.
    """

    def __init__(self, path: Path, lines: Iterator[str]) -> None:
        self._path = path
        self._lines = lines
        self._text = ""
        self._at = 0  # what is before this was used
        self._number = 0

    def __iter__(self) -> Iterator[Any]:
        self._next_character()
        self._at += 1  # the bracket
        if self._next_character() == "]":
            self._finish()
            return
        while True:
            self._number += 1
            yield self._item()
            separator = self._next_character()
            if separator == "]":
                self._finish()
                return
            if separator != ",":
                raise self._error("Expecting ',' or ']' after it")
            self._at += 1

    def _finish(self) -> None:
        self._at += 1
        if self._next_character():
            raise DataError(
                f"{self._path}: there is more after the end of the JSON array", _ONE_A_LINE
            )

    def _next_character(self) -> str:
        """The next one that is no white space, which is left where it is; at the end nothing."""
        while True:
            while self._at < len(self._text) and self._text[self._at].isspace():
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on(1):
                return ""

    def _item(self) -> Any:
        self._next_character()
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._text, self._at)
                return value
            except RecursionError:
                raise self._error("nested too deeply") from None
            except json.JSONDecodeError as error:
                # What goes on in the next line fails at the end of what was read. Twice as much is
                # read before the next try: the time stays in proportion to the length.
                goes_on = error.pos >= len(self._text.rstrip()) - 1
                if not (goes_on and self._read_on(len(self._text) - self._at)):
                    raise self._error(error.msg) from error
            except ValueError as error:  # a number of thousands of digits
                raise self._error(str(error)) from error

    def _read_on(self, num_chars: int) -> bool:
        """Read lines of so many characters or more; False where there is no more line."""
        parts: list[str] = []
        while num_chars > 0:
            line = next(self._lines, None)
            if line is None:
                break
            parts.append(line)
            num_chars -= len(line)
        if parts:
            self._text, self._at = "".join([self._text[self._at :], *parts]), 0
        return bool(parts)

    def _error(self, reason: str) -> DataError:
        return DataError(
            f"{self._path} item {self._number} of the JSON array: not valid JSON ({reason})",
            _ONE_A_LINE,
        )
