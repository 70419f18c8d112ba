"""The teacher's tokens beside those of a student that has a vocabulary of its own.

Rows of a paired store hold one stretch of text as both sides read it. The student's tokens decide
where it is cut; the teacher's are cut at the same spot of the text.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from distilcli.corpus.alignment import Aligner, Alignment, Spelling, Tokens, spelling_of
from distilcli.corpus.recipe import Recipe
from distilcli.corpus.text_reader import Read, TextReader
from distilcli.errors import ModelError

NOTHING = -1  # the place of a token that begins in none of the teacher's: as if in its [CLS]


class TeacherColumns(NamedTuple):
    """What a paired store keeps of the teacher, for some sequences one after the other.

    Attributes:
        ids: int32, the teacher's tokens of each sequence, from [CLS] to [SEP].
        lengths: int32 [sequences], how many they are.
        places: int32, of each token of the student, from [CLS] to [SEP]: its place among the
            teacher's (see `Alignment.places`), counted within the sequence; NOTHING where it begins
            in none of them.
    """

    ids: np.ndarray
    lengths: np.ndarray
    places: np.ndarray


def refuse_other_words(student: Recipe, teacher: Recipe, models: tuple[str, str]) -> None:
    """Refuse two tokenizers that do not find the same words in a text.

    Args:
        student: how the student reads texts.
        teacher: likewise.
        models: whose tokenizers these are, the student's first.

    Raises:
        ModelError: saying in what they differ.
    """
    parts = [_what_finds_words(json.loads(recipe.backend)) for recipe in (student, teacher)]
    for name, part in parts[0].items():
        if part != parts[1][name]:
            raise ModelError(
                f"{models[0]}: its tokenizer finds other words than that of {models[1]} (they "
                f"differ in {name})",
                "Use a student whose vocabulary is a part of its teacher's.",
            )


def _what_finds_words(backend: dict[str, Any]) -> dict[str, Any]:
    added = [{**token, "id": None} for token in backend["added_tokens"]]
    return {
        "normalizer": backend["normalizer"],
        "pre_tokenizer": backend["pre_tokenizer"],
        "added_tokens": sorted(added, key=lambda token: str(token["content"])),
        "the kind of model": backend["model"].get("type"),
    }


class Pairing:
    """Aligns texts that both sides have tokenised.

    Args:
        student: how the student reads them.
        teacher: likewise.

    Attributes:
        needs_encodings: whether the student must be read with encodings, which alone tell words.
    """

    def __init__(self, student: Recipe, teacher: Recipe) -> None:
        self._spellings = spelling_of(student.backend), spelling_of(teacher.backend)
        self._aligner = Aligner(*self._spellings)
        self.needs_encodings = any(one.begins_word is None for one in self._spellings)
        self._read = TextReader(teacher, self.needs_encodings)

    def __call__(self, texts: list[str], student: list[Read]) -> tuple[Alignment, np.ndarray]:
        """The alignment of some texts, one after the other, and the teacher's ids of them.

        A text in which the student finds no token has none of the teacher either. In one in which
        the two count different words, nothing agrees.

        Args:
            texts: to be read as the teacher reads them.
            student: the same as the student reads them.
        """
        read = self._read(texts)
        chosen = [one if own[0] else ([], None) for own, one in zip(student, read, strict=True)]
        sides = self._side(student, self._spellings[0]), self._side(chosen, self._spellings[1])
        # Numbers of words go on from text to text, in one way on both sides.
        num_words = np.maximum(sides[0].num_words, sides[1].num_words)
        first_words = np.cumsum(num_words) - num_words
        tokens = [
            Tokens(side.ids, side.words + np.repeat(first_words, side.sizes), side.lengths)
            for side in sides
        ]
        alignment = self._aligner(*tokens)
        differ = sides[0].num_words != sides[1].num_words
        if not self.needs_encodings:  # else words have numbers of the tokenizer's own, not of ours
            alignment.agrees[np.repeat(differ, sides[0].sizes)] = False
        # What the teacher has before the student's first token of a text is of the same text.
        first = sides[0].sizes > 0
        alignment.before[sides[0].starts[first]] = sides[1].starts[first]
        return alignment, sides[1].ids

    def _side(self, texts: Sequence[Read], spelling: Spelling) -> "_Side":
        sizes = np.array([len(ids) for ids, _ in texts])
        starts = np.cumsum(sizes) - sizes
        ids = _joined(ids for ids, _ in texts)
        if self.needs_encodings:
            # Without special tokens every token is of a word.
            encodings = (encoding for _, encoding in texts if encoding is not None)
            words = _joined(cast("list[int]", encoding.word_ids) for encoding in encodings)
        else:
            assert spelling.begins_word is not None
            words = np.cumsum(spelling.begins_word[ids])
            has_tokens = sizes > 0
            words = words - np.repeat(words[starts[has_tokens]], sizes[has_tokens])
        num_words = np.zeros(len(texts), np.int64)
        num_words[sizes > 0] = words[(starts + sizes - 1)[sizes > 0]] + 1
        lengths = spelling.lengths[ids]
        _measure_unknown(texts, ids, starts, spelling, lengths)
        return _Side(ids, words, lengths, sizes, starts, num_words)


def _measure_unknown(
    texts: Sequence[Read],
    ids: np.ndarray,
    starts: np.ndarray,
    spelling: Spelling,
    lengths: np.ndarray,
) -> None:
    """Correct the length of every [UNK] whose token in the encoding is its text."""
    places = np.flatnonzero(ids == spelling.written)
    text_of = np.searchsorted(starts, places, side="right") - 1
    for text in np.unique(text_of).tolist():
        encoding = texts[text][1]
        assert encoding is not None
        written = encoding.tokens  # a new list with every call
        for place in places[text_of == text].tolist():
            unknown = written[place - starts[text]]
            lengths[place] = len(unknown.encode("utf-8")) if spelling.in_bytes else len(unknown)


class _Side(NamedTuple):
    """Texts one after the other: `Tokens`, words counted in each; size, start, words of each."""

    ids: np.ndarray
    words: np.ndarray
    lengths: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    num_words: np.ndarray


def _joined(lists: Iterable[list[int]]) -> np.ndarray:
    """Lists of integers as one array of int64, faster than numpy makes it of them."""
    values = array("q")
    for one in lists:
        values.fromlist(one)
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)


@dataclass
class TeacherSide:
    """The teacher's tokens of one split, as its texts come."""

    recipe: Recipe
    _ids: list[np.ndarray] = field(default_factory=list)
    _alignments: list[Alignment] = field(default_factory=list)
    _num_ids: int = 0

    def add(self, alignment: Alignment, ids: np.ndarray) -> None:
        """Go on with more texts, as `Pairing` gives them."""
        within, before = (
            (places + self._num_ids).astype(np.int32)  # of a whole shard: half the memory
            for places in (alignment.within, alignment.before)
        )
        self._alignments.append(Alignment(within, alignment.agrees, before))
        self._ids.append(ids.astype(np.int32))
        self._num_ids += len(ids)

    def columns(self, starts: np.ndarray, sizes: np.ndarray) -> TeacherColumns:
        """What belongs to the student's sequences.

        Args:
            starts: the first token of each among all tokens of the student, in the order of texts.
            sizes: how many there are, without [CLS] and [SEP].
        """
        within, agrees, before = map(np.concatenate, zip(*self._alignments, strict=True))
        before = np.append(before, self._num_ids)
        first = before[starts]
        room = self.recipe.max_length - 2
        own_sizes = np.clip(before[starts + sizes] - first, 0, room)
        text = np.concatenate(self._ids)[_ranges(first, own_sizes)]
        special = self.recipe.cls_token_id, self.recipe.sep_token_id
        place = within[chosen := _ranges(starts, sizes)] - np.repeat(first, sizes)
        is_here = (place >= 0) & (place < np.repeat(own_sizes, sizes))
        place += 1  # after [CLS]
        place = np.where(is_here, np.where(agrees[chosen], place, -place - 1), NOTHING)
        return TeacherColumns(
            ids=_between(text, own_sizes, special),
            lengths=(own_sizes + 2).astype(np.int32),
            places=_between(place, sizes, (0, own_sizes + 1)),
        )


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The integers from each start on, as many as its size says, one range after the other."""
    shifts = starts - (np.cumsum(sizes) - sizes)
    ranges: np.ndarray = np.arange(int(sizes.sum())) + np.repeat(shifts, sizes)
    return ranges


def _between(
    values: np.ndarray, sizes: np.ndarray, around: tuple[int | np.ndarray, int | np.ndarray]
) -> np.ndarray:
    """Rows of these sizes with one value before and one after each, int32."""
    ends = np.cumsum(sizes + 2)
    rows = np.empty(int(ends[-1]), np.int32)
    rows[_ranges(ends - sizes - 1, sizes)] = values
    rows[ends - sizes - 2], rows[ends - 1] = around
    return rows
