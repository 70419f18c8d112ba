"""What may stand in a row as a label, and which class it is: one place for every kind of task.

- null, NaN, empty, and -1 of a hub's class labels: no label, a bad row. An empty list, or an empty
  text where there may be several classes, says that the row has no class.
- -100: a word with this tag is passed over, neither trained on nor scored. Of a class it is no
  label; among numbers it is a number.
- 1, 1.0, "1" and "1.0": one class, 1.
- true and false: classes of these names, but not beside the numbers 0 and 1; no numbers.
- Lists of 0 and 1 (or true and false), of one length: a value for each class, in their order.
- Capitals do not count where only one class is meant without them.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from distilcli.errors import ConfigError, DataError, ModelError
from distilcli.files.json_text import parse_json
from distilcli.tasks.examples import BadExample, is_nothing
from distilcli.text.row import IGNORE_INDEX

_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0*")
_ON, _OFF = {"1", "true"}, {"0", "false"}
# Written as classes where a table has no label; all of them may be the names of real classes.
_LIKE_NOTHING = {"nan", "null", "<na>", "-1"}
_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 20


def class_text(value: Any) -> str:
    """The class that a cell names: text without blanks around it, 1 for 1.0, true for True.

    Raises:
        BadExample: it names none, or is no text, number or bool.
    """
    if is_nothing(value):
        raise BadExample("no label")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        if not isinstance(value, int) and not math.isfinite(value):
            raise BadExample(f"label {value!r} is not finite")
        text = str(int(value)) if value == int(value) else str(value)
    elif isinstance(value, str):
        text = value.strip()
        number_of = _WHOLE_NUMBER.fullmatch(text)
        text = number_of[1] if number_of else text
    else:
        kind = "list" if isinstance(value, list) else type(value).__name__
        raise BadExample(f"label {_short(value)} is a {kind}, not one class")
    if not text:
        raise BadExample("no label")
    if text == str(IGNORE_INDEX):
        raise BadExample(f"no label ({IGNORE_INDEX})")
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
        BadExample: there is no label, or something in it is no class.
    """
    if is_nothing(value):
        raise BadExample("no label")
    if isinstance(value, str):
        value = _listed(value.strip())
    elif not isinstance(value, list):
        value = [value]
    if any(is_nothing(part) for part in value):
        raise BadExample("a label of the list is nothing")
    for part in value:
        if isinstance(part, float) and math.isfinite(part) and part != int(part):
            raise BadExample(f"{part} in the list is neither a class nor 0 or 1")
    return tuple(class_text(part) for part in value if str(part).strip())


def _listed(text: str) -> list[Any]:
    if not (text.startswith("[") and text.endswith("]")):
        return text.split(",")
    try:
        found = parse_json(text)
    except ValueError:
        raise BadExample(f"{_short(text)} is in brackets, but no list of JSON") from None
    assert isinstance(found, list)
    return found


def number_of(value: Any) -> float:
    """The number in a cell, one that float32 can hold.

    Raises:
        BadExample: there is none.
    """
    if is_nothing(value) or (isinstance(value, str) and not value.strip()):
        raise BadExample("no label")
    no_number = BadExample(f"label {_short(value)} is no number")
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise no_number
    if isinstance(value, str) and "_" in value:
        raise no_number  # to Python 1_0 is 10
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    except ValueError:
        raise no_number from None
    if not abs(found) <= _LARGEST:
        raise BadExample(f"label {_short(value)} is not finite")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# Rows of one 0 or 1 for each class


def vector_length(rows: Sequence[tuple[str, ...]]) -> int | None:
    """How many classes rows of 0 and 1 speak of; None where rows name their classes.

    Rows of ids may hold nothing but 0 and 1, too; but not all in the same number of two or more,
    and none of them twice.
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
    number_of = _WHOLE_NUMBER.fullmatch(name.strip())
    return (number_of[1] if number_of else name.strip()).casefold()


class Classes:
    """The classes of a task, and which of them a row means.

    Args:
        names: of the outputs, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._known = set(names)
        often = Counter(map(class_key, names))
        self._by_key = {class_key(name): name for name in names if often[class_key(name)] == 1}

    def name_of(self, written: str) -> str:
        """The class as it is named: the same, or the only one that differs in capitals alone.

        Raises:
            BadExample: there is no such class.
        """
        if written in self._known:
            return written
        name = self._by_key.get(class_key(written))
        if name is None:
            there = ", ".join(sorted(self.names)[:_SHOWN])
            raise BadExample(f"unknown class {written!r}; there are {there}")
        return name


