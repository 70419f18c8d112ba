"""Where the tokens of a student are among those that its teacher has for the same text.

A student with a vocabulary of its own reads a text in other pieces than its teacher. Both have one
normalizer and one pre-tokenizer, so they find the same words, and within a word a piece begins
where the pieces before it end. So places follow from the lengths of pieces alone, for a whole batch
of texts at once; the offsets that tokenizers give would take longer than the tokens themselves.

    aligner = Aligner(spelling_of(student_backend), spelling_of(teacher_backend))
    places = aligner(student_tokens, teacher_tokens).places
"""

import json
import re
import string
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from distilcli.corpus.word_cache import SPLITS_AT_MARKS

_ONE_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # what byte_fallback spells an unknown character with


@dataclass(frozen=True)
class Spelling:
    """What the ids of a tokenizer stand for.

    Attributes:
        ids: by the string of the piece, added tokens included.
        lengths: int64 [ids], of the text of each; in characters or in bytes, always the same for
            one kind of tokenizer. That of [UNK], which can be of any text, is 1.
        in_bytes: whether lengths are in bytes of UTF-8.
        unknown: the id of [UNK] where nobody tells of how much text it is; -1: there is none.
        written: the id of [UNK] where the tokenizer tells its text; -1: there is none.
        begins_word: bool [ids], where the piece itself tells; None where only the tokenizer knows.
    """

    ids: dict[str, int]
    lengths: np.ndarray
    in_bytes: bool
    unknown: int
    written: int
    begins_word: np.ndarray | None


def spelling_of(backend: str) -> Spelling:
    """The pieces of a tokenizer.

    Args:
        backend: JSON of the fast tokenizer, as `text.tokenizers.text_backend` has it.
    """
    tree = json.loads(backend)
    model = tree["model"]
    vocabulary = model["vocab"]
    if not isinstance(vocabulary, dict):  # Unigram: pieces with their scores
        vocabulary = {piece: index for index, (piece, _) in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in tree["added_tokens"]}
    ids: dict[str, int] = vocabulary | added
    lengths = np.ones(max(ids.values()) + 1, np.int64)
    for piece, index in vocabulary.items():
        lengths[index] = max(1, _length(piece, model))
    unknown = model.get("unk_id")  # of a Unigram
    is_written = unknown is not None
    if not is_written:
        unknown = ids.get(model.get("unk_token") or "")
    if unknown is not None:
        lengths[unknown] = 1
    return Spelling(
        ids=ids,
        lengths=lengths,
        in_bytes=bool(model.get("byte_fallback")),
        unknown=-1 if is_written or unknown is None else unknown,
        written=unknown if is_written else -1,
        begins_word=_beginnings(tree, vocabulary, len(lengths)),
    )


def _length(piece: str, model: dict[str, Any]) -> int:
    """Of the text that a piece stands for, without what only marks its place in the word."""
    if model.get("byte_fallback"):
        return 1 if _ONE_BYTE.fullmatch(piece) else len(piece.encode("utf-8"))
    text = piece.removeprefix(model.get("continuing_subword_prefix") or "")
    return len(text.removesuffix(model.get("end_of_word_suffix") or ""))


def _beginnings(
    tree: dict[str, Any], vocabulary: dict[str, int], num_ids: int
) -> np.ndarray | None:
    """Which pieces begin a word.

    Only where no word can begin with the prefix of the pieces that go on with one, because that is
    of punctuation marks, and each of these is a word.
    """
    prefix = tree["model"].get("continuing_subword_prefix") or ""
    reader = (tree["pre_tokenizer"] or {}).get("type")
    is_mark = prefix != "" and prefix[0] in string.punctuation
    if tree["model"].get("type") != "WordPiece" or reader != SPLITS_AT_MARKS or not is_mark:
        return None
    begins = np.ones(num_ids, bool)
    begins[[index for piece, index in vocabulary.items() if piece.startswith(prefix)]] = False
    return begins


def kept_ids(student: Spelling, teacher: Spelling) -> np.ndarray:
    """The teacher's id of each of the student's pieces, int32 [student's ids]; -1: it has none."""
    kept = np.full(len(student.lengths), -1, np.int32)
    for piece, index in student.ids.items():
        kept[index] = teacher.ids.get(piece, -1)
    return kept


class Tokens(NamedTuple):
    """What one side makes of some texts, one after the other.

    Attributes:
        ids: int [tokens], without special ones.
        words: int [tokens], the number of the word that each is of, never decreasing. The same
            number is the same word on both sides.
        lengths: int [tokens], how much text each is of: that of `Spelling`, but for an [UNK] that
            is `written`.
    """

    ids: np.ndarray
    words: np.ndarray
    lengths: np.ndarray


class Alignment(NamedTuple):
    """Where each token of the student is among those of the teacher.

    Attributes:
        within: int64 [student's tokens], the teacher's token in which it begins; where the teacher
            has none for that word, one beside it.
        agrees: bool, whether that token is the same piece of the same stretch of text.
        before: int64, how many of the teacher's tokens begin before it does: where the teacher's
            tokens are cut when the student's are cut before this one.
    """

    within: np.ndarray
    agrees: np.ndarray
    before: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """int32 [student's tokens]: j where it is the teacher's token j, else -(j + 1).

        There, j is the teacher's token in which it begins.
        """
        return np.where(self.agrees, self.within, -self.within - 1).astype(np.int32)


