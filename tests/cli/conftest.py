"""Models that do not fit, and what commands in one process need in order to stand by themselves."""

import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from tiny_experiments import bert, save, word_tokenizer
from transformers import BertModel, GPT2Config, GPT2LMHeadModel


@pytest.fixture
def alone_and_offline(monkeypatch):
    """A command has a process of its own; here each gets an accelerator of its own."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where nothing may be written."""
    empty = tmp_path / "out"
    empty.mkdir()
    return empty


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Models that do not fit, by what is wrong with them."""
    root = tmp_path_factory.mktemp("models")
    save(bert(), root / "same")
    save(bert(vocab_size=97), root / "vocabulary")
    save(bert(max_position_embeddings=16), root / "positions")
    save(bert(hidden_size=16), root / "narrow")
    save(BertModel(bert().config), root / "headless")
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 4}
    gpt2 = GPT2Config(vocab_size=len(word_tokenizer()), n_inner=48, **shape)
    save(GPT2LMHeadModel(gpt2), root / "gpt2")
    other = save(bert(), root / "tokenizer") / "tokenizer.json"
    tree = json.loads(other.read_text(encoding="utf-8"))
    vocabulary = tree["model"]["vocab"]
    vocabulary["ba"], vocabulary["be"] = vocabulary["be"], vocabulary["ba"]
    other.write_text(json.dumps(tree), encoding="utf-8")
    return root
