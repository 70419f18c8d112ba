"""Text to sequences of tokens: tokenised in batches, cut between words, never across documents."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from tokenizers import Encoding

from distilcli.corpus.manifest import SPLITS, SplitName
from distilcli.corpus.pairs import Pairing, TeacherColumns, TeacherSide
from distilcli.corpus.recipe import Recipe
from distilcli.corpus.text_reader import Read, TextReader

SEGMENT_CHARS = 1 << 14  # long documents are tokenised in pieces of about this size
BATCH_CHARS = 1 << 20  # text tokenised by one call; bounds the memory that encodings take
NUM_SPECIALS = 2  # [CLS] and [SEP]


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a document is kept out of training: decided by its text alone, so it stays so."""
    if fraction <= 0.0:
        return False
    digest = blake2b(text.strip().encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64 < fraction


@dataclass(frozen=True)
class Segment:
    """A piece of one document that is tokenised by itself."""

    text: str
    split: SplitName
    is_last: bool


def segments(text: str, split: SplitName, whole: bool) -> Iterator[Segment]:
    """Cut a long document at line ends, so that threads share it and memory stays bounded.

    Args:
        text: one document.
        split: where it belongs.
        whole: never cut, for tokenizers that look across whitespace.
    """
    start = 0
    while not whole and len(text) - start > SEGMENT_CHARS:
        end = text.rfind("\n", start, start + SEGMENT_CHARS) + 1
        end = end or text.find("\n", start + SEGMENT_CHARS) + 1
        if not end:
            break
        yield Segment(text[start:end], split, is_last=end == len(text))
        start = end
    if start < len(text):
        yield Segment(text[start:], split, is_last=True)


def _batches(pieces: Iterator[Segment]) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    num_chars = 0
    for piece in pieces:
        batch.append(piece)
        num_chars += len(piece.text)
        if num_chars >= BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


@dataclass
class Sequences:
    """The sequences of one split, filled up within a document and never across two.

    Add the encodings of a document's segments in order, then `finish` it.

    Attributes:
        values: the tokens of all sequences, from [CLS] to [SEP].
        lengths: of each sequence.
        starts: of each, how many tokens of text came before it, those that were dropped included.
        teacher: what the teacher makes of the same texts, where that is kept.
    """

    recipe: Recipe
    values: "array[int]" = field(default_factory=lambda: array("i"))
    lengths: "array[int]" = field(default_factory=lambda: array("i"))
    starts: "array[int]" = field(default_factory=lambda: array("q"))
    teacher: TeacherSide | None = None
    num_documents: int = 0
    num_empty: int = 0
    num_remainders: int = 0
    num_remainder_tokens: int = 0
    _carry: list[int] = field(default_factory=list)
    _has_tokens: bool = False

    @property
    def room(self) -> int:
        """Tokens of text that fit into one sequence."""
        return self.recipe.max_length - NUM_SPECIALS

    def add(self, new_ids: list[int], encoding: Encoding | None) -> None:
        """Go on with the document; what does not fill a sequence yet is carried.

        Args:
            new_ids: tokens of the next segment.
            encoding: which words they are of; None where the vocabulary tells how words go on.
        """
        ids = self._carry + new_ids
        offset = len(self._carry)
        self._has_tokens = self._has_tokens or bool(ids)
        start = 0
        while len(ids) - start > self.room:
            end = self._cut(ids, start, offset, encoding)
            self._emit(ids[start:end])
            start = end
        self._carry = ids[start:]

    def teacher_columns(self) -> TeacherColumns:
        """What the teacher has for the same sequences."""
        assert self.teacher is not None
        sizes = np.frombuffer(self.lengths, np.int32) - NUM_SPECIALS
        return self.teacher.columns(np.frombuffer(self.starts, np.int64), sizes)

    def finish(self) -> None:
        """End the document: its remainder becomes a sequence, or is dropped and counted."""
        if not self._has_tokens:
            self.num_empty += 1
            return
        self.num_documents += 1
        if len(self._carry) + NUM_SPECIALS >= self.recipe.min_length:
            self._emit(self._carry)
        else:
            self.num_remainders += 1
            self.num_remainder_tokens += len(self._carry)
        self._carry, self._has_tokens = [], False

    def _cut(self, ids: list[int], start: int, offset: int, encoding: Encoding | None) -> int:
        """Where the sequence from `start` ends: before a word, unless that makes it too short."""
        end = start + self.room
        # A segment starts with a word, so there is no need to look back into the carried tokens.
        shortest = max(start + self.recipe.min_length - NUM_SPECIALS, offset)
        for cut in range(end, shortest - 1, -1):
            if not self._is_within_word(ids, cut, offset, encoding):
                return cut
        return end

    def _is_within_word(
        self, ids: list[int], cut: int, offset: int, encoding: Encoding | None
    ) -> bool:
        if cut == offset:
            return False
        if self.recipe.continuations is not None:
            return ids[cut] in self.recipe.continuations
        assert encoding is not None
        word = encoding.token_to_word(cut - offset)
        return word is not None and word == encoding.token_to_word(cut - offset - 1)

    def _emit(self, ids: list[int]) -> None:
        kept = len(self.values) - NUM_SPECIALS * len(self.lengths)
        self.starts.append(kept + self.num_remainder_tokens)
        self.values.append(self.recipe.cls_token_id)
        self.values.fromlist(ids)
        self.values.append(self.recipe.sep_token_id)
        self.lengths.append(len(ids) + NUM_SPECIALS)


class Sequencer:
    """Turns documents into the sequences of both splits."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._pairing = None if recipe.teacher is None else Pairing(recipe, recipe.teacher)
        needs_encodings = self._pairing is not None and self._pairing.needs_encodings
        self._read = TextReader(recipe, needs_encodings)

    def __call__(self, texts: Iterable[str], split: SplitName | None) -> dict[SplitName, Sequences]:
        """The sequences of `texts`, all in `split`, or where the hash of each puts it if None."""
        sequences = {name: Sequences(self.recipe) for name in SPLITS}
        if self.recipe.teacher is not None:
            for one in sequences.values():
                one.teacher = TeacherSide(self.recipe.teacher)
        for batch in _batches(self._segments(texts, split, sequences)):
            read = self._read([segment.text for segment in batch])
            for segment, (ids, encoding) in zip(batch, read, strict=True):
                sequences[segment.split].add(ids, encoding)
                if segment.is_last:
                    sequences[segment.split].finish()
            for name in SPLITS if self._pairing else ():
                own = [pair for pair in zip(batch, read, strict=True) if pair[0].split == name]
                self._pair(own, sequences[name])
        return sequences

    def _pair(self, read: list[tuple[Segment, Read]], sequences: Sequences) -> None:
        """Add what the teacher makes of segments of one split, if that is kept."""
        if self._pairing is None or sequences.teacher is None or not read:
            return
        texts = [segment.text for segment, _ in read]
        sequences.teacher.add(*self._pairing(texts, [own for _, own in read]))

    def _segments(
        self, texts: Iterable[str], fixed: SplitName | None, sequences: dict[SplitName, Sequences]
    ) -> Iterator[Segment]:
        for text in texts:
            split = fixed or self._split_of(text)
            if text.strip():
                # A line's end is no part of a document, and a byte-level tokenizer has a token
                # for it.
                whole = not self.recipe.splits_at_whitespace
                yield from segments(text.rstrip("\r\n"), split, whole)
            else:
                sequences[split].num_empty += 1

    def _split_of(self, text: str) -> SplitName:
        return "held_out" if is_held_out(text, self.recipe.held_out_fraction) else "train"
