"""RoBERTa (Liu et al. 2019): a BERT of one token type, whose positions begin after padding.

A student copied from it is a RoBERTa with fewer layers, as DistilRoBERTa is.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
)

from distilcli.models.families.family import (
    Embeddings,
    Family,
    Layer,
    Settings,
    TaskHead,
    VocabularyHead,
    linear,
    token_outputs,
)


def _features(model: Any, hidden: Tensor) -> Tensor:
    head = model.lm_head
    # The exact GELU, whatever activation the layers have.
    features: Tensor = head.layer_norm(torch.nn.functional.gelu(head.dense(hidden)))
    return features


def _sequence_outputs(model: Any, hidden: Tensor) -> Tensor:
    head = model.classifier
    pooled = torch.tanh(head.dense(head.dropout(hidden)))
    return linear(head.out_proj, head.dropout(pooled))


def _span_outputs(model: Any, hidden: Tensor) -> Tensor:
    return linear(model.qa_outputs, hidden)


ROBERTA = Family(
    model_type="roberta",
    name="RoBERTa",
    config_class=RobertaConfig,
    masked_lm=RobertaForMaskedLM,
    vocabulary_head=VocabularyHead(
        transform="lm_head.dense",
        norm="lm_head.layer_norm",
        decoder="lm_head.decoder",
        second_bias="lm_head.bias",
        features=_features,
        saved_by=("RobertaForMaskedLM",),
    ),
    task_heads={
        "sequence": TaskHead(RobertaForSequenceClassification, _sequence_outputs),
        "token": TaskHead(RobertaForTokenClassification, token_outputs),
        "span": TaskHead(RobertaForQuestionAnswering, _span_outputs),
    },
    layers="encoder.layer",
    layer=Layer(
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        inner="intermediate.dense",
        outer="output.dense",
        output_norm="output.LayerNorm",
    ),
    embeddings=Embeddings(),
    settings=Settings(),
    starts_after_padding=True,
    inherited=("type_vocab_size", "layer_norm_eps"),
)
