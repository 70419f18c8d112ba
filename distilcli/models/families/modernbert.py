"""ModernBERT (Warner et al. 2024): rotary positions, local and global layers by turns, gated MLPs.

Ettin encoders and mmBERT are ModernBERTs, too. Layers normalise before attention, but for the
first one, whose input the embeddings have normalised. Most modules have no bias; the configuration
says which do. A student copied from it is a ModernBERT with fewer layers, of the same kinds in the
same order.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
)

from distilcli.errors import ModelError
from distilcli.hub.model_files import invalid_config
from distilcli.models.families.family import (
    Embeddings,
    Family,
    Layer,
    Settings,
    TaskHead,
    VocabularyHead,
    linear,
    states_at_outputs,
)
from distilcli.tasks.inputs import TaskBatch

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
# Of rotary positions: those whose angle depends on the token's own position alone.
_FIXED_ROPE_TYPES = ("default", "linear", "llama3", "proportional", "yarn")


def _features(model: Any, hidden: Tensor) -> Tensor:
    features: Tensor = model.head(hidden)
    return features


def _outputs(model: Any, hidden: Tensor) -> Tensor:
    return linear(model.classifier, model.drop(model.head(hidden)))


def _pooled(model: Any, hidden: Tensor, batch: TaskBatch) -> Tensor:
    """The state of the first token of each input, or the mean of all of its states."""
    if model.config.classifier_pooling != "mean":
        return states_at_outputs(model, hidden, batch)
    lengths = batch.boundaries.diff().long()
    # Not checked: to look at the lengths, the host would wait for a GPU.
    return torch.segment_reduce(hidden, "mean", lengths=lengths, unsafe=True)


def _set_attention_dropout(attention: Any, rate: float) -> None:
    """Of attention probabilities, and of what attention adds to its input: both have one rate."""
    attention.attention_dropout = rate
    attention.out_drop = nn.Dropout(rate) if rate > 0 else nn.Identity()


def _check(tree: Mapping[str, Any], where: str) -> None:
    _check_layer_types(tree, where)
    _check_rope(tree, where)
    pooling = tree.get("classifier_pooling", "cls")
    if pooling not in ("cls", "mean"):
        raise invalid_config(where, f"classifier_pooling is {pooling!r}, not cls or mean")


def _check_layer_types(tree: Mapping[str, Any], where: str) -> None:
    types = tree.get("layer_types")
    if types is None:
        every = tree.get("global_attn_every_n_layers", 3)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            reason = f"global_attn_every_n_layers is {every!r}, not a whole number from 1"
            raise invalid_config(where, reason)
        return
    if not isinstance(types, list) or not all(one in (_GLOBAL, _LOCAL) for one in types):
        raise invalid_config(where, f"layer_types is not a list of {_GLOBAL} and {_LOCAL}")
    depth = tree.get("num_hidden_layers", ModernBertConfig.num_hidden_layers)
    if len(types) != depth:
        raise invalid_config(where, f"layer_types names {len(types)} layers, of {depth}")


def _check_rope(tree: Mapping[str, Any], where: str) -> None:
    """Refuse rotary positions that no head can have, or that depend on the rest of a batch."""
    width = tree.get("hidden_size", ModernBertConfig.hidden_size)
    heads = tree.get("num_attention_heads", ModernBertConfig.num_attention_heads)
    if width % heads == 0 and width // heads % 2:
        reason = f"heads of {width // heads}, and rotary positions turn pairs of numbers"
        raise invalid_config(where, reason)
    by_type = tree.get("rope_parameters") or {}
    scaling = tree.get("rope_scaling") or {}
    if not isinstance(by_type, Mapping) or not isinstance(scaling, Mapping):
        raise invalid_config(where, "rope_parameters or rope_scaling is not an object")
    for one in (*by_type.values(), by_type, scaling):
        if not isinstance(one, Mapping):
            continue
        kind = one.get("rope_type") or one.get("type") or "default"
        if kind not in _FIXED_ROPE_TYPES:
            raise ModelError(
                f"{where}: its rotary positions are of the type {kind}, where the angle of a token "
                "depends on the longest sequence of its batch",
                f"Use a model with one of the types {', '.join(_FIXED_ROPE_TYPES)}.",
            )
        _check_theta(one.get("rope_theta"), where)
    for name in ("global_rope_theta", "local_rope_theta"):
        _check_theta(tree.get(name), where)


def _check_theta(theta: Any, where: str) -> None:
    is_number = isinstance(theta, int | float) and not isinstance(theta, bool)
    if theta is not None and not (is_number and 0 < theta < float("inf")):
        raise invalid_config(where, f"the base of rotary positions is {theta!r}, not above 0")


def _older_settings(config: Any) -> dict[str, Any]:
    """transformers 4 reads one number for the layer types, and the bases of positions apart.

    What it cannot express is null there: it then fails, where it would compute something else.
    """
    rope = config.rope_parameters
    bases = {"global_rope_theta": rope[_GLOBAL], "local_rope_theta": rope[_LOCAL]}
    is_plain = all(one["rope_type"] == "default" for one in bases.values())
    return {
        "global_attn_every_n_layers": _global_every(config),
        **{name: one["rope_theta"] if is_plain else None for name, one in bases.items()},
    }


def _global_every(config: Any) -> int | None:
    """The n with which global layers are those at 0, n, 2n, ...; None without one."""
    types = list(config.layer_types)
    said = getattr(config, "global_attn_every_n_layers", None)  # of a few layers several are right
    for every in (*((said,) if said else ()), *range(1, len(types) + 1)):
        if types == [_LOCAL if place % every else _GLOBAL for place in range(len(types))]:
            return int(every)
    return None


MODERNBERT = Family(
    model_type="modernbert",
    name="ModernBERT",
    config_class=ModernBertConfig,
    masked_lm=ModernBertForMaskedLM,
    vocabulary_head=VocabularyHead(
        transform="head.dense",
        norm="head.norm",
        decoder="decoder",
        features=_features,
        saved_by=("ModernBertForMaskedLM",),
    ),
    task_heads={
        "sequence": TaskHead(ModernBertForSequenceClassification, _outputs, _pooled),
        "token": TaskHead(ModernBertForTokenClassification, _outputs),
        "span": TaskHead(ModernBertForQuestionAnswering, _outputs),
    },
    layers="layers",
    layer=Layer(
        query="attn.Wqkv",
        key="attn.Wqkv",
        value="attn.Wqkv",
        attention_output="attn.Wo",
        attention_norm="attn_norm",
        inner="mlp.Wi",
        outer="mlp.Wo",
        output_norm="mlp_norm",
        gate="mlp.Wi",
    ),
    embeddings=Embeddings(
        words="embeddings.tok_embeddings",
        positions=None,
        norm="embeddings.norm",
        token_types=None,
    ),
    settings=Settings(
        activation="hidden_activation",
        dropout="mlp_dropout",
        attention_dropout="attention_dropout",
        more_dropouts=("embedding_dropout", "classifier_dropout"),
        layer_types="layer_types",
        window="local_attention",
    ),
    inherited=(
        "attention_bias",
        "classifier_activation",
        "classifier_bias",
        "classifier_dropout",
        "classifier_pooling",
        "cls_token_id",
        "decoder_bias",
        "embedding_dropout",
        "initializer_cutoff_factor",
        "mlp_bias",
        "norm_bias",
        "norm_eps",
        "rope_parameters",
        "sep_token_id",
    ),
    first_layer_differs=True,
    set_attention_dropout=_set_attention_dropout,
    check=_check,
    older_settings=_older_settings,
)
