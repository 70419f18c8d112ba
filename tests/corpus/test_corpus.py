"""The token store: what becomes of text, and which of it is held out."""

import dataclasses
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpus_files import all_sequences
from hypothesis import given, settings
from hypothesis import strategies as st
from token_stores import LETTERS, data_config, random_texts, tiny_tokenizer

import distilcli.corpus.sequences as sequences
from distilcli.corpus.prepare import prepare
from distilcli.corpus.recipe import make_recipe
from distilcli.corpus.sequences import Sequencer, is_held_out, segments
from distilcli.corpus.store import TokenStore
from distilcli.text.tokenizers import text_backend


def recipe_of(tokenizer, max_length, min_length, held_out_fraction=0.0):
    backend = json.dumps(text_backend(tokenizer))
    special_ids = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    return make_recipe(backend, special_ids, (max_length, min_length), held_out_fraction)


def test_store_holds_all_text_once(tmp_path, tokenizer, text_file, small_shards):
    store = prepare(data_config(tmp_path / "s", text_file), tokenizer, 1, None)
    manifest = store.manifest
    texts = random_texts(150)
    num_tokens = sum(len(tokenizer.tokenize(text)) for text in texts)
    splits = (store.train, store.held_out)
    kept = sum(int(split.lengths.sum()) - 2 * len(split) for split in splits)
    assert kept + manifest.dropped["short_remainder"].tokens == num_tokens
    assert manifest.train.documents + manifest.held_out.documents == len(texts)
    assert manifest.held_out.documents == sum(is_held_out(text, 0.2) for text in texts) > 0
    assert len(manifest.shards["train"]) > 3
    for split, counts in zip(splits, (manifest.train, manifest.held_out), strict=True):
        found = all_sequences(split)
        assert (len(split), int(split.lengths.sum())) == (counts.sequences, counts.tokens)
        assert [len(tokens) for tokens in found] == split.lengths.tolist()
        assert all(tokens[0] == 2 and tokens[-1] == 3 for tokens in found)
    flat = np.concatenate([store.train.tokens(index) for index in range(len(store.train))])
    assert np.array_equal(store.token_counts, np.bincount(flat, minlength=manifest.vocab_size))
    assert manifest.length_histogram["train"] == Counter(store.train.lengths.tolist())


def test_tokens_are_views_and_bounds_are_checked(tmp_path, tokenizer, text_file):
    store = prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    tokens = store.train.tokens(0)
    assert tokens.dtype == store.train.lengths.dtype == np.int32
    assert not tokens.flags.owndata
    for index in (-1, len(store.train)):
        with pytest.raises(IndexError):
            store.train.tokens(index)


def test_open_files_do_not_grow_with_the_store(tmp_path, tokenizer, text_file, small_shards):
    prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    before = len(os.listdir("/proc/self/fd"))
    store = TokenStore.open(tmp_path / "s")
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(store.train) > 0


WORDS = st.text(LETTERS, min_size=1, max_size=12)
DOCUMENT = st.lists(WORDS, max_size=30).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(DOCUMENT, max_size=4), st.integers(8, 20), st.integers(3, 8), st.booleans())
def test_sequences_are_the_document_cut_between_words(texts, longest, shortest, by_vocabulary):
    tokenizer = tiny_tokenizer()
    recipe = recipe_of(tokenizer, longest, shortest)
    if not by_vocabulary:
        recipe = dataclasses.replace(recipe, continuations=None, word_by_word=False)
    for text in texts:
        made = Sequencer(recipe)([text], "train")["train"]
        cuts = np.split(np.array(made.values), np.cumsum(made.lengths)[:-1]) if made.lengths else []
        ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        joined = [int(token) for cut in cuts for token in cut[1:-1]]
        assert joined == ids.ids[: len(joined)]
        assert len(ids.ids) - len(joined) == made.num_remainder_tokens < max(shortest - 2, 1)
        assert all(shortest <= length <= longest for length in made.lengths)
        assert_cut_between_words(ids, [len(cut) - 2 for cut in cuts], longest, shortest)


