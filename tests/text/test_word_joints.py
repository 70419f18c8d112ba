"""Where a vocabulary says that words begin, for tokenizers of every kind."""

from itertools import pairwise

import numpy as np
import pytest
from every_tokenizer import AWKWARD, KINDS, tokenizer_of
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distilcli.errors import ModelError
from distilcli.text import word_joints as joints
from distilcli.text.word_joints import word_joints

TEXT = "The cats sat, didn't it?! na\xefve 1998th  x\n\u4e16\u754c \u043f\u0440\u0438 \u0e01\u0e33"


def words_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The words that a vocabulary tells, each as its tokens with + between them."""
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    begins = word_joints(tokenizer, len(tokenizer)).begins(np.array(ids, np.int32))
    groups: list[list[str]] = []
    for token, is_first in zip(tokenizer.convert_ids_to_tokens(ids), begins, strict=True):
        if is_first:
            groups.append([])
        groups[-1].append(token)
    return ["+".join(group) for group in groups]


# Of the Unigram tokenizers, which spell most words letter by letter.
MARKED = "\u2581+T+he \u2581cat+s \u2581s+at , \u2581d+i+d+n ' t \u2581i+t ?+!"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "uncased WordPiece",
            "the cat+##s sat , d+##i+##d+##n ' t it ? ! naive 1+##9+##9+##8+##th",
        ),
        ("RoBERTa", "The \u0120cats \u0120sat , \u0120didn 't \u0120it ?+! \u0120+na\xc3\xafve"),
        ("ModernBERT", "The \u0120cats \u0120sat , \u0120didn 't \u0120it ?+!"),
        ("XLM-RoBERTa", MARKED),
        ("Unigram, first marked", MARKED),
    ],
)
def test_words_are_runs_of_one_class(kind, expected):
    found = words_of(tokenizer_of(kind), TEXT)
    assert " ".join(found).startswith(expected + " ")


def test_runs_of_spaces_that_are_tokens_are_words_of_their_own():
    found = words_of(tokenizer_of("ModernBERT"), "The  cats\n <url>s")
    assert found == ["The", "  ", "c+at+s", "\u010a", "\u0120", "<url>", "s"]


def test_characters_of_scripts_without_spaces_are_words():
    """Else a sentence of Chinese, which has no spaces, would be one word."""
    for kind in ("RoBERTa", "XLM-RoBERTa"):
        assert len(words_of(tokenizer_of(kind), "\u4e16\u754c" * 5)) >= 10


def changes(encoding: Encoding) -> list[bool]:
    """Which tokens begin a word as the tokenizer's own rules have it."""
    return [one != other for one, other in pairwise([None, *encoding.word_ids])]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "WordPiece" in kind])
def test_words_of_a_wordpiece_are_those_of_its_pre_tokenizer(kind):
    tokenizer = tokenizer_of(kind)
    table = word_joints(tokenizer, len(tokenizer))
    for text in AWKWARD:
        encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        assert table.begins(np.array(encoding.ids, np.int32)).tolist() == changes(encoding)


@pytest.mark.parametrize("kind", ["RoBERTa", "RoBERTa, space before a text", "ModernBERT"])
def test_words_of_bytes_are_those_of_their_pre_tokenizer(kind):
    """But for short forms such as 's, whose apostrophe may be a piece, and for other scripts."""
    tokenizer = tokenizer_of(kind, added=False)
    table = word_joints(tokenizer, len(tokenizer))
    for text in [*filter(str.isascii, AWKWARD), TEXT[:24], "x1 (y)... 3.5%\n\nz_+1"]:
        text = " ".join(text.replace("'", "").replace("\x00", "").split())
        encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        assert table.begins(np.array(encoding.ids, np.int32)).tolist() == changes(encoding)


def test_every_token_of_a_word_level_tokenizer_is_a_word():
    tokenizer = tokenizer_of("word level")
    assert all("+" not in word for word in words_of(tokenizer, " ".join(AWKWARD)))


def bpe(**options: str) -> PreTrainedTokenizerFast:
    pieces = {"a": 0, "b": 1, "##b": 2, "b</w>": 3, "</w>": 4}
    backend = Tokenizer(models.BPE(vocab=pieces, merges=[], **options))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"continuing_subword_prefix": "##"}, [True, True, False, True]),
        ({"end_of_word_suffix": "</w>"}, [True, False, False, False, True]),
    ],
)
def test_a_bpe_that_marks_insides_or_ends_of_words(options, expected):
    table = word_joints(bpe(**options), 5)
    ids = [0, 1, 2, 1] if "continuing_subword_prefix" in options else [0, 1, 2, 3, 0]
    assert table.begins(np.array(ids, np.int32)).tolist() == expected


def test_a_vocabulary_that_does_not_tell_is_refused():
    tokenizer = bpe()
    tokenizer.name_or_path = "my-model"
    with pytest.raises(ModelError, match=r"masking\.whole_words: the vocabulary of my-model does"):
        word_joints(tokenizer, 5)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", (joints._JOINS, joints._JOINS)),
        (b" ", (joints._APART, joints._JOINS)),
        (b"  ", (joints._APART, joints._APART)),
        (b" a1", (joints._APART, joints._DIGIT)),
        (b"a.", (joints._LETTER, joints._OTHER)),
        ("e\u0301".encode(), (joints._LETTER, joints._JOINS)),
        (b"\xbf", (joints._JOINS, joints._JOINS)),  # the end of a character
        (b"\xbfa", (joints._JOINS, joints._LETTER)),
        (b"a\xd0", (joints._LETTER, joints._JOINS)),  # the beginning of one
        (b"\xd0", (joints._JOINS, joints._JOINS)),
        (b"\xe2\x80", (joints._OTHER, joints._JOINS)),
        (b"\xe4\xb8", (joints._APART, joints._JOINS)),
        ("\u4e16".encode(), (joints._APART, joints._APART)),
    ],
)
def test_what_bytes_tell_of_where_a_piece_ends(content, expected):
    assert joints._ends_of_bytes(content) == expected


def test_pieces_that_no_text_has():
    """Outside of the alphabet of bytes, or looking like a byte and being none."""
    assert joints._ends_of_byte_level("\u2581a") == joints._ALONE
    assert joints._ends_of_marked("<0xZZ>", "_") == (joints._OTHER, joints._OTHER)
    assert joints._ends_of_marked("<0xE4>", "_") == joints._ends_of_bytes(b"\xe4")


def test_names_of_bytes_are_those_of_the_library():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    assert joints._BYTES.keys() == set(alphabet)
    for byte in range(0x80):
        [(piece, _)] = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        ).pre_tokenize_str(chr(byte))
        assert joints._BYTES[piece] == byte


def test_added_tokens_and_ids_without_a_token_are_words():
    tokenizer = tokenizer_of("RoBERTa")
    table = word_joints(tokenizer, len(tokenizer) + 3)
    assert table.starts.shape == table.ends.shape == (len(tokenizer) + 3,)
    assert (table.starts[len(tokenizer) :] == joints._APART).all()
    added = tokenizer.convert_tokens_to_ids([":-)", "<url>"])
    assert (table.starts[added] == joints._APART).all()
    assert (table.ends[added] == joints._APART).all()
