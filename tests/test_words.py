"""Looked-up words give the tokens that the tokenizer gives the whole text."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from token_stores import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from distilcli.store import load_tokenizer
from distilcli.words import Words, splits_at_spaces


def as_text_reader(tokenizer) -> Tokenizer:
    """A copy of the tokenizer that reads special tokens as text, as `prepare` does."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    return backend


BACKENDS = {
    "tiny": as_text_reader(tiny_tokenizer()),
    "builtin": as_text_reader(load_tokenizer("builtin:teacher")),
}


# Every kind of white space, control characters, marks, ideographs, special tokens, long words.
SPACES = [" ", "  ", "\n", "\r\n", "\t", "\x1c", "\x1f", "\x85", "\xa0", "\u2003", "\u2028"]
CONTROLS = ["\x00", "\x07", "\u200b", "\ufeff", "\ufffd"]
LETTERS = ["\u0301", "\u0308", "\xe9", "E\u0301", "\ufb01", "\xdf", "\u0130", "\u4e16\u754c"]
WHOLE = ["[MASK]", "[CLS] ", "##ing", "don't", "U.S.", "na\xefve", "x" * 150]
PIECES = st.sampled_from([*SPACES, *CONTROLS, *LETTERS, *WHOLE])
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=20).map("".join)


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS, max_size=4))
@example(texts=["", " ", "\n\n", "a\nb  c"])
@example(texts=[" \u0301a", "e \u0301"])
def test_words_are_the_text(name, texts):
    whole = BACKENDS[name].encode_batch(texts, add_special_tokens=False)
    words = Words(BACKENDS[name])
    for _ in range(2):  # learned, then remembered
        assert words.ids(texts) == [encoding.ids for encoding in whole]


def test_memory_is_bounded():
    """Words that do not fit make room for others, and a text longer than the bound still works."""
    tokenizer = BACKENDS["builtin"]
    words = Words(tokenizer, max_chars=100)
    texts = ["the cat sat on the mat", "x" * 150, "dogs and " * 40, "the cat sat on the mat"]
    for text in texts:
        [ids] = words.ids([text])
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids
        known = sum(map(len, words._ids))
        assert known == words._num_chars <= max(100, len(text))


# Which tokenizers see words one by one


def changed(change) -> dict:
    backend = Tokenizer.from_str(BACKENDS["tiny"].to_str())
    change(backend)
    return json.loads(backend.to_str())


def set_normalizer(normalizer):
    return lambda backend: setattr(backend, "normalizer", normalizer)


def set_pre_tokenizer(pre_tokenizer):
    return lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizer)


LOCAL = [
    lambda backend: None,
    set_normalizer(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
    set_normalizer(normalizers.Sequence([])),
    set_normalizer(normalizers.Lowercase()),
    set_pre_tokenizer(pre_tokenizers.WhitespaceSplit()),
]
ACROSS_SPACES = [
    set_normalizer(normalizers.Replace("new york", "new_york")),
    set_normalizer(normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("_")])),
    set_pre_tokenizer(pre_tokenizers.Metaspace()),
    set_pre_tokenizer(pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()])),
    lambda backend: backend.add_tokens([AddedToken("new york")]),
]


@pytest.mark.parametrize("change", LOCAL)
def test_local_tokenizers_split_at_spaces(change):
    assert splits_at_spaces(changed(change))


@pytest.mark.parametrize("change", ACROSS_SPACES)
def test_tokenizers_that_look_across_spaces_do_not(change):
    assert not splits_at_spaces(changed(change))
