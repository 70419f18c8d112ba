"""Sequences in the tokens of a student with a part of its teacher's vocabulary, and in both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from packed_batches import CLS, NUM_SPECIAL, SEP

from distilcli.corpus.store import Split

NUM_TEACHER = 60
# The teacher's ids of the student's tokens: all special ones, and every other piece.
KEPT = np.concatenate([np.arange(NUM_SPECIAL), np.arange(NUM_SPECIAL, NUM_TEACHER, 2)])


@dataclass(frozen=True)
class PairedRow:
    """One sequence.

    Attributes:
        student: its tokens.
        teacher: the same text in the teacher's tokens.
        places: as a paired store has them.
    """

    student: list[int]
    teacher: list[int]
    places: list[int]


class PairedSplit(Split):
    """A split of a store with the tokens of both, in memory."""

    def __init__(self, rows: Sequence[PairedRow]) -> None:
        self.rows = rows
        self.lengths = np.array([len(row.student) for row in rows], np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def tokens(self, index: int) -> np.ndarray:
        return np.array(self.rows[index].student, np.int32)

    def teacher(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        row = self.rows[index]
        return np.array(row.teacher, np.int32), np.array(row.places, np.int32)


def paired_row(num_pieces: int, draw: np.random.Generator) -> PairedRow:
    """A row of so many of the teacher's pieces; what the student lacks it reads in parts.

    Where there is one, the first of the student's tokens begins in none of the teacher's, as after
    a cut within a word.
    """
    student, teacher, places = [CLS], [CLS], [0]
    ids = {int(piece): index for index, piece in enumerate(KEPT)}
    if num_pieces > 3:
        student.append(int(draw.integers(NUM_SPECIAL, len(KEPT))))
        places.append(-1)
    for piece in draw.integers(NUM_SPECIAL, NUM_TEACHER, num_pieces).tolist():
        if piece in ids:
            student.append(ids[piece])
            places.append(len(teacher))
        else:
            parts = int(draw.integers(2, 4))
            student += draw.integers(NUM_SPECIAL, len(KEPT), parts).tolist()
            places += [-(len(teacher) + 1)] * parts
        teacher.append(piece)
    places.append(len(teacher))
    return PairedRow([*student, SEP], [*teacher, SEP], places)


def paired_split(lengths: Sequence[int], seed: int = 0) -> PairedSplit:
    draw = np.random.default_rng(seed)
    return PairedSplit([paired_row(length, draw) for length in lengths])


def same_split(split: Split, count: int) -> PairedSplit:
    """The rows of a split whose student has all of its teacher's vocabulary."""
    rows = [split.tokens(index).tolist() for index in range(count)]
    return PairedSplit([PairedRow(row, row, list(range(len(row)))) for row in rows])
