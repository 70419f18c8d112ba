"""DistilBERT (Sanh et al. 2019): a BERT without token types and without a pooler.

A layer of its own stands before the classifier of a sequence. A student copied from it is a
DistilBERT with fewer layers.
"""

from typing import Any

from torch import Tensor, nn
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
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
    features: Tensor = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    return features


def _sequence_outputs(model: Any, hidden: Tensor) -> Tensor:
    pooled = nn.functional.relu(model.pre_classifier(hidden))
    return linear(model.classifier, model.dropout(pooled))


def _span_outputs(model: Any, hidden: Tensor) -> Tensor:
    return linear(model.qa_outputs, model.dropout(hidden))


DISTILBERT = Family(
    model_type="distilbert",
    name="DistilBERT",
    config_class=DistilBertConfig,
    masked_lm=DistilBertForMaskedLM,
    vocabulary_head=VocabularyHead(
        transform="vocab_transform",
        norm="vocab_layer_norm",
        decoder="vocab_projector",
        features=_features,
        saved_by=("DistilBertForMaskedLM",),
    ),
    task_heads={
        "sequence": TaskHead(DistilBertForSequenceClassification, _sequence_outputs),
        "token": TaskHead(DistilBertForTokenClassification, token_outputs),
        "span": TaskHead(DistilBertForQuestionAnswering, _span_outputs),
    },
    layers="transformer.layer",
    layer=Layer(
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        inner="ffn.lin1",
        outer="ffn.lin2",
        output_norm="output_layer_norm",
    ),
    embeddings=Embeddings(token_types=None),
    settings=Settings(
        hidden_size="dim",
        embedding_size="dim",
        num_hidden_layers="n_layers",
        num_attention_heads="n_heads",
        inner_size="hidden_dim",
        activation="activation",
        dropout="dropout",
        attention_dropout="attention_dropout",
    ),
    layer_norm_eps=1e-12,
)
