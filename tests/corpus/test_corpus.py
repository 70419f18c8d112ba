"""The token store: what becomes of text, that it survives being killed, and what it refuses."""

import dataclasses
import filecmp
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kill_points import kill_points
from token_stores import LETTERS, data_config, random_texts, tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import distilcli.corpus.prepare as corpus
import distilcli.corpus.sequences as sequences
from distilcli.corpus.prepare import is_prepared, prepare
from distilcli.corpus.recipe import make_recipe
from distilcli.corpus.sequences import Sequencer, is_held_out, segments
from distilcli.corpus.shards import ShardWriter
from distilcli.corpus.store import TokenStore
from distilcli.errors import DataError, DistilError, ModelError, WriteError
from distilcli.text.tokenizers import load_tokenizer, text_backend, tokenizer_fingerprint


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in random_texts(150)))
    return path


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(corpus, "MIB", 256)


def all_sequences(split):
    return [split.tokens(index).tolist() for index in range(len(split))]


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def assert_same_files(one: Path, other: Path):
    assert files_of(one) == files_of(other)
    _, mismatch, errors = filecmp.cmpfiles(one, other, files_of(one), shallow=False)
    assert (mismatch, errors) == ([], [])


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


@pytest.mark.slow
def test_number_of_processes_changes_nothing(tmp_path, tokenizer, text_file, small_shards):
    source = [{"files": [str(text_file)]}]
    seen = []
    for num_proc in (1, 2):
        data = data_config(tmp_path / str(num_proc), sources=source)
        prepare(data, tokenizer, num_proc, seen.append)
    assert_same_files(tmp_path / "1", tmp_path / "2")
    assert seen[-1] == seen[len(seen) // 2 - 1]
    assert seen[-1].bytes_read == seen[-1].total_bytes == text_file.stat().st_size
    assert seen[-1].documents == 150


@pytest.mark.parametrize("before", [None, "true"])
def test_one_process_is_one_core(tmp_path, tokenizer, text_file, monkeypatch, before):
    """Tokenizers would start a thread for every core."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if before is not None:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
    write, found = ShardWriter.write, set()

    def noting(self, shard):
        found.add(os.environ.get("TOKENIZERS_PARALLELISM"))
        return write(self, shard)

    monkeypatch.setattr(ShardWriter, "write", noting)
    prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    assert found == {"false"}
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before


def test_killed_prepare_goes_on(tmp_path, tokenizer, text_file, small_shards, monkeypatch):
    prepare(data_config(tmp_path / "whole", text_file), tokenizer, 1)
    data = data_config(tmp_path / "s", text_file)
    written = []
    write = ShardWriter.write

    def dies_at_third(self, shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.index)
        return write(self, shard)

    monkeypatch.setattr(ShardWriter, "write", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, tokenizer, 1)
    with pytest.raises(DataError, match="an unfinished token store"):
        TokenStore.open(tmp_path / "s")
    assert not is_prepared(data, tokenizer)
    monkeypatch.setattr(ShardWriter, "write", write)
    seen = []
    prepare(data, tokenizer, 1, seen.append)
    assert seen[-1].skipped_shards == 2 < seen[-1].shards
    assert_same_files(tmp_path / "whole", tmp_path / "s")


def test_what_a_kill_leaves_is_cleared_and_holds_nobody_to_its_settings(
    tmp_path, tokenizer, text_file, monkeypatch
):
    """One killed at every change of the file system; a shard, if there is one, is kept."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it takes the longest
    lines = text_file.read_text().splitlines(keepends=True)
    text_file.write_text("".join(lines[:20]))
    data, other = (data_config(tmp_path / "s", text_file, max_length=n) for n in (16, 32))
    for length in (16, 32):
        whole = data_config(tmp_path / f"whole-{length}", text_file, max_length=length)
        prepare(whole, tokenizer, 1)
    taken = []

    def begin_anew() -> None:
        shutil.rmtree(tmp_path / "s", ignore_errors=True)

    for _ in kill_points(lambda: prepare(data, tokenizer, 1), begin_anew, monkeypatch):
        has_shard = (tmp_path / "s/shards/shard-00000.json").exists()
        taken.append(not has_shard)
        if has_shard:
            with pytest.raises(DataError, match="max_length was 16, is 32"):
                prepare(other, tokenizer, 1)
        prepare(data if has_shard else other, tokenizer, 1)
        assert_same_files(tmp_path / f"whole-{16 if has_shard else 32}", tmp_path / "s")
        assert not list((tmp_path / "s").rglob(".*.distilcli-writing"))
    assert taken == sorted(taken, reverse=True)
    assert {True, False} == set(taken)


def test_what_was_begun_goes_on_with_other_sources(
    tmp_path, tokenizer, text_file, small_shards, monkeypatch
):
    """As after a bad file, which is taken out of the sources; the whole shards are kept."""
    (tmp_path / "bad.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(DataError, match="bad"):
        prepare(data_config(tmp_path / "s", text_file, tmp_path / "bad.jsonl"), tokenizer, 1)
    seen = []
    prepare(data_config(tmp_path / "s", text_file), tokenizer, 1, seen.append)
    assert seen[-1].skipped_shards == seen[-1].shards > 1
    prepare(data_config(tmp_path / "whole", text_file), tokenizer, 1)
    assert_same_files(tmp_path / "whole", tmp_path / "s")


def test_shards_of_text_that_is_gone_do_not_stay(tmp_path, tokenizer, text_file, small_shards):
    data = data_config(tmp_path / "s", text_file)
    prepare(data, tokenizer, 1)
    (tmp_path / "s/manifest.json").unlink()
    lines = text_file.read_text().splitlines(keepends=True)
    text_file.write_text("".join(lines[:40]))
    (tmp_path / "s/train/mine.arrow").touch()
    prepare(data, tokenizer, 1)
    assert (tmp_path / "s/train/mine.arrow").exists()
    (tmp_path / "s/train/mine.arrow").unlink()
    prepare(data_config(tmp_path / "whole", text_file), tokenizer, 1)
    assert_same_files(tmp_path / "whole", tmp_path / "s")


@pytest.mark.parametrize(
    "error", [OSError(28, "full"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_call_that_came_to_nothing_leaves_nothing(
    tmp_path, tokenizer, text_file, monkeypatch, error
):
    def fail(*_):
        raise error

    monkeypatch.setattr(ShardWriter, "write", fail)
    with pytest.raises((WriteError, KeyboardInterrupt)) as raised:
        prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    assert getattr(raised.value, "exit_code", 1) == 1
    assert not (tmp_path / "s").exists()


def test_settings_of_another_program_are_no_store(tmp_path, tokenizer, text_file):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/settings.json").write_text('{"editor.fontSize": 12}')
    with pytest.raises(DataError, match=r"settings\.json: damaged, or not of a token store"):
        prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    assert (tmp_path / "s/settings.json").read_text() == '{"editor.fontSize": 12}'


def test_only_what_is_missing_is_made_anew(tmp_path, tokenizer, text_file, small_shards):
    data = data_config(tmp_path / "s", text_file)
    prepare(data, tokenizer, 1)
    before = (tmp_path / "s/manifest.json").read_bytes()
    (tmp_path / "s/manifest.json").unlink()
    (tmp_path / "s/shards/shard-00001.json").unlink()
    seen = []
    prepare(data, tokenizer, 1, seen.append)
    assert seen[-1].shards - seen[-1].skipped_shards == 1
    assert (tmp_path / "s/manifest.json").read_bytes() == before
    seen.clear()
    prepare(data, tokenizer, 1, seen.append)
    assert seen == []


def test_truncated_file_is_damage_and_is_mended(tmp_path, tokenizer, text_file):
    data = data_config(tmp_path / "s", text_file)
    prepare(data, tokenizer, 1)
    path = tmp_path / "s/train/shard-00000.arrow"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert not is_prepared(data, tokenizer)
    with pytest.raises(DataError, match=r"shard-00000.arrow: damaged \(\d+ bytes instead of"):
        TokenStore.open(tmp_path / "s")
    prepare(data, tokenizer, 1)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"{}", b"\x00\xff"])
def test_damaged_manifest_is_refused_and_mended(tmp_path, tokenizer, text_file, content):
    data = data_config(tmp_path / "s", text_file)
    prepare(data, tokenizer, 1)
    (tmp_path / "s/manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest.json: damaged"):
        TokenStore.open(tmp_path / "s")
    assert len(prepare(data, tokenizer, 1).train) > 0


def test_wrong_content_of_the_right_size_is_damage(tmp_path, tokenizer, text_file):
    prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    path = tmp_path / "s/train/shard-00000.arrow"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="damaged"):
        TokenStore.open(tmp_path / "s")


def test_other_tokenizer_is_refused(tmp_path, tokenizer, text_file):
    data = data_config(tmp_path / "s", text_file)
    store = prepare(data, tokenizer, 1)
    store.check_tokenizer(tokenizer)
    other = tiny_tokenizer(extra=("cd",))
    other.name_or_path = "another/bert"
    for refused in (lambda: store.check_tokenizer(other), lambda: prepare(data, other, 1)):
        with pytest.raises(DataError, match=r"another tokenizer, that of .*, not that of another/"):
            refused()
    assert not is_prepared(data, other)


def test_other_settings_are_refused(tmp_path, tokenizer, text_file):
    prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    other = data_config(tmp_path / "s", text_file, max_length=32)
    assert not is_prepared(other, tokenizer)
    with pytest.raises(DataError, match="max_length was 16, is 32") as caught:
        prepare(other, tokenizer, 1)
    assert "data.store" in caught.value.hint


def test_changed_text_is_refused_but_missing_text_is_not(tmp_path, tokenizer, text_file):
    data = data_config(tmp_path / "s", text_file)
    prepare(data, tokenizer, 1)
    with text_file.open("a") as file:
        file.write('{"text": "a b c"}\n')
    assert not is_prepared(data, tokenizer)
    with pytest.raises(DataError, match=r"corpus.jsonl has changed since"):
        prepare(data, tokenizer, 1)
    text_file.unlink()
    assert is_prepared(data, tokenizer)


def test_folders_that_are_no_stores(tmp_path, tokenizer, text_file):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    for name, message in [("full", "not empty, and not a token store"), (".", "not a token store")]:
        with pytest.raises(DataError, match=message):
            prepare(data_config(tmp_path / name, text_file), tokenizer, 1)
    assert files_of(tmp_path / "full") == [Path("mine.txt")]
    with pytest.raises(DataError, match="not a token store"):
        TokenStore.open(tmp_path / "full")
    with pytest.raises(DataError, match="no token store here"):
        TokenStore.open(tmp_path / "missing")


def test_bad_source_leaves_no_folder(tmp_path, tokenizer):
    with pytest.raises(DataError, match="matches no file"):
        prepare(data_config(tmp_path / "s", tmp_path / "missing.txt"), tokenizer, 1)
    assert not (tmp_path / "s").exists()


def test_corpus_without_a_sequence_is_refused(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text("\n\na\n")
    with pytest.raises(DataError, match=r"no sequence to train on .2 documents are empty, 1 short"):
        prepare(data_config(tmp_path / "s", path, held_out_fraction=0.0), tokenizer, 1)
    assert files_of(tmp_path) == [Path("a.txt")]


def test_good_shards_outlive_a_bad_file(tmp_path, tokenizer, text_file, small_shards):
    bad = tmp_path / "corpus2.jsonl"
    bad.write_text("not JSON\n")
    data = data_config(tmp_path / "s", tmp_path / "corpus*.jsonl")
    with pytest.raises(DataError, match=r"corpus2\.jsonl"):
        prepare(data, tokenizer, 1)
    bad.write_text("")
    skipped = []
    prepare(data, tokenizer, 1, lambda progress: skipped.append(progress.skipped_shards))
    assert skipped[-1] > 3


def test_fingerprint_is_of_behaviour(tmp_path, tokenizer):
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a b c"], truncation=True, max_length=2, padding="max_length")
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert tokenizer_fingerprint(again) == before
    assert again.name_or_path == str(tmp_path)
    assert tokenizer_fingerprint(tiny_tokenizer(extra=("cd",))) != before


def test_tokenizers_that_will_not_do(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))
    backend = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="a").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no cls_token, sep_token, mask_token"):
        load_tokenizer(str(tmp_path))


def dying_worker(*_):
    os._exit(9)


def test_dead_worker_is_an_error_not_a_hang(tmp_path, tokenizer, text_file, monkeypatch):
    monkeypatch.setattr(corpus, "write_in_worker", dying_worker)
    with pytest.raises(DistilError, match="a worker process of prepare died") as caught:
        prepare(data_config(tmp_path / "s", text_file), tokenizer, 2)
    assert caught.value.exit_code == 1  # nothing that was given is wrong


def test_workers_start_without_the_heavy_libraries():
    heavy = {"torch", "transformers", "datasets"}
    code = f"import sys, distilcli.corpus; print({heavy} & {{*sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
