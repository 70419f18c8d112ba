"""Architectures that cannot be used are refused with the reason, and with those that can be."""

import json
from pathlib import Path

import pytest
from tiny_experiments import run, word_tokenizer
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoConfig,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
)

from distilcli.errors import ModelError
from distilcli.models.families import FAMILIES
from distilcli.models.families.refused import REFUSED
from distilcli.models.loading import load_masked_lm

SHAPE = {
    "vocab_size": len(word_tokenizer()),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
REASONS = {
    "albert": "layers share one set of weights",
    "deberta": "terms for relative positions",
    "deberta-v2": "its checkpoints have no masked-LM head",
    "mpnet": "a number for the distance of two tokens",
    "xlnet": "tokens in changing orders",
    "t5": "an encoder and a decoder",
    "longformer": "attention is sparse",
    "big_bird": "attention is sparse",
    "gpt2": "predicts the next token",
    "llama": "predicts the next token",
    "modernbert-decoder": "predicts the next token",
    "nomic_bert": "not bert, distilbert, roberta",
    "convbert": "not bert, distilbert, roberta",
    "of-our-own": "not bert, distilbert, roberta",
}


@pytest.mark.parametrize("model_type", REASONS)
def test_what_cannot_be_used_is_refused_with_the_reason(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ModelError) as refusal:
        load_masked_lm(str(tmp_path))
    error = refusal.value
    assert error.message.startswith(f"teacher {tmp_path}: its model_type is {model_type}, ")
    assert REASONS[model_type] in error.message
    assert error.hint.startswith("Use a BERT, DistilBERT, ")
    assert all(family.name in error.hint for family in FAMILIES.values())


def test_the_table_is_of_transformers_and_of_no_family():
    for model_type in REFUSED:
        assert model_type in REASONS
        assert model_type not in FAMILIES
        assert AutoConfig.for_model(model_type).model_type == model_type


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_class", "config", "words"),
    [
        (AlbertForMaskedLM, AlbertConfig(**SHAPE, embedding_size=8), "share one set of weights"),
        (DebertaV2ForMaskedLM, DebertaV2Config(**SHAPE), "terms for relative positions"),
        (MPNetForMaskedLM, MPNetConfig(**SHAPE), "a number for the distance of two tokens"),
    ],
)
def test_a_command_refuses_them_and_writes_nothing(model_class, config, words, tmp_path: Path):
    teacher, output = tmp_path / "teacher", tmp_path / "student"
    model_class(config).save_pretrained(teacher)
    word_tokenizer().save_pretrained(teacher)
    finished = run("init-student", "--teacher", str(teacher), "--output", str(output))
    assert finished.code == 2
    assert words in finished.stderr
    assert "Use a BERT, DistilBERT, " in finished.stderr
    assert not output.exists()
