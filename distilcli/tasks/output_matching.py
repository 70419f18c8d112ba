"""Which outputs of a file each row of a task has: by ids, or by texts and how often they occur."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distilcli.errors import DataError, counted
from distilcli.tasks.examples import BadExample, Examples

# Outputs of one text by one model differ by rounding, where it is shown among other texts.
_ROUNDING = 1e-3
_SHOWN = 5
Key = bytes | str


@dataclass(frozen=True)
class Filed:
    """One row of the files: how it is found, the digest of its texts if it has them, its outputs.

    Attributes:
        outputs: as they are written, and as logits once the classes are known.
        place: file and number of the row, for messages.
    """

    key: Key
    texts: bytes | None
    outputs: Any
    place: str = ""


class Matching:
    """Which outputs of the files each example has.

    Args:
        filed: the rows of the files, whose outputs are logits.
        train: examples to train on, of each source, with their keys.
        dev: those to be measured on, likewise.
        id_column: by which rows are matched; None: by their texts.
    """

    def __init__(
        self,
        filed: Examples[Filed],
        train: Sequence[Examples[Any]],
        dev: Examples[Any],
        id_column: str | None,
    ) -> None:
        self._name, self._id = filed.name, id_column
        self._of_key: dict[Key, list[Filed]] = defaultdict(list)
        for row in filed.usable:
            self._of_key[row.key].append(row)
        self._wanted = Counter(
            key for split in train for one in split.usable for key in keys_of(one)
        )
        self._measured = Counter(key for one in dev.usable for key in keys_of(one))
        self._given: Counter[Key] = Counter()
        self._given_to_dev: Counter[Key] = Counter()
        self._refuse_several()

    def for_train(self, key: Key, texts: bytes) -> Filed:
        """The row with what is kept under a key for rows to train on, each time the next one.

        Args:
            key: one of `keys_of` an example.
            texts: digest of its texts.

        Raises:
            BadExample: there are none, or not so many; or an id has other texts.
        """
        rows = self._of_key.get(key, [])
        number = 0 if self._id is not None else self._given[key]
        self._given[key] += 1
        if number >= len(rows):
            of_which = f" {number + 1}" if rows else ""
            raise BadExample(f"no outputs{of_which} for it in {self._name}{self._said(key)}")
        return self._checked(rows[number], texts)

    def for_dev(self, key: Key, texts: bytes) -> Filed | None:
        """The row with what is kept under a key for dev rows; None: there is none.

        Args:
            key: one of `keys_of` an example.
            texts: digest of its texts.

        Raises:
            BadExample: an id has other texts.
        """
        rows = self._of_key.get(key, [])
        number = 0
        if self._id is None:
            # After those of the rows to train on, where there are as many as rows.
            has_both = len(rows) >= self._wanted[key] + self._measured[key]
            number = self._given_to_dev[key] + has_both * self._wanted[key]
            self._given_to_dev[key] += 1
        return self._checked(rows[number], texts) if number < len(rows) else None

    def _checked(self, row: Filed, texts: bytes) -> Filed:
        if row.texts is not None and row.texts != texts:
            raise BadExample(
                f"{row.place} has other texts for it{self._said(row.key)}: not the same row"
            )
        return row

    def _said(self, key: Key) -> str:
        return f" ({self._id} {key!s})" if self._id is not None else ""

    def _refuse_several(self) -> None:
        """Refuse more outputs for a text, or an id, than there are rows, if they are not alike."""
        doubtful = []
        for key, rows in self._of_key.items():
            if len(rows) == 1:
                continue
            wanted, measured = self._wanted[key], self._measured[key]
            is_told = self._id is None and len(rows) in (wanted, measured, wanted + measured)
            if (wanted or measured) and not is_told and not _alike(rows):
                doubtful.append(key)
        if not doubtful:
            return
        what = "id" if self._id is not None else "text"
        ids = [str(key) for key in doubtful[:_SHOWN]] if self._id is not None else []
        raise DataError(
            f"{self._name}: several outputs for {counted(len(doubtful), what)}, and nothing says "
            "which row each is for",
            "Give each row of the task its own outputs, by a column of ids: task.teacher_outputs.id"
            if self._id is None
            else "Give each id once.",
            ids,
        )


def _alike(rows: Sequence[Filed]) -> bool:
    first = rows[0].outputs
    return all(
        row.outputs.shape == first.shape
        and np.allclose(row.outputs, first, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True)
        for row in rows[1:]
    )


def keys_of(example: Any) -> Sequence[Key]:
    """What an example's outputs are kept under: one key, or one for each of its parts."""
    found: Key | tuple[Key, ...] = example.taught
    return found if isinstance(found, tuple) else (found,)