def assert_cut_between_words(encoding, sizes, longest, shortest):
    start = 0
    for size in sizes:
        end = start + size
        if end < len(encoding.ids) and encoding.word_ids[end - 1] == encoding.word_ids[end]:
            # Within a word: then it began too early for a sequence to end before it.
            assert size == longest - 2
            assert encoding.word_ids.index(encoding.word_ids[end]) - start < max(shortest - 2, 1)
        start = end


def test_documents_never_share_a_sequence(tokenizer):
    texts = random_texts(30, seed=3)
    recipe = recipe_of(tokenizer, 16, 3)
    together = Sequencer(recipe)(texts, "train")["train"]
    alone = [Sequencer(recipe)([text], "train")["train"] for text in texts]
    assert list(together.lengths) == [length for made in alone for length in made.lengths]
    assert list(together.values) == [token for made in alone for token in made.values]


def test_long_documents_in_pieces_are_the_same(tokenizer, monkeypatch):
    texts = random_texts(20, seed=4)
    recipe = recipe_of(tokenizer, 16, 4)
    whole = Sequencer(recipe)(texts, "train")["train"]
    monkeypatch.setattr(sequences, "SEGMENT_CHARS", 9)
    monkeypatch.setattr(sequences, "BATCH_CHARS", 30)
    assert any(len(list(segments(text, "train", whole=False))) > 2 for text in texts)
    assert Sequencer(recipe)(texts, "train")["train"] == whole


def test_special_tokens_in_text_are_text(tokenizer):
    made = Sequencer(recipe_of(tokenizer, 16, 3))(["a [MASK] b [SEP] c"], "train")["train"]
    assert not {0, 2, 3, 4} & set(list(made.values)[1:-1])


def test_empty_documents_and_short_remainders_are_counted(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    texts = ["", " \n", "\u200b", "a", "a b c d e f g", "a b c d e f a"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = data_config(tmp_path / "s", path, max_length=8, held_out_fraction=0.0)
    manifest = prepare(data, tokenizer, 1).manifest
    assert manifest.dropped["empty_document"].count == 3
    assert manifest.dropped["short_remainder"].count == 3
    assert manifest.dropped["short_remainder"].tokens == 3
    assert (manifest.train.documents, manifest.train.sequences) == (3, 2)


def test_half_a_surrogate_pair_does_no_harm(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b \\ud83d c d e f"}\n')
    store = prepare(data_config(tmp_path / "s", path, held_out_fraction=0.0), tokenizer, 1)
    assert len(store.train) == 1


def test_held_out_documents_stay_so_when_the_corpus_grows():
    texts = random_texts(2000, seed=7)
    share = sum(is_held_out(text, 0.1) for text in texts) / len(texts)
    assert 0.07 < share < 0.13
    assert all(is_held_out(text, 0.2) for text in texts if is_held_out(text, 0.1))
    assert all(is_held_out(f"\n{text} ", 0.1) == is_held_out(text, 0.1) for text in texts)
    assert not any(is_held_out(text, 0.0) for text in texts)


def test_growing_the_corpus_keeps_the_held_out_sequences(tmp_path, tokenizer, text_file):
    more = tmp_path / "more.txt"
    more.write_text("\n".join(text.replace("\n", " ") for text in random_texts(50, seed=9)))
    small = prepare(data_config(tmp_path / "small", text_file), tokenizer, 1)
    large = prepare(data_config(tmp_path / "large", more, text_file), tokenizer, 1)
    kept = all_sequences(small.held_out)
    assert all_sequences(large.held_out)[-len(kept) :] == kept
    assert len(large.held_out) > len(kept)


def test_held_out_sources_of_their_own(tmp_path, tokenizer, text_file):
    other = tmp_path / "other.txt"
    other.write_text("a b c d e f\nb c d e f g\n")
    source = [{"files": [str(other)], "documents": "line"}]
    data = data_config(tmp_path / "s", text_file, held_out_sources=source)
    manifest = prepare(data, tokenizer, 1).manifest
    assert manifest.train.documents == 150
    assert manifest.held_out.documents == 2
    assert [Path(name).name for name, _ in manifest.files] == ["corpus.jsonl", "other.txt"]
