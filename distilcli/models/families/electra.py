"""ELECTRA (Clark et al. 2020): a generator that predicts masked tokens, and a discriminator.

Only the generator has a masked-LM head; either body can learn a task. Embeddings may be narrower
than hidden states, which a projection then widens, and the head goes back to their width. A student
copied from it is an ELECTRA with fewer layers.
"""

from typing import Any

from torch import Tensor, nn
from transformers import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
)

from distilcli.models.families.bert import BERT
from distilcli.models.families.family import (
    Embeddings,
    Family,
    Settings,
    TaskHead,
    VocabularyHead,
    linear,
    token_outputs,
)


def _features(model: Any, hidden: Tensor) -> Tensor:
    features: Tensor = model.generator_predictions(hidden)
    return features


def _sequence_outputs(model: Any, hidden: Tensor) -> Tensor:
    head = model.classifier
    # GELU, where BERT has tanh.
    pooled = nn.functional.gelu(head.dense(head.dropout(hidden)))
    return linear(head.out_proj, head.dropout(pooled))


def _span_outputs(model: Any, hidden: Tensor) -> Tensor:
    return linear(model.qa_outputs, hidden)


ELECTRA = Family(
    model_type="electra",
    name="ELECTRA",
    config_class=ElectraConfig,
    masked_lm=ElectraForMaskedLM,
    vocabulary_head=VocabularyHead(
        transform="generator_predictions.dense",
        norm="generator_predictions.LayerNorm",
        decoder="generator_lm_head",
        features=_features,
        saved_by=("ElectraForMaskedLM",),
        without_it=(
            "The discriminator of an ELECTRA (ElectraForPreTraining) tells which tokens were "
            "replaced and predicts none: take its generator, or teach it a task (`task:`)."
        ),
    ),
    task_heads={
        "sequence": TaskHead(ElectraForSequenceClassification, _sequence_outputs),
        "token": TaskHead(ElectraForTokenClassification, token_outputs),
        "span": TaskHead(ElectraForQuestionAnswering, _span_outputs),
    },
    layers=BERT.layers,
    layer=BERT.layer,
    embeddings=Embeddings(),
    settings=Settings(embedding_size="embedding_size"),
    takes_token_types=True,
    inherited=("type_vocab_size", "layer_norm_eps"),
)
