"""A tokenizer, a file of text, and shards so small that it fills several."""

import json

import pytest
from paired_stores import TEXTS
from token_stores import data_config, random_texts, tiny_tokenizer

import distilcli.corpus.prepare as corpus


@pytest.fixture(scope="session")
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


@pytest.fixture
def paired_data(tmp_path, small_shards):
    """Of a store of several shards in each split, for the texts of the paired stores."""
    path = tmp_path / "awkward.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return data_config(tmp_path / "store", path, shard_mib=16)
