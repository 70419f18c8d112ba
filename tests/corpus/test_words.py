"""Looked-up words give the tokens that the tokenizer gives the whole text."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from token_stores import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from distilcli.corpus.recipe import make_recipe
from distilcli.corpus.word_cache import Words, splits_at_spaces
from distilcli.text.tokenizers import load_tokenizer, text_backend


def text_reader(tokenizer) -> Tokenizer:
    """The tokenizer as `prepare` reads text with it."""
    return Tokenizer.from_str(json.dumps(text_backend(tokenizer)))


TINY = text_reader(tiny_tokenizer())
BUILTIN = text_reader(load_tokenizer("builtin:teacher"))


def variant(normalizer=None, pre_tokenizer=None) -> Tokenizer:
    """The built-in tokenizer with another way of cleaning and splitting."""
    backend = Tokenizer.from_str(BUILTIN.to_str())
    backend.normalizer = normalizer or backend.normalizer
    backend.pre_tokenizer = pre_tokenizer or backend.pre_tokenizer
    return backend


def with_added_tokens() -> Tokenizer:
    backend = Tokenizer.from_str(BUILTIN.to_str())
    url = AddedToken("<url>", special=True, lstrip=True, rstrip=True)
    backend.add_tokens([url, AddedToken("don't", single_word=True), AddedToken("Na\xefve")])
    return backend


BACKENDS = {
    "tiny": TINY,
    "builtin": BUILTIN,
    "cased": variant(normalizers.BertNormalizer(lowercase=False, strip_accents=False)),
    "not cleaned": variant(normalizers.BertNormalizer(clean_text=False)),
    "nothing": variant(normalizers.Sequence([])),
    "lowercase": variant(normalizers.Lowercase()),
    "NFC": variant(normalizers.NFC()),
    "NFD, no accents": variant(
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    ),
    "NFKC": variant(normalizers.NFKC()),
    "NFKD": variant(normalizers.NFKD()),
    "whitespace": variant(normalizers.NFC(), pre_tokenizers.Whitespace()),
    "added tokens": with_added_tokens(),
    "whitespace split": variant(normalizers.NFKC(), pre_tokenizers.WhitespaceSplit()),
}


SPACES = [" ", "  ", "\n", "\r\n", "\t", "\x1c", "\x1f", "\x85", "\xa0", "\u2003", "\u2028"]
MARKS = ["\xa8", "\xb4", "\u1100\u1161", "\u0345", "\u0327", "\u2126", "\uff76\uff9e"]
CONTROLS = ["\x00", "\x07", "\u200b", "\ufeff", "\ufffd"]
LETTERS = ["\u0301", "\u0308", "\xe9", "E\u0301", "\ufb01", "\xdf", "\u0130", "\u4e16\u754c"]
ADDED = ["<url>", " <url> ", "a<url>", "NA\xcfVE"]
WHOLE = ["[MASK]", "[CLS] ", "##ing", "don't", "U.S.", "na\xefve", "x" * 150]
PIECES = st.sampled_from([*SPACES, *MARKS, *CONTROLS, *LETTERS, *WHOLE, *ADDED])
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=20).map("".join)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXTS, max_size=4))
@example(texts=["", " ", "\n\n", "a\nb  c"])
@example(texts=[" \u0301a", "e \u0301"])
def test_words_are_the_text(name, texts):
    assert splits_at_spaces(json.loads(BACKENDS[name].to_str()))
    whole = BACKENDS[name].encode_batch(texts, add_special_tokens=False)
    words = Words(BACKENDS[name])
    for _ in range(2):  # learned, then remembered
        assert words.ids(texts) == [encoding.ids for encoding in whole]


def test_memory_is_bounded():
    """Words that do not fit make room for others, and a text longer than the bound still works."""
    tokenizer = BUILTIN
    words = Words(tokenizer, max_chars=100)
    texts = ["the cat sat on the mat", "x" * 150, "dogs and " * 40, "the cat sat on the mat"]
    for text in texts:
        [ids] = words.ids([text])
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids
        known = sum(map(len, words._ids))
        assert known == words._num_chars <= max(100, len(text))


# Which tokenizers see words one by one


def changed(change) -> dict:
    backend = Tokenizer.from_str(TINY.to_str())
    change(backend)
    return json.loads(backend.to_str())


def set_normalizer(normalizer):
    return lambda backend: setattr(backend, "normalizer", normalizer)


def set_pre_tokenizer(pre_tokenizer):
    return lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizer)


ACROSS_SPACES = [
    set_normalizer(normalizers.Replace("new york", "new_york")),
    set_normalizer(normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("_")])),
    set_pre_tokenizer(pre_tokenizers.Metaspace()),
    set_pre_tokenizer(pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()])),
    lambda backend: backend.add_tokens([AddedToken("new york")]),
]


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), load_tokenizer("builtin:teacher")])
def test_prepare_uses_words(tokenizer):
    """A WordPiece tokenizer is read word by word in `prepare`."""
    backend = json.dumps(text_backend(tokenizer))
    ids = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert make_recipe(backend, ids, (16, 4), 0.0).word_by_word


@pytest.mark.parametrize("change", ACROSS_SPACES)
def test_tokenizers_that_look_across_spaces_do_not(change):
    assert not splits_at_spaces(changed(change))
