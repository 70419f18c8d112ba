"""BERT (Devlin et al. 2019): token types, a pooler before the classifier of a sequence.

A student copied from it is a DistilBERT (Sanh et al. 2019, sec. 3).
"""

from typing import Any

from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
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
    features: Tensor = model.cls.predictions.transform(hidden)
    return features


def _sequence_outputs(model: Any, hidden: Tensor) -> Tensor:
    pooler = model.base_model.pooler
    return linear(model.classifier, model.dropout(pooler.activation(pooler.dense(hidden))))


def _span_outputs(model: Any, hidden: Tensor) -> Tensor:
    return linear(model.qa_outputs, hidden)


BERT = Family(
    model_type="bert",
    name="BERT",
    config_class=BertConfig,
    masked_lm=BertForMaskedLM,
    vocabulary_head=VocabularyHead(
        transform="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        decoder="cls.predictions.decoder",
        second_bias="cls.predictions.bias",
        features=_features,
        saved_by=("BertForMaskedLM", "BertForPreTraining"),
    ),
    task_heads={
        "sequence": TaskHead(BertForSequenceClassification, _sequence_outputs),
        "token": TaskHead(BertForTokenClassification, token_outputs),
        "span": TaskHead(BertForQuestionAnswering, _span_outputs),
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
    student="distilbert",
    takes_token_types=True,
    pooler="pooler",
    inherited=("type_vocab_size", "layer_norm_eps"),
)