def check_found(found: set[str]) -> None:
    """Refuse classes of which nobody can say whether they are the same.

    Raises:
        DataError: both bools and the numbers 0 or 1 are among them.
    """
    bools, numbers = found & {"true", "false"}, found & {"0", "1"}
    if bools and numbers:
        raise DataError(
            f"task.train: labels are both {min(bools)} and {min(numbers)}",
            "Write each class in one way.",
        )


def doubtful(names: Sequence[str]) -> list[str]:
    """Warnings of classes, as they were found in rows, that may not be what the user means."""
    warnings = []
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(class_key(name), []).append(name)
    for twins in by_key.values():
        if len(twins) > 1:
            warnings.append(
                f"classes {' and '.join(map(repr, twins))} differ in capitals alone; if they are "
                "one, list the classes in task.labels, this one once"
            )
    for name in names:
        if name.casefold() in _LIKE_NOTHING:
            warnings.append(
                f"{name!r} is taken for a class; if it says that there is no label, list the "
                "classes in task.labels, without it"
            )
    return warnings


def class_names(
    found: set[str], given: list[str] | None, of_teacher: list[str] | None
) -> list[str]:
    """Classes in the order of their ids: as the experiment lists them, the teacher's, or as found.

    Args:
        found: classes of the training examples.
        given: `task.labels`.
        of_teacher: names in the configuration of a fine-tuned teacher; None where it has none.

    Raises:
        ConfigError: `task.labels` are not different from one another, or fewer than two.
        DataError: the classes of the examples cannot be told from one another.
        ModelError: the teacher's classes are others than the experiment's or the data's.
    """
    check_found(found)
    names = given or sorted(found, key=_by_number)
    if len(set(names)) != len(names) or len(names) < 2:
        raise ConfigError(
            f"task.labels: {', '.join(names) or 'none'}", "A task needs two classes or more."
        )
    if of_teacher is None:
        return names
    generic = all(name == f"LABEL_{index}" for index, name in enumerate(of_teacher))
    # Data that has ids and no names says nothing about the teacher's names.
    are_ids = names == [str(index) for index in range(len(names))]
    alike = same_classes(of_teacher, names)
    generic = generic or (are_ids and not alike)
    if not alike and not (generic and len(of_teacher) == len(names)):
        raise ModelError(
            f"the teacher's classes are {_few(of_teacher)}, the task's are {_few(names)}",
            _way_out(names, of_teacher),
        )
    if generic:
        return names
    if given is None:
        return of_teacher
    if [class_key(name) for name in of_teacher] != [class_key(name) for name in names]:
        raise ModelError(
            f"the teacher's classes are in the order {_few(of_teacher)}, task.labels says "
            f"{_few(names)}",
            f"List them in the teacher's order: task.labels=[{', '.join(of_teacher)}]",
        )
    return names


def same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists name the same classes, in any order; capitals do not count.

    They do where a class of the first list would not be one any more without its capitals.
    """
    keys = {class_key(name) for name in one}
    if len(keys) < len(one):
        return set(one) == set(other)
    return keys == {class_key(name) for name in other}


def _way_out(names: Sequence[str], of_teacher: Sequence[str]) -> str:
    """What to do where the teacher's classes are not the task's."""
    if {class_key(name) for name in names} < {class_key(name) for name in of_teacher}:
        return (
            f"The rows have only some of them: list them all, task.labels=[{', '.join(of_teacher)}]"
        )
    return (
        "Use a teacher that was fine-tuned on this task. If its classes mean the same, give them "
        "the names of the rows, in id2label of its config.json."
    )


def positive_class(
    labels: Sequence[str], named: str | None, given: Sequence[str] | None
) -> str | None:
    """The class of two that F1 is of, whatever the order of a teacher's outputs.

    Args:
        labels: of the outputs.
        named: `task.positive`.
        given: `task.labels`, of which else the last is taken; None: the last one, sorted.

    Returns:
        One of the labels; None where there are more than two.

    Raises:
        ConfigError: one is named that there is not, or where there are more than two.
    """
    if len(labels) != 2:
        if named is not None:
            raise ConfigError(
                f"task.positive: {named}, but there are {len(labels)} classes",
                "Leave it out: macro_f1 is the mean of F1 over classes.",
            )
        return None
    last = given[-1] if given else max(labels, key=lambda name: _by_number(class_key(name)))
    try:
        return Classes(labels).name_of(named if named is not None else last)
    except BadExample as error:
        raise ConfigError(f"task.positive: {error}", "Name one of them.") from None


def _by_number(name: str) -> tuple[bool, float, str]:
    """Sorts 2 before 10, and numbers before words."""
    try:
        number_of = float(name)
    except ValueError:
        number_of = math.inf
    return (False, number_of, name) if math.isfinite(number_of) else (True, 0.0, name)


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
