"""What a cell of a row says where every kind of task reads it alike: a text, an id."""

import re
from typing import Any

from distilcli.tasks.examples import BadExample, is_nothing

_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0*")


def text_of(value: Any, column: str) -> str:
    """The text of a cell, as it is written.

    Args:
        value: of the cell.
        column: that it is in, for the message.

    Raises:
        BadExample: it is no text, or nothing but blanks.
    """
    if not isinstance(value, str) or not value.strip():
        raise BadExample(f"no text in {column}")
    return value


def id_of(value: Any, column: str) -> str:
    """The id in a cell, by which rows are known to be of the same thing.

    Blanks at its ends do not count. A whole number is the same id however it is written: 7, 7.0,
    "7" and "7.0", for a table with a gap has floats. 007 is another one.

    Args:
        value: of the cell.
        column: that it is in, for the message.

    Raises:
        BadExample: it holds nothing, or neither text nor a number.
    """
    is_id = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not is_id or is_nothing(value) or not str(value).strip():
        raise BadExample(f"no id in {column}")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return without_zeros(str(value).strip())


def without_zeros(text: str) -> str:
    """1 for 1.0: text without what makes no other number of a whole one."""
    number_of = _WHOLE_NUMBER.fullmatch(text)
    return number_of[1] if number_of else text
