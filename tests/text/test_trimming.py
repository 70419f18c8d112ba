"""A trimmed tokenizer reads every text that the full one reads, with fewer pieces."""

import numpy as np
import pytest
from byte_level import byte_level_tokenizer
from tiny_experiments import documents, word_tokenizer
from tiny_models import word_tokenizer as whole_words
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distilcli.errors import ConfigError, ModelError
from distilcli.text.pieces import pieces_of
from distilcli.text.tokenizers import backend_tree
from distilcli.text.trimming import choose_pieces, trim_tokenizer

TOKENIZERS = {"word pieces": word_tokenizer, "byte level": byte_level_tokenizer}
AWKWARD = [
    "  ba  be\tbi\nbo ",
    "BA Be, bI-bo: ba'be 3.14",
    "b\u00e0 be\u0301 \ufb01 \u0130 \u4f60\u597d ba\u3002 \u0e44\u0e17\u0e22",
    "ba\u00a0be\u2028bi\u200bbu\u0000bo\ufffd",
    "be \U0001f600\U0001f468\u200d\U0001f469 \u2581be __ ##ba \u0120bo",
    "[MASK] <mask> ba [unused1] </s>",
    "ba" * 60,
]
each_kind = pytest.mark.parametrize("kind", TOKENIZERS)


@pytest.fixture
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[kind]()


def texts() -> list[str]:
    return [*documents(30, seed=5), *AWKWARD]


def counts_in(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> np.ndarray:
    ids = np.concatenate(tokenizer(lines)["input_ids"]).astype(np.int64)
    return np.bincount(ids, minlength=len(tokenizer))


def spelled(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """The letters of a text."""
    return tokenizer.decode(ids).replace(" ##", "").replace(" ", "")


def half_of(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """What always stays, and half of the rest."""
    always = len(choose_pieces(tokenizer, np.zeros(0, np.int64), keep=None, min_count=1))
    return choose_pieces(tokenizer, None, keep=(always + len(tokenizer)) // 2, min_count=1)


@each_kind
def test_nothing_becomes_unknown_that_was_not(tokenizer):
    trimmed = trim_tokenizer(tokenizer, half_of(tokenizer))
    assert len(trimmed) < len(tokenizer)
    for text in texts():
        full, fewer = (one(text)["input_ids"] for one in (tokenizer, trimmed))
        unknown = full.count(tokenizer.unk_token_id), fewer.count(trimmed.unk_token_id)
        assert unknown[1] <= unknown[0], text
        assert spelled(trimmed, fewer) == spelled(tokenizer, full), text


@each_kind
def test_a_text_whose_pieces_are_all_kept_has_the_same(tokenizer):
    """One after the other: of each text by itself, and of all texts."""
    for lines in ([text] for text in texts()):
        kept = choose_pieces(tokenizer, counts_in(tokenizer, lines), keep=None, min_count=1)
        assert len(kept) < len(tokenizer)
        trimmed = trim_tokenizer(tokenizer, kept)
        for text in lines:
            assert kept[trimmed(text)["input_ids"]].tolist() == tokenizer(text)["input_ids"]
            assert trimmed.tokenize(text) == tokenizer.tokenize(text)


@each_kind
def test_ids_are_in_the_order_of_the_old_ones(tokenizer):
    kept = half_of(tokenizer)
    assert kept.dtype == np.int64
    assert (np.diff(kept) > 0).all()
    trimmed = trim_tokenizer(tokenizer, kept)
    assert sorted(trimmed.get_vocab().values()) == list(range(len(kept)))
    tokens = trimmed.convert_ids_to_tokens(list(range(len(kept))))
    assert tokens == tokenizer.convert_ids_to_tokens(kept.tolist())


@each_kind
def test_special_and_added_tokens_stay_what_they_are(tokenizer):
    tokenizer.add_tokens(["<url>"])
    trimmed = trim_tokenizer(tokenizer, half_of(tokenizer))
    assert trimmed.special_tokens_map == tokenizer.special_tokens_map
    assert trimmed.all_special_tokens == tokenizer.all_special_tokens
    tokens = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    assert [str(token) for token in trimmed.added_tokens_decoder.values()] == tokens
    for name, token in tokenizer.special_tokens_map.items():
        assert trimmed.convert_ids_to_tokens(getattr(trimmed, f"{name}_id")) == token
    [ids] = trimmed(["ba <url>"], ["be"])["input_ids"]
    [before] = tokenizer(["ba <url>"], ["be"])["input_ids"]
    assert spelled(trimmed, ids) == spelled(tokenizer, before)
    assert "<url>" in trimmed.convert_ids_to_tokens(ids)


@each_kind
def test_it_is_saved_and_loaded_as_it_is(tokenizer, tmp_path):
    tokenizer.model_max_length = 77
    tokenizer.truncation_side = "left"
    trimmed = trim_tokenizer(tokenizer, half_of(tokenizer))
    assert (trimmed.model_max_length, trimmed.truncation_side) == (77, "left")
    assert trimmed.model_input_names == tokenizer.model_input_names
    assert type(trimmed) is type(tokenizer)
    trimmed.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(loaded) is type(trimmed)
    assert backend_tree(loaded) == backend_tree(trimmed)
    assert loaded.model_max_length == 77
    for text in texts():
        assert loaded(text) == trimmed(text)


@each_kind
def test_all_pieces_kept_is_the_same_tokenizer(tokenizer):
    kept = choose_pieces(tokenizer, None, keep=len(tokenizer) + 5, min_count=1)
    assert kept.tolist() == list(range(len(tokenizer)))
    assert backend_tree(trim_tokenizer(tokenizer, kept)) == backend_tree(tokenizer)


# Which pieces are chosen


@each_kind
def test_the_most_frequent_are_kept_and_no_more_than_asked_for(tokenizer):
    counts = counts_in(tokenizer, documents(30))
    always = pieces_of(tokenizer).always
    keep = len(always) + 7
    kept = set(choose_pieces(tokenizer, counts, keep=keep, min_count=1).tolist())
    assert always < kept
    assert len(kept) == keep
    rest = sorted(set(range(len(tokenizer))) - always, key=lambda index: -counts[index])
    if not pieces_of(tokenizer).merges:
        assert min(counts[list(kept - always)]) >= counts[rest[7]]


@each_kind
def test_min_count_is_how_often_a_piece_must_occur(tokenizer):
    counts = counts_in(tokenizer, documents(30))
    found = choose_pieces(tokenizer, counts, keep=None, min_count=20)
    always = pieces_of(tokenizer).always
    often = set(np.flatnonzero(counts >= 20).tolist())
    assert often <= set(found.tolist())
    assert len(found) < len(choose_pieces(tokenizer, counts, keep=None, min_count=1))
    if not pieces_of(tokenizer).merges:
        assert set(found.tolist()) == often | always


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
