"""Token stores that are not what is asked for, and text and tokenizers that make none."""

from pathlib import Path

import pytest
from corpus_files import files_of
from token_stores import data_config, tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from distilcli.corpus.prepare import is_prepared, prepare
from distilcli.corpus.store import TokenStore
from distilcli.errors import DataError, ModelError
from distilcli.text.tokenizers import load_tokenizer, tokenizer_fingerprint


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
    with pytest.raises(ModelError, match="it has no tokenizer"):
        load_tokenizer(str(tmp_path))
    backend = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="a").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no cls_token, sep_token, mask_token"):
        load_tokenizer(str(tmp_path))
