"""Places of a student's tokens among its teacher's, held to the offsets that tokenizers give."""

import json
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from tokenizer_kinds import (
    AWKWARD,
    KINDS,
    awkward_texts,
    fast_tokenizer,
    half_of,
    teacher_tree,
    with_fewer_pieces,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from distilcli.corpus.alignment import Aligner, Tokens, kept_ids, spelling_of
from distilcli.corpus.pairs import Pairing
from distilcli.corpus.recipe import make_recipe
from distilcli.corpus.text_reader import TextReader
from distilcli.text.tokenizers import text_backend

TREES = {kind: teacher_tree(kind) for kind in KINDS}
ONE_BYTE = re.compile("<0x..>")
each_kind = pytest.mark.parametrize("kind", KINDS)


def as_bytes(text: str) -> bytes:
    """UTF-8, or the one byte that a piece such as <0x0A> stands for."""
    return bytes.fromhex(text[3:5]) if ONE_BYTE.fullmatch(text) else text.encode()


@dataclass
class Side:
    """A tokenizer, and all that it tells about a text."""

    tokenizer: PreTrainedTokenizerFast

    @cached_property
    def backend(self) -> Tokenizer:
        return Tokenizer.from_str(json.dumps(text_backend(self.tokenizer)))

    def read(self, text: str) -> "Side":
        encoding = self.backend.encode(text, add_special_tokens=False)
        self.ids, self.words, self.offsets = encoding.ids, encoding.word_ids, encoding.offsets
        self.pieces = self.tokenizer.convert_ids_to_tokens(self.ids)
        unknown = self.tokenizer.unk_token_id
        self.unknown_words = {w for w, i in zip(self.words, self.ids, strict=True) if i == unknown}
        texts = self.pieces
        if self.is_unigram:  # which tells the text of what it does not know
            texts, self.unknown_words = encoding.tokens, set()
        self.texts = [as_bytes(text.removeprefix(self.prefix)) for text in texts]
        # Tokens of which a character, or a part of one, is of another token, too.
        uses = np.zeros(len(text) + 1, int)
        for start, end in self.offsets:
            uses[start:end] += 1
        self.is_shared = [a == b or uses[a:b].max() > 1 for a, b in self.offsets]
        return self

    def before(self, index: int) -> bytes:
        """What its word has before a token, as far as pieces spell it."""
        word = self.words[index]
        texts = [p for p, w in zip(self.texts[:index], self.words, strict=False) if w == word]
        return b"".join(texts)

    @cached_property
    def is_unigram(self) -> bool:
        return json.loads(self.backend.to_str())["model"]["type"] == "Unigram"

    @cached_property
    def prefix(self) -> str:
        """Of pieces that go on with a word."""
        model = json.loads(self.backend.to_str())["model"]
        return model.get("continuing_subword_prefix") or ""


def check(student: Side, teacher: Side, index: int, place: int, before: int) -> None:
    """One token's place; what the offsets or the pieces cannot tell is not compared."""
    where = (index, place, student.pieces, teacher.pieces)
    found = place if place >= 0 else -place - 1
    word = student.words[index]
    if place >= 0:
        assert student.pieces[index] == teacher.pieces[place], where
        assert word == teacher.words[place], where
        if not ONE_BYTE.fullmatch(student.pieces[index]):  # which has the offsets of all its text
            assert student.offsets[index] == teacher.offsets[place], where
        assert before == place, where
    if word in student.unknown_words | teacher.unknown_words:
        return
    text_before = student.before(index)
    same = [
        other
        for other, piece in enumerate(teacher.pieces)
        if teacher.words[other] == word and piece == student.pieces[index]
        if teacher.texts[other] == student.texts[index] and teacher.before(other) == text_before
    ]
    assert same == ([place] if place >= 0 else []), where
    start = student.offsets[index][0]
    around = [i for i, (a, b) in enumerate(teacher.offsets) if a <= start < b]
    if not student.is_shared[index] and not any(teacher.is_shared[i] for i in around):
        assert around == [found], where
        assert before == sum(a < start for a, _ in teacher.offsets), where
        spans_agree = student.offsets[index] == teacher.offsets[found]
        is_same = student.pieces[index] == teacher.pieces[found]
        assert (place >= 0) == (spans_agree and is_same), where


def compare(student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast, seed: int) -> float:
    """Check every token of some texts, read together; the share that agrees."""
    sides = Side(student), Side(teacher)
    texts = [*AWKWARD, *awkward_texts(20, seed)]
    alignment, teacher_ids = pair(student, teacher, texts)
    places = alignment.places.tolist()
    start = teacher_start = 0
    for text in texts:
        own, others = (side.read(text) for side in sides)
        if not own.ids:
            continue
        end, teacher_end = start + len(own.ids), teacher_start + len(others.ids)
        assert teacher_ids[teacher_start:teacher_end].tolist() == others.ids
        pairs = zip(places[start:end], alignment.before[start:end].tolist(), strict=True)
        for index, (place, before) in enumerate(pairs):
            shift = teacher_start if place >= 0 else -teacher_start
            check(own, others, index, place - shift, before - teacher_start)
        start, teacher_start = end, teacher_end
    assert (start, teacher_start) == (len(places), len(teacher_ids))
    assert (np.diff(alignment.before) >= 0).all()
    return float(np.mean(alignment.places >= 0))


def pair(student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast, texts: list[str]):
    recipes = [
        make_recipe(json.dumps(text_backend(one)), (2, 3), (64, 3), 0.0)
        for one in (student, teacher)
    ]
    pairing = Pairing(*recipes)
    return pairing(texts, TextReader(recipes[0], pairing.needs_encodings)(texts))


@each_kind
@pytest.mark.parametrize("share", [0.15, 0.6])
def test_places_are_where_offsets_say(kind, share):
    teacher = fast_tokenizer(TREES[kind])
    for seed in range(2):
        student = fast_tokenizer(with_fewer_pieces(TREES[kind], share, seed))
        assert 0.02 < compare(student, teacher, seed) < 0.98
        assert 0.02 < compare(teacher, student, seed) < 0.98


@each_kind
def test_of_a_trimmed_vocabulary_too(kind):
    teacher = fast_tokenizer(TREES[kind])
    student = half_of(teacher)
    assert 0.02 < compare(student, teacher, 5) < 0.98
    spellings = [spelling_of(json.dumps(text_backend(one))) for one in (student, teacher)]
    for index, kept in enumerate(kept_ids(*spellings)):
        assert student.convert_ids_to_tokens(index) == teacher.convert_ids_to_tokens(int(kept))


@each_kind
def test_one_tokenizer_agrees_with_itself_but_after_unknown_text(kind):
    teacher = fast_tokenizer(TREES[kind])
    assert compare(teacher, teacher, 1) > 0.9
    alignment, ids = pair(teacher, teacher, AWKWARD)
    if kind.startswith("wordpiece") or kind == "byte-level":
        assert alignment.places.tolist() == alignment.before.tolist() == list(range(len(ids)))


# Words with text that one side does not know, piece by piece


def word_of(vocabulary: str, text: str, *merges: tuple[str, str], has_unknown: bool = True):
    """A word as a BPE reads it; what it does not know is one [UNK]."""
    pieces = ["[UNK]", *vocabulary, *map("".join, merges)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    unknown = "[UNK]" if has_unknown else None
    backend = Tokenizer(BPE(ids, list(merges), unk_token=unknown, fuse_unk=True))
    tokens = np.array(backend.encode(text).ids, np.int64)
    spelling = spelling_of(backend.to_str())
    return spelling, Tokens(tokens, np.zeros(len(tokens), int), spelling.lengths[tokens])


@pytest.mark.parametrize(
    ("student", "teacher", "text", "places"),
    [
        pytest.param("ab", "abxy", "axyb", [0, -2, 3], id="after an unknown stretch"),
        pytest.param("ab", "abxy", "axybb", [0, -2, 3, 4], id="twice the same piece after it"),
        pytest.param("ab", "ab", "axyb", [0, 1, 2], id="unknown on both sides"),
        pytest.param("ab", "abx", "axyb", [0, -2, 3], id="more of it unknown on one side"),
        pytest.param("abx", "ab", "axyb", [0, -2, -3, 2], id="less of it"),
        pytest.param("abc", "abxy", "xybbcc", [-1, -2, -3, -4, -5], id="unknown at either end"),
        pytest.param("ab", "abxy", "xaybx", [-1, -2, -3, -4, -5], id="between two of them"),
        pytest.param("", "ab", "ab", [-1], id="nothing known"),
    ],
)
def test_words_with_unknown_text(student, teacher, text, places):
    """How long an [UNK] is nobody says, so what agrees is what can be counted from either end."""
    (student_spelling, own), (teacher_spelling, others) = (
        word_of(vocabulary, text) for vocabulary in (student, teacher)
    )
    aligner = Aligner(student_spelling, teacher_spelling)
    assert aligner(own, others).places.tolist() == places


def test_a_character_that_one_side_drops():
    """A BPE without [UNK] has no token for it, so that all of its word seems shorter."""
    (student, own), (teacher, others) = (
        word_of(vocabulary, "xaabx", has_unknown=False) for vocabulary in ("ab", "abx")
    )
    assert len(own.ids) == 3 < len(others.ids)
    places = Aligner(student, teacher)(own, others).places
    assert (places < 0).all()


def test_estimates_after_unknown_text_are_in_order():
    """The teacher's pieces are x y x y a bc, and what the student's [UNK] spans it cannot know."""
    student, own = word_of("abc", "xyxyabc")
    teacher, others = word_of("abcxy", "xyxyabc", ("b", "c"))
    alignment = Aligner(student, teacher)(own, others)
    assert alignment.places.tolist() == [-1, 4, -5, -5]
    assert alignment.before.tolist() == [0, 4, 5, 5]


def test_a_word_that_one_side_drops_altogether():
    student, own = word_of("ab", "ab", has_unknown=False)
    teacher, others = word_of("xy", "ab", has_unknown=False)
    assert len(others.ids) == 0
    assert Aligner(student, teacher)(own, others).places.tolist() == [-1, -1]
    assert Aligner(teacher, student)(others, own).places.tolist() == []


@pytest.mark.parametrize(("prefix", "tells"), [("##", True), ("@@", True), ("x", False)])
def test_pieces_tell_words_where_no_word_begins_as_they_go_on(prefix, tells):
    tree = json.loads(json.dumps(TREES["wordpiece"]))
    tree["model"]["continuing_subword_prefix"] = prefix
    begins = spelling_of(json.dumps(tree)).begins_word
    assert (begins is not None) == tells
