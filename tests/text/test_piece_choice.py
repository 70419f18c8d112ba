"""Which pieces of a tokenizer a smaller vocabulary keeps."""

import numpy as np
import pytest
from tiny_experiments import documents
from tiny_models import word_tokenizer as whole_words
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast
from trimmed_tokenizers import (
    LETTERS,
    SPECIALS,
    TOKENIZERS,
    counts_in,
    of_scored_pieces,
    of_word_pieces,
    with_names,
)

from distilcli.errors import ConfigError, ModelError
from distilcli.text.pieces import pieces_of
from distilcli.text.trimming import choose_pieces, trim_tokenizer

each_kind = pytest.mark.parametrize("kind", TOKENIZERS)


@pytest.fixture
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[kind]()


@each_kind
def test_no_more_are_kept_than_asked_for(tokenizer):
    counts = counts_in(tokenizer, documents(30))
    always = pieces_of(tokenizer).always
    for keep in (len(always) + 7, len(tokenizer), len(tokenizer) + 9):
        kept = set(choose_pieces(tokenizer, counts, keep=keep, min_count=1).tolist())
        assert always < kept
        assert len(kept) <= keep
    everything = choose_pieces(tokenizer, counts, keep=None, min_count=1)
    assert kept == set(everything.tolist())


@each_kind
def test_a_piece_that_occurs_often_enough_is_kept(tokenizer):
    counts = counts_in(tokenizer, documents(30))
    found, more = (
        set(choose_pieces(tokenizer, counts, keep=None, min_count=count).tolist())
        for count in (20, 1)
    )
    assert set(np.flatnonzero(counts >= 20).tolist()) <= found < more
    assert set(np.flatnonzero(counts).tolist()) <= more


@each_kind
def test_smaller_is_longer(tokenizer):
    """The fewer pieces, the more of them a text has; chosen by counts they are fewer."""
    text = documents(60)
    counts = counts_in(tokenizer, text)
    least = len(pieces_of(tokenizer).always)
    lengths = []
    for by in (counts, None):
        kept = choose_pieces(tokenizer, by, keep=least + 12, min_count=1)
        ids = trim_tokenizer(tokenizer, kept)(text)["input_ids"]
        lengths.append(sum(map(len, ids)))
    assert counts.sum() <= lengths[0] <= lengths[1]


def kept_of(tokenizer, occurrences: dict[str, int], keep: int, min_count: int = 1) -> set[str]:
    """What is kept beyond what always is, if so many pieces are and these occur."""
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    for piece, count in occurrences.items():
        counts[tokenizer.convert_tokens_to_ids(piece)] = count
    least = pieces_of(tokenizer).always
    kept = choose_pieces(tokenizer, counts, keep=len(least) + keep, min_count=min_count)
    return set(tokenizer.convert_ids_to_tokens(sorted(set(kept.tolist()) - least)))


def test_what_is_removed_counts_for_what_it_is_spelled_with():
    """Of ab and ##cx there are 4 + 3 when abcx is gone, which makes them worth more than xyz."""
    tokenizer = of_word_pieces("ab", "##cx", "abcx", "xyz")
    occurrences = {"abcx": 3, "ab": 4, "##cx": 4, "xyz": 5}
    assert kept_of(tokenizer, occurrences, 3) == {"ab", "##cx", "xyz"}
    assert kept_of(tokenizer, occurrences, 2) == {"ab", "##cx"}
    assert kept_of(tokenizer, occurrences, 9, min_count=6) == {"ab", "##cx"}
    assert kept_of(tokenizer, occurrences | {"abcx": 6}, 2) == {"abcx", "xyz"}


def test_a_spelling_is_the_most_probable_one():
    """Of abcx: that with ab and cx, not that with a and bcx."""
    tokenizer = of_scored_pieces(ab=-3.0, cx=-4.0, bcx=-5.0, abcx=-4.0, xyz=-3.0)
    occurrences = {"abcx": 3, "ab": 4, "cx": 4, "bcx": 4, "xyz": 5}
    assert kept_of(tokenizer, occurrences, 3) == {"ab", "cx", "xyz"}
    assert kept_of(tokenizer, occurrences, 2) == {"ab", "cx"}


