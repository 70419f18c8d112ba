"""A trimmed tokenizer reads every text that the full one reads, with fewer pieces."""

import numpy as np
import pytest
from family_tokenizers import AWKWARD
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_experiments import documents
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast, XLMRobertaTokenizer
from trimmed_tokenizers import (
    SPECIALS,
    TOKENIZERS,
    counts_in,
    of_scored_pieces,
    of_word_pieces,
    with_names,
)

from distilcli.text.pieces import pieces_of
from distilcli.text.tokenizers import backend_tree
from distilcli.text.trimming import choose_pieces, trim_tokenizer

WRITTEN = [*AWKWARD, "[MASK] <mask> ba [unused1] </s> <url>", "ba\nbe\n"]
each_kind = pytest.mark.parametrize("kind", TOKENIZERS)


@pytest.fixture
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[kind]()


def texts() -> list[str]:
    return [*documents(30, seed=5), *WRITTEN]


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
    for text in texts():
        kept = choose_pieces(tokenizer, counts_in(tokenizer, [text]), keep=None, min_count=1)
        assert len(kept) < len(tokenizer)
        trimmed = trim_tokenizer(tokenizer, kept)
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


# The class that reads it again


def test_a_class_that_would_read_its_file_otherwise_gives_way(tmp_path):
    """XLM-R's tokenizer takes the fourth piece for the unknown one, whatever its file says."""
    names = ["<s>", "junk", "<pad>", "<unk>", "</s>", *"\u2581junkab", "<mask>"]
    tokenizer = XLMRobertaTokenizer(vocab=[(name, -float(len(name) > 1)) for name in names])
    kept = choose_pieces(tokenizer, counts_in(tokenizer, ["ab"]), keep=None, min_count=1)
    assert len(kept) == len(tokenizer) - 1
    trimmed = trim_tokenizer(tokenizer, kept)
    trimmed.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "xlm-roberta"}')
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for one in (trimmed, loaded):
        assert type(one) is PreTrainedTokenizerFast
        assert one.unk_token_id == 2
        tokens = one.convert_ids_to_tokens(one("ab\u4f60 junk")["input_ids"])
        assert tokens == ["<s>", "\u2581", "a", "b", "<unk>", "\u2581", *"junk", "</s>"]


# Any vocabulary


pieces_of_letters = st.text("abc", min_size=2, max_size=4)
word_pieces = st.builds(
    lambda mark, text: mark + text, st.sampled_from(["", "##"]), pieces_of_letters
)


def check_words(tokenizer, words: list[str], counts: list[int], keep: int) -> None:
    """No word becomes unknown, and one whose pieces are all kept has the same."""
    least = len(pieces_of(tokenizer).always)
    occurrences = np.resize(np.array(counts, dtype=np.int64), len(tokenizer))
    kept = choose_pieces(tokenizer, occurrences, keep=least + keep, min_count=0)
    trimmed = trim_tokenizer(tokenizer, kept)
    for word in words:
        full, fewer = (
            one(word, add_special_tokens=False)["input_ids"] for one in (tokenizer, trimmed)
        )
        unknown = full.count(tokenizer.unk_token_id), fewer.count(trimmed.unk_token_id)
        assert unknown[1] <= unknown[0]
        if set(full) <= set(kept.tolist()):
            assert kept[fewer].tolist() == full


any_words = st.lists(st.text("abcq", min_size=1, max_size=9), min_size=1, max_size=20)
any_counts = st.lists(st.integers(0, 9), min_size=1, max_size=30)
few_examples = settings(max_examples=25, deadline=None)


@few_examples
@given(st.lists(word_pieces, unique=True, max_size=12), any_words, any_counts, st.integers(0, 12))
def test_words_of_any_word_pieces_stay_known(pieces, words, counts, keep):
    check_words(of_word_pieces(*pieces), words, counts, keep)


@few_examples
@given(
    st.dictionaries(pieces_of_letters, st.floats(-30.0, -0.1), max_size=12),
    any_words,
    any_counts,
    st.integers(0, 12),
)
def test_words_of_any_scored_pieces_stay_known(scores, words, counts, keep):
    check_words(of_scored_pieces(**scores), words, counts, keep)


@few_examples
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=12),
    any_words,
    any_counts,
    st.integers(0, 12),
)
def test_words_of_any_merges_stay_known(choices, words, counts, keep):
    """Of letters and of what was merged before, some of them in several ways."""
    symbols = list("abc")
    merges: list[tuple[str, str]] = []
    for left, right in choices:
        pair = symbols[left % len(symbols)], symbols[right % len(symbols)]
        if pair not in merges:
            merges.append(pair)
            symbols += [] if "".join(pair) in symbols else ["".join(pair)]
    names = [*SPECIALS, *symbols]
    model = BPE({name: i for i, name in enumerate(names)}, merges, unk_token="<unk>")
    check_words(with_names(Tokenizer(model)), words, counts, keep)
