"""A model with its tokenizer, whole and in shards, and ids for it to read."""

from pathlib import Path

import pytest
import torch
from tiny_models import VOCAB, make_bert, word_tokenizer
from transformers import BertForMaskedLM


@pytest.fixture(scope="session")
def teacher() -> BertForMaskedLM:
    return make_bert()


@pytest.fixture
def saved(tmp_path: Path, teacher: BertForMaskedLM) -> Path:
    """A model with its tokenizer."""
    teacher.save_pretrained(tmp_path / "teacher")
    word_tokenizer().save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def in_shards(tmp_path: Path, teacher: BertForMaskedLM) -> Path:
    teacher.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    return tmp_path / "shards"


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, VOCAB, (3, 17), generator=torch.Generator().manual_seed(0))
