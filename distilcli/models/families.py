"""The architectures that this package knows, and where their parts are."""

from jaxtyping import Float
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, DistilBertForMaskedLM, PreTrainedModel

MaskedLM = BertForMaskedLM | DistilBertForMaskedLM


# What the rest of the package asks of a model


def num_parameters(model: nn.Module) -> int:
    """Number of parameters; a tied one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_mib(model: nn.Module) -> float:
    """MiB of the parameters in their own precision; a tied one counts once."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20


def is_bert(model: PreTrainedModel) -> bool:
    """Whether a model is a BERT, with token types; else it is a DistilBERT, without."""
    return isinstance(model.config, BertConfig)


def encoder(model: PreTrainedModel) -> nn.Module:
    """The body: token ids to last hidden states."""
    body: nn.Module = model.base_model
    return body


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The Transformer layers of the body, in order."""
    stack = "encoder" if is_bert(model) else "transformer"
    layers = encoder(model).get_submodule(stack).layer
    assert isinstance(layers, nn.ModuleList)
    return layers


def head_features(
    model: MaskedLM, hidden: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, "tokens hidden"]:
    """What the decoder reads: linear transform, activation and LayerNorm of last hidden states."""
    if isinstance(model, BertForMaskedLM):
        features: Tensor = model.cls.predictions.transform(hidden)
    else:
        features = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    return features


def decoder(model: MaskedLM) -> nn.Linear:
    """The projection to the vocabulary: weight [vocab, hidden] and bias [vocab]."""
    if isinstance(model, BertForMaskedLM):
        projection: nn.Linear = model.cls.predictions.decoder
    else:
        projection = model.vocab_projector
    return projection
