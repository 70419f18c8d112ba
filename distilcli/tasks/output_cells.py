"""What may stand in a row as a teacher's outputs, and what it is as logits.

- A list: a value for each class, in the order of `task.labels`. An object: a value for each class,
  by its name. In a CSV both are JSON text. Or a column for each class, a value in each.
- Of tagging a list of these, one for each word; null for a word whose outputs nobody needs.
- A number, where the output of the task is one; of documents in a list a list of numbers.

Probabilities become logits: their logarithms where one class is right, log p - log(1 - p) where any
are. A probability of 0 counts as the smallest normal number of float32, so that it stays finite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from distilcli.errors import shortened
from distilcli.files.json_text import parse_json
from distilcli.tasks.classes import Classes
from distilcli.tasks.examples import BadExample, is_nothing
from distilcli.tasks.labels import parsed_number

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)
_MAX_ERROR = 1e-3  # of the sum of probabilities: they may be rounded to some digits
_NONE = "no outputs of the teacher"


class Cell(NamedTuple):
    """Outputs of one row as they were written down.

    Attributes:
        names: the classes that they are of; None: in the order of `task.labels`, or a number.
        values: float64 [classes], [1] of a number; of tagging [words, classes], NaN in all classes
            of a word without outputs.
    """

    names: tuple[str, ...] | None
    values: np.ndarray


@dataclass(frozen=True)
class Meaning:
    """What the outputs of a task mean.

    Attributes:
        labels: the classes, in the order of their ids.
        are_probabilities: whether they are probabilities, not logits or numbers.
        any_of: whether each class is right or not by itself.
        is_number: whether they are a number.
        may_be_lists: whether the order of the classes is known to whoever wrote the outputs down.
    """

    labels: Sequence[str]
    are_probabilities: bool
    any_of: bool
    is_number: bool
    may_be_lists: bool = True

    def logits(self, cell: Cell) -> np.ndarray:
        """The outputs as a model would give them, float32 of the shape of `cell.values`.

        Raises:
            BadExample: they are of other classes, no probabilities, or all of them are 0.
        """
        values = cell.values if self.is_number else self._in_order(cell)
        rows = values.reshape(-1, values.shape[-1])
        known = rows[~np.isnan(rows).any(axis=1)]  # of tagging, words may be without
        if self.are_probabilities:
            self._check_probabilities(known)
            values = self._of_probabilities(values)
        elif not self.is_number and not known.any(axis=1).all():
            raise BadExample("the outputs are 0 for every class, as of a model that said nothing")
        found: np.ndarray = values.astype(np.float32)
        return found

    def _in_order(self, cell: Cell) -> np.ndarray:
        """The values, in the order of the classes."""
        number = cell.values.shape[-1]
        if cell.names is None:
            if not self.may_be_lists:
                raise BadExample(
                    "outputs in a list, where others are by class; list the classes in "
                    "task.labels, in the order of its values, or write it by class, too"
                )
            if number != len(self.labels):
                raise BadExample(f"{number} outputs, but there are {len(self.labels)} classes")
            return cell.values
        if cell.names == tuple(self.labels):
            return cell.values
        classes = Classes(self.labels)
        places = {classes.name_of(name): index for index, name in enumerate(cell.names)}
        missing = [name for name in self.labels if name not in places]
        if missing:
            raise BadExample(f"no output for the class {missing[0]!r}")
        if number != len(self.labels):
            raise BadExample(f"{number} outputs, but there are {len(self.labels)} classes")
        ordered: np.ndarray = cell.values[..., [places[name] for name in self.labels]]
        return ordered

    def _check_probabilities(self, rows: np.ndarray) -> None:
        outside = rows[(rows < 0) | (rows > 1)]
        if len(outside):
            raise BadExample(f"{outside[0]:g} is no probability: they are from 0 to 1")
        sums = rows.sum(axis=1)
        wrong = sums[np.abs(sums - 1) > _MAX_ERROR]
        if not self.any_of and len(wrong):
            raise BadExample(f"the probabilities add up to {wrong[0]:.4g}, not to 1")

    def _of_probabilities(self, values: np.ndarray) -> np.ndarray:
        logs: np.ndarray = np.log(np.maximum(values, _SMALLEST))
        return logs - np.log(np.maximum(1 - values, _SMALLEST)) if self.any_of else logs


def look_like_probabilities(rows: np.ndarray, any_of: bool) -> bool:
    """Whether outputs that are said to be logits are from 0 to 1, and add up to 1.

    Args:
        rows: float [outputs, classes].
        any_of: whether each class is right or not by itself, so that they need not add up.
    """
    if not ((rows >= 0) & (rows <= 1)).all():
        return False
    return any_of or bool((np.abs(rows.sum(axis=1) - 1) <= _MAX_ERROR).all())


def number_cell(value: Any) -> Cell:
    """The number in a cell.

    Raises:
        BadExample: there is none.
    """
    if value is None or value == "":
        raise BadExample(_NONE)
    return Cell(None, np.array([_number(value)]))


def number_cells(value: Any) -> Cell:
    """The numbers in a list, which may be JSON text, one for each document; or a single one.

    Raises:
        BadExample: there are none, or one of them is no number.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        value = _parsed(value)
    values = value if isinstance(value, list) else [value]
    if not isinstance(value, list) or not values:
        return Cell(None, number_cell(value).values[:, None])
    return Cell(None, _array(values)[:, None])


