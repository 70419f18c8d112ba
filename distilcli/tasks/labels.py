"""What may stand in a row as a label, and which class it is: one place for every kind of task.

- null, NaN, empty, and -1 of a hub's class labels: no label, which `NoLabel` says. Such a row is
  bad, unless it is one to train on beside a teacher. An empty list, or an empty text where there
  may be several classes, says that the row has no class.
- -100: a word with this tag is passed over, neither trained on nor scored; a sentence of nothing
  else has no label. Of a class it is no label; among numbers it is a number.
- 1, 1.0, "1" and "1.0": one class, 1.
- The text nan: a class of this name, which `classes.doubtful` warns of; among numbers NaN, and so
  no label.
- true and false: classes of these names, but not beside the numbers 0 and 1; no numbers.
- Lists of 0 and 1 (or true and false), of one length: a value for each class, in their order.
- Capitals do not count where only one class is meant without them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from distilcli.files.json_text import parse_json
from distilcli.tasks.cells import without_zeros
from distilcli.tasks.examples import BadExample, NoLabel, is_nothing
from distilcli.text.row import IGNORE_INDEX

_ON, _OFF = {"1", "true"}, {"0", "false"}
_PASSED_OVER = {str(IGNORE_INDEX), f"{IGNORE_INDEX}.0"}
_LARGEST = float(np.finfo(np.float32).max)


def class_text(value: Any) -> str:
    """The class that a cell names: text without blanks around it, 1 for 1.0, true for True.

    Raises:
        NoLabel: it says that there is none.
        BadExample: it is no text, number or bool.
    """
    if is_nothing(value):
        raise NoLabel("no label")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        if not isinstance(value, int) and not math.isfinite(value):
            raise BadExample(f"label {value!r} is not finite")
        text = str(int(value)) if value == int(value) else str(value)
    elif isinstance(value, str):
        text = without_zeros(value.strip())
    else:
        kind = "list" if isinstance(value, list) else type(value).__name__
        raise BadExample(f"label {_short(value)} is a {kind}, not one class")
    if not text:
        raise NoLabel("no label")
    if text == str(IGNORE_INDEX):
        raise NoLabel(f"no label ({IGNORE_INDEX})")
    return text


def tag_text(value: Any) -> str | None:
    """The tag that a cell names, as `class_text`; None for -100: the word is passed over.

    Raises:
        BadExample: it names none.
    """
    if value == IGNORE_INDEX or (isinstance(value, str) and value.strip() == str(IGNORE_INDEX)):
        return None
    return class_text(value)


def class_texts(value: Any) -> tuple[str, ...]:
    """The classes that a cell names: a list, a JSON list as text, or text with commas.

    Raises:
        NoLabel: there is none, or there is nothing in a list but what says so.
        BadExample: something in it is no class.
    """
    if is_nothing(value):
        raise NoLabel("no label")
    if isinstance(value, str):
        value = _listed(value.strip())
    elif not isinstance(value, list):
        value = [value]
    if value and all(is_nothing(part) or str(part).strip() in _PASSED_OVER for part in value):
        some = "no label" if any(map(is_nothing, value)) else f"no label ({IGNORE_INDEX})"
        raise NoLabel(some)
    if any(is_nothing(part) for part in value):
        raise BadExample("a label of the list is nothing")
    for part in value:
        if isinstance(part, float) and math.isfinite(part) and part != int(part):
            raise BadExample(f"{part} in the list is neither a class nor 0 or 1")
    try:
        return tuple(class_text(part) for part in value if str(part).strip())
    except NoLabel as error:  # beside real classes it is a mistake
        raise BadExample(str(error)) from None


def _listed(text: str) -> list[Any]:
    if not (text.startswith("[") and text.endswith("]")):
        return text.split(",")
    try:
        found = parse_json(text)
    except ValueError:
        raise BadExample(f"{_short(text)} is in brackets, but no list of JSON") from None
    assert isinstance(found, list)
    return found


def parsed_number(value: Any, what: str) -> float:
    """The number in a cell that holds something; infinite where it is larger than any float.

    Args:
        value: of the cell.
        what: it is, for messages.

    Raises:
        BadExample: it is no number.
    """
    no_number = BadExample(f"{what} {_short(value)} is no number")
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise no_number
    if isinstance(value, str) and "_" in value:
        raise no_number  # to Python 1_0 is 10
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        raise no_number from None


def number_of(value: Any) -> float:
    """The number in a cell, one that float32 can hold.

    Raises:
        NoLabel: the cell is empty, or NaN.
        BadExample: it is no such number.
    """
    if is_nothing(value) or (isinstance(value, str) and not value.strip()):
        raise NoLabel("no label")
    found = parsed_number(value, "label")
    if not abs(found) <= _LARGEST:
        raise (NoLabel if math.isnan(found) else BadExample)(f"label {_short(value)} is not finite")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# Rows of one 0 or 1 for each class


def vector_length(rows: Sequence[tuple[str, ...]]) -> int | None:
    """The number of classes, where rows have a 0 or 1 for each; None where rows name their classes.

    Classes may be called 0 and 1, too. Rows that name them hold no name twice, and are seldom all
    of one length. So values are taken for 0 or 1 for each class where rows have two or more of
    them, and either some row holds one twice or all rows are equally long.
    """
    if not rows or not all(set(row) <= _ON | _OFF for row in rows):
        return None
    lengths = Counter(map(len, rows))
    length, _ = lengths.most_common(1)[0]
    has_repeated = any(len(set(row)) < len(row) for row in rows)
    return length if length >= 2 and (has_repeated or len(lengths) == 1) else None


def named_by_vector(row: tuple[str, ...], names: Sequence[str]) -> tuple[str, ...]:
    """The classes for which a row has a 1.

    Raises:
        BadExample: it is no row of one 0 or 1 for each class.
    """
    if len(row) != len(names) or not set(row) <= _ON | _OFF:
        raise BadExample(
            f"labels {', '.join(row) or 'none'}: other rows have {len(names)} values of 0 or 1"
        )
    return tuple(name for name, value in zip(names, row, strict=True) if value in _ON)


def refuse_vector(row: tuple[str, ...]) -> None:
    """Refuse a row of 0 and 1 for each class where other rows name their classes; BadExample."""
    if set(row) <= _ON | _OFF and len(set(row)) < len(row):
        raise BadExample(f"labels {', '.join(row)}: values of 0 or 1, but other rows name classes")


# Names of classes


def class_key(name: str) -> str:
    """What two ways of writing a class have in common: capitals and 1.0 for 1 do not count."""
    return without_zeros(name.strip()).casefold()
