"""One row of a file or data set, and what a bad one is."""

from dataclasses import dataclass
from typing import Any

IGNORE_INDEX = -100  # what transformers and PyTorch take to say: there is no label here


@dataclass(frozen=True)
class Row:
    """One row that could be read.

    Attributes:
        number: which one of the file, from 1.
        values: by column.
        unit: what is counted: lines, rows, items of an array, questions.
    """

    number: int
    values: dict[str, Any]
    unit: str = "line"


@dataclass(frozen=True)
class BadRow:
    """One row that could not be used, and why; `number` and `unit` as those of a `Row`."""

    number: int
    reason: str
    hint: str = ""
    unit: str = "line"


def encodable(value: Any, depth: int = 4) -> Any:
    """The value with each half of a surrogate pair, which JSON lets pass, as a question mark.

    No character is gained or lost, so offsets into a text stay right.

    Args:
        value: a cell: text, or lists and objects of text.
        depth: of lists and objects that are looked into; no task reads deeper ones.
    """
    if isinstance(value, str):
        if value.isascii():  # most of them, and no copy is needed
            return value
        return value.encode("utf-8", errors="replace").decode("utf-8")
    if depth and isinstance(value, list):
        return [encodable(item, depth - 1) for item in value]
    if depth and isinstance(value, dict):
        return {key: encodable(item, depth - 1) for key, item in value.items()}
    return value
