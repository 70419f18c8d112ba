"""A tiny model of every family in the table, and what tests of it need to know."""

from functools import partial
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from distilcli.models.families import FAMILIES, Family, layer_kinds
from distilcli.models.layers import nearest_of_right_kinds

VOCAB, HIDDEN, LAYERS, INNER, POSITIONS = 60, 16, 3, 24, 40
# What a family's tiny configuration has beyond these sizes.
TINY: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "modernbert": {
        "local_attention": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "cls_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
    },
    "electra": {"embedding_size": 8},
    "ernie": {"use_task_id": True},
}
NUM_SPECIAL = 5  # ids that no test shows a model, the padding of every family among them


def tiny_config(
    family: Family, positions: int = POSITIONS, num_layers: int = LAYERS, **changes: Any
) -> PreTrainedConfig:
    """A configuration with so many positions for tokens; other sizes as said above."""
    names = family.settings
    first = family.first_position(family.config_class())
    shape = {
        "vocab_size": VOCAB,
        "max_position_embeddings": positions + first,
        names.hidden_size: HIDDEN,
        names.num_hidden_layers: num_layers,
        names.num_attention_heads: 4,
        names.inner_size: INNER,
    }
    return family.config_class(**shape | TINY.get(family.model_type, {}) | changes)


def with_weights(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int = 0
) -> PreTrainedModel:
    """A model whose every weight, biases and token types included, is well away from zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def tiny_masked_lm(family: Family | str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny model with a masked-LM head."""
    found = FAMILIES[family] if isinstance(family, str) else family
    return with_weights(found.masked_lm, tiny_config(found, **changes), seed)


def fitting(model: PreTrainedModel, layers: list[int]) -> list[int]:
    """The layers nearest to a list that a student can have; the list itself in most families."""
    depth = int(model.config.num_hidden_layers)
    return nearest_of_right_kinds(layers, depth, partial(layer_kinds, model))


def exact_attention(model: PreTrainedModel) -> str:
    """The attention of transformers that computes in 64 bits where the model does.

    Some families' own rounds to 32 in its softmax.
    """
    return "sdpa" if model.config.model_type == "modernbert" else "eager"