def test_a_merge_needs_its_parts_which_count_for_what_is_merged_from_them():
    """Of abcx: ab and cx, which need not occur by themselves."""
    merges = [("a", "b"), ("c", "x"), ("ab", "cx"), ("x", "y"), ("xy", "z")]
    names = [*SPECIALS, *LETTERS, *("".join(pair) for pair in merges)]
    tokenizer = with_names(Tokenizer(BPE({name: i for i, name in enumerate(names)}, merges)))
    assert kept_of(tokenizer, {"abcx": 4, "xyz": 3}, 5) == {"ab", "cx", "abcx", "xy", "xyz"}
    assert kept_of(tokenizer, {"abcx": 4, "xyz": 3}, 4) == {"ab", "cx", "abcx", "xy"}
    assert kept_of(tokenizer, {"abcx": 4, "xyz": 5}, 2) == {"xy", "xyz"}
    assert kept_of(tokenizer, {"abcx": 4, "ab": 2, "xyz": 5}, 1) == {"ab"}
    assert kept_of(tokenizer, {"abcx": 4, "ab": 2, "xyz": 5}, 9, min_count=6) == {"ab"}
    kept = choose_pieces(tokenizer, None, keep=len(tokenizer) - 2, min_count=1)
    assert trim_tokenizer(tokenizer, kept).tokenize("abcxyz") == ["abcx", "y", "z"]


def test_what_no_word_can_have_goes_first():
    """[unused1] is four words to a BERT, and a comma is a word of its own."""
    tokenizer = of_word_pieces("[unused1]", "##,", "##\u4f60", "ab", "##cx")
    assert kept_of(tokenizer, {}, 0) == set()
    everything = choose_pieces(tokenizer, None, keep=len(tokenizer) - 3, min_count=1)
    gone = set(range(len(tokenizer))) - set(everything.tolist())
    assert set(tokenizer.convert_ids_to_tokens(sorted(gone))) == {"[unused1]", "##,", "##\u4f60"}


def test_pieces_with_a_character_that_is_no_piece_itself_stay():
    """Without q as a piece of its own, xq could not be spelled."""
    tokenizer = of_word_pieces("xq", "##qx", "ab")
    always = tokenizer.convert_ids_to_tokens(sorted(pieces_of(tokenizer).always))
    assert {"xq", "##qx"} <= set(always)
    assert "ab" not in always
    tokenizer = of_scored_pieces(xq=-3.0, ab=-3.0)
    always = tokenizer.convert_ids_to_tokens(sorted(pieces_of(tokenizer).always))
    assert "xq" in always
    assert "ab" not in always


def test_an_unknown_character_costs_what_it_did():
    """That follows from the lowest score of all pieces, which stays."""
    pieces = [*((name, 0.0) for name in SPECIALS), ("a", -1.0), ("b", -1.0), ("ab", -30.0)]
    tokenizer = with_names(Tokenizer(Unigram(pieces, unk_id=3)))
    assert tokenizer.convert_tokens_to_ids("ab") in pieces_of(tokenizer).always


@each_kind
def test_fewer_than_what_always_stays_is_refused_with_that_number(tokenizer):
    least = len(pieces_of(tokenizer).always)
    with pytest.raises(ConfigError, match=r"student\.vocabulary\.keep 4: ") as caught:
        choose_pieces(tokenizer, None, keep=4, min_count=1)
    assert caught.value.hint == f"Set student.vocabulary.keep to {least} or more."
    assert len(choose_pieces(tokenizer, None, keep=least, min_count=1)) == least
    with pytest.raises(ConfigError):
        choose_pieces(tokenizer, None, keep=least - 1, min_count=1)


def test_a_model_that_looks_up_whole_words_is_refused():
    with pytest.raises(ModelError, match=r"is a WordLevel: what is removed .* would be unknown"):
        choose_pieces(whole_words(), None, keep=50, min_count=1)