class Aligner:
    """Aligns the tokens of a student with those of its teacher.

    Args:
        student: its pieces.
        teacher: likewise.

    Attributes:
        kept: see `kept_ids`.
    """

    def __init__(self, student: Spelling, teacher: Spelling) -> None:
        self.student = student
        self.teacher = teacher
        self.kept = kept_ids(student, teacher)

    def __call__(self, student: Tokens, teacher: Tokens) -> Alignment:
        """Align what both sides make of the same texts."""
        if not len(student.ids) or not len(teacher.ids):
            nowhere = np.zeros(len(student.ids), np.int64)
            return Alignment(nowhere, nowhere.astype(bool), nowhere)
        num_words = int(max(student.words[-1], teacher.words[-1])) + 1
        before, begins, is_whole = _compare(student, teacher, num_words)
        within = np.maximum(np.where(begins, before, before - 1), 0)
        # A word is longer on one side where the other has no piece for a character, nor [UNK].
        agrees = begins & is_whole[student.words]
        agrees &= self.kept[student.ids] == teacher.ids[within]
        agrees &= student.lengths == teacher.lengths[within]
        alignment = Alignment(within, agrees, before)
        self._correct_unknown(student, teacher, alignment, num_words)
        return alignment

    def _correct_unknown(
        self, student: Tokens, teacher: Tokens, alignment: Alignment, num_words: int
    ) -> None:
        """Correct an alignment where a word has an [UNK], of which nobody knows how long it is.

        A token is at the same spot on both sides if no [UNK] comes before it in its word, or none
        after it. Of an [UNK] itself both must be true: else it may be of more text on one side.
        """
        unknown = student.ids == self.student.unknown
        affected = np.zeros(num_words, bool)
        affected[student.words[unknown]] = True
        affected[teacher.words[teacher.ids == self.teacher.unknown]] = True
        own = np.flatnonzero(affected[student.words])
        others = np.flatnonzero(affected[teacher.words])
        alignment.agrees[own] = False
        if not len(own) or not len(others):
            return
        student, teacher = _some(student, own), _some(teacher, others)
        from_start = self._same_spot(student, teacher, num_words)
        backwards = _reversed(student, num_words), _reversed(teacher, num_words)
        from_end = self._same_spot(*backwards, num_words)[::-1]
        from_end = np.where(from_end < 0, -1, len(others) - 1 - from_end)
        spot = np.where(from_start < 0, from_end, from_start)
        spot[unknown[own] & (from_start != from_end)] = -1
        agrees = (spot >= 0) & (self.kept[student.ids] == teacher.ids[spot])
        alignment.agrees[own[agrees]] = True
        alignment.before[own[agrees]] = others[spot[agrees]]
        _order(alignment, is_estimate=np.isin(np.arange(len(unknown)), own[~agrees]))

    def _same_spot(self, student: Tokens, teacher: Tokens, num_words: int) -> np.ndarray:
        """The teacher's token that begins where one of the student does, for each; -1: unknown."""
        before, begins, _ = _compare(student, teacher, num_words)
        spot = np.minimum(before, len(teacher.ids) - 1)
        begins &= ~_follows_any(student.ids == self.student.unknown, student.words)
        begins &= ~_follows_any(teacher.ids == self.teacher.unknown, teacher.words)[spot]
        return np.where(begins, spot, -1)


def _compare(
    student: Tokens, teacher: Tokens, num_words: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare where tokens begin in their words.

    Returns:
        Of each token of the student: how many of the teacher's begin before it, and whether the
        next begins at the same spot; of each word: whether it is as long on both sides.
    """
    starts, totals = _in_words(student, num_words)
    teacher_starts, teacher_totals = _in_words(teacher, num_words)
    widths = np.maximum(totals, teacher_totals)
    bases = np.cumsum(widths) - widths
    own, others = bases[student.words] + starts, bases[teacher.words] + teacher_starts
    before = np.searchsorted(others, own)
    begins = others[np.minimum(before, len(others) - 1)] == own
    return before, begins, totals == teacher_totals


def _order(alignment: Alignment, is_estimate: np.ndarray) -> None:
    """Keep estimates between what is known before and after them, so that `before` never falls."""
    within, agrees, before = alignment
    # After a token that agrees, the teacher's token of that has begun, too.
    least = np.maximum.accumulate(np.where(is_estimate, 0, before + agrees))
    most = np.where(is_estimate, np.iinfo(before.dtype).max, before)
    before[:] = np.clip(before, np.where(is_estimate, least, 0), _least_after(most))
    within[:] = np.where(agrees, before, np.clip(within, np.maximum(before - 1, 0), before))


def _least_after(values: np.ndarray) -> np.ndarray:
    """The least of every value and all after it."""
    least: np.ndarray = np.minimum.accumulate(values[::-1])[::-1]
    return least


def _some(tokens: Tokens, chosen: np.ndarray) -> Tokens:
    return Tokens(tokens.ids[chosen], tokens.words[chosen], tokens.lengths[chosen])


def _reversed(tokens: Tokens, num_words: int) -> Tokens:
    """The same tokens from the last to the first, with words that are numbered in this order."""
    words = num_words - 1 - tokens.words[::-1]
    return Tokens(tokens.ids[::-1], words, tokens.lengths[::-1])


def _follows_any(marked: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Which tokens stand after a marked one in their word."""
    before = np.cumsum(marked) - marked
    is_first = np.diff(words, prepend=-1) != 0
    follows: np.ndarray = before > np.maximum.accumulate(np.where(is_first, before, 0))
    return follows


def _in_words(tokens: Tokens, num_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each token begins in its word, int64 [tokens], and how long each word is."""
    ends = np.cumsum(tokens.lengths)
    counts = np.bincount(tokens.words, minlength=num_words)
    word_ends = np.concatenate([[0], ends])[np.cumsum(counts)]
    totals = np.diff(word_ends, prepend=0)
    return ends - tokens.lengths - (word_ends - totals)[tokens.words], totals