def joined_cells(cells: Sequence[Any]) -> Any:
    """What several rows that are one example say of outputs; None: some say nothing.

    Args:
        cells: of each row its outputs, or the keys that they are kept under.
    """
    known = [cell for cell in cells if cell is not None]
    if len(known) < len(cells):
        return None
    if all(isinstance(cell, Cell) for cell in known):
        return Cell(None, np.concatenate([cell.values for cell in known]))
    return tuple(key for keys in known for key in keys)


def columns_cell(names: Sequence[str], values: Sequence[Any]) -> Cell:
    """The outputs in a column for each class.

    Raises:
        BadExample: one of them is missing or no number.
    """
    for name, value in zip(names, values, strict=True):
        if value is None or value == "":
            raise BadExample(f"{_NONE} for the class {name!r}")
        if is_nothing(value):
            raise BadExample(f"the output for the class {name!r} is NaN")
    return Cell(tuple(names), _array(values))


def class_cell(value: Any) -> Cell:
    """The outputs in a list or an object, which may be JSON text.

    Raises:
        BadExample: it is something else, or a value in it is no number.
    """
    value = _parsed(value)
    if isinstance(value, Mapping):
        names = tuple(map(str, value))
        return columns_cell(names, list(value.values()))
    if not isinstance(value, list):
        raise BadExample(f"outputs {_short(value)} are neither a list nor an object by class")
    return Cell(None, _array(value))


def word_cells(value: Any) -> Cell:
    """The outputs of all words in a list of lists or objects, which may be JSON text.

    Raises:
        BadExample: it is something else; or the words are of different classes.
    """
    value = _parsed(value)
    if not isinstance(value, list):
        raise BadExample(f"outputs {_short(value)} are no list with one entry for each word")
    cells = [None if word is None else _word(index, word) for index, word in enumerate(value)]
    first = next((cell for cell in cells if cell is not None), None)
    if first is None:
        raise BadExample(_NONE)
    rows = np.full((len(cells), len(first.values)), np.nan)
    for index, cell in enumerate(cells):
        if cell is not None:
            rows[index] = _like(first, cell, index)
    return Cell(first.names, rows)


def _word(index: int, value: Any) -> Cell:
    try:
        return class_cell(value)
    except BadExample as error:
        raise BadExample(f"word {index + 1}: {error}") from None


def _like(first: Cell, cell: Cell, index: int) -> np.ndarray:
    """The values of one word in the order of those of the first word."""
    if cell.names == first.names and len(cell.values) == len(first.values):
        return cell.values
    if cell.names is None or first.names is None or set(cell.names) != set(first.names):
        raise BadExample(
            f"word {index + 1}: its outputs are of other classes than the first word's"
        )
    ordered: np.ndarray = cell.values[[cell.names.index(name) for name in first.names]]
    return ordered


def _parsed(value: Any) -> Any:
    """The value; of text the JSON that it is."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadExample(_NONE)
    if is_nothing(value):
        raise BadExample("NaN in place of outputs")
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError:
        quotes = "; JSON has its names in double quotes" if "'" in value else ""
        raise BadExample(f"outputs {_short(value)} are no JSON{quotes}") from None


def _array(values: Sequence[Any]) -> np.ndarray:
    """Numbers as float64."""
    if all(type(value) is float for value in values):  # as nearly always, and much faster
        found = np.array(values, dtype=np.float64)
        if np.isfinite(found).all() and (np.abs(found) <= _LARGEST).all():
            return found
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    """The number in a cell, one that float32 can hold."""
    if value is None:
        raise BadExample("an output is missing")
    if is_nothing(value):
        raise BadExample("an output is NaN")
    found = parsed_number(value, "output")
    if not abs(found) <= _LARGEST:
        raise BadExample(f"output {_short(value)} is not finite")
    return found


def _short(value: Any) -> str:
    return shortened(repr(value), 60)
