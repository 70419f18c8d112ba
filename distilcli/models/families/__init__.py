"""The architectures that this package knows, one file each, and what is asked of a model.

Nothing outside this folder asks which family a model has: it asks for a part or a property. A new
family is a file here and a row in `FAMILIES`; `tests/models/test_families.py` and
`tests/cli/test_every_family.py` then test it.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from distilcli.models.families.bert import BERT
from distilcli.models.families.camembert import CAMEMBERT
from distilcli.models.families.distilbert import DISTILBERT
from distilcli.models.families.electra import ELECTRA
from distilcli.models.families.ernie import ERNIE
from distilcli.models.families.family import Family, MaskedLM, TaskHead
from distilcli.models.families.modernbert import MODERNBERT
from distilcli.models.families.refused import why_refused
from distilcli.models.families.roberta import ROBERTA
from distilcli.models.families.xlm_roberta import XLM_ROBERTA

__all__ = [
    "FAMILIES",
    "Family",
    "MaskedLM",
    "TaskHead",
    "decoder",
    "encoder",
    "encoder_layers",
    "family_of",
    "first_position",
    "head_features",
    "is_encoder",
    "is_masked_lm",
    "is_of_head",
    "layer_kinds",
    "made_anew",
    "num_parameters",
    "num_positions",
    "settle_ties",
    "size_mib",
    "student_family",
    "takes_token_types",
    "why_refused",
    "without_head",
]

FAMILIES = {
    family.model_type: family
    for family in (BERT, DISTILBERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, ERNIE, MODERNBERT)
}


def family_of(model: PreTrainedModel | PreTrainedConfig) -> Family:
    """The family of a model or of a configuration."""
    config = model if isinstance(model, PreTrainedConfig) else model.config
    return FAMILIES[config.model_type]


def student_family(family: Family) -> Family:
    """The family of a student that is copied from a model of this family."""
    return FAMILIES[family.student or family.model_type]


# What the rest of the package asks of a model


def num_parameters(model: nn.Module) -> int:
    """Number of parameters; a tied one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_mib(model: nn.Module) -> float:
    """MiB of the parameters in their own precision; a tied one counts once."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20


def num_positions(config: Any) -> int:
    """Tokens that a sequence may have, of a model with this configuration."""
    return family_of(config).num_positions(config)


def first_position(model: PreTrainedModel) -> int:
    """Position of the first token of a sequence."""
    return family_of(model).first_position(model.config)


def takes_token_types(model: PreTrainedModel) -> bool:
    """Whether a model is given the type of each token."""
    return family_of(model).takes_token_types


def encoder(model: PreTrainedModel) -> nn.Module:
    """The body: token ids to last hidden states."""
    body: nn.Module = model.base_model
    return body


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The Transformer layers of the body, in order."""
    layers = encoder(model).get_submodule(family_of(model).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def layer_kinds(model: PreTrainedModel, num_layers: int) -> list[str] | None:
    """The kind that each layer of a student of this depth has; None where layers are all alike."""
    return family_of(model).layer_kinds(model.config, num_layers)


def is_masked_lm(model: PreTrainedModel) -> bool:
    """Whether a model has the masked-LM head of its family."""
    return isinstance(model, family_of(model).masked_lm)


def is_encoder(model: PreTrainedModel) -> bool:
    """Whether a model is a body alone, without any head."""
    return encoder(model) is model


def made_anew(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of the same kind with another configuration and random weights."""
    if is_encoder(model):
        return without_head(family_of(config).masked_lm(config))
    return type(model)(config)


def without_head(model: MaskedLM) -> PreTrainedModel:
    """The body of a masked-LM model alone, which has no pooler: that belongs to a head, too."""
    body: Any = encoder(model)
    alone: PreTrainedModel = body
    return alone


def is_of_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight, by its name in the model, belongs to a head: the pooler does, too."""
    body = f"{model.base_model_prefix}."
    pooler = family_of(model).pooler
    is_pooler = pooler is not None and name.startswith(f"{body}{pooler}.")
    return is_pooler or not name.startswith(body)


def last_of_head(model: PreTrainedModel) -> nn.Linear:
    """The projection of a task's head whose rows are the outputs: the last one outside the body."""
    body = f"{model.base_model_prefix}."
    projections = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(body)
    ]
    return projections[-1]


def head_features(
    model: MaskedLM, hidden: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, "tokens embedding"]:
    """What the decoder reads: linear transform, activation and LayerNorm of last hidden states."""
    return family_of(model).vocabulary_head.features(model, hidden)


def decoder(model: MaskedLM) -> nn.Linear:
    """The projection to the vocabulary: weight [vocab, embedding] and bias [vocab], if any."""
    projection: Any = model.get_submodule(family_of(model).vocabulary_head.decoder)
    linear: nn.Linear = projection
    return linear


def settle_ties(model: MaskedLM) -> None:
    """Make configuration and gradients say what is tied.

    A checkpoint may hold a decoder of its own although its configuration says tied. A second name
    of the decoder's bias is then a parameter that nothing reads: it is frozen, since distributed
    training asks a gradient of every parameter that wants one.
    """
    words: Any = model.get_input_embeddings()
    if decoder(model).weight is not words.weight:
        model.config.tie_word_embeddings = False
    bias: Tensor | None = decoder(model).bias
    if bias is None:
        return
    read, *others = map(model.get_parameter, family_of(model).vocabulary_head.biases)
    for other in others:
        if other is not read:
            other.requires_grad_(False)
