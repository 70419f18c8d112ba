"""Which axis of which weight follows which width of a model.

A model of the same class is built on the meta device with another width, where it costs nothing,
and shapes are compared: so no architecture is known by name here. What shapes cannot tell is
taken from the roles that the family gives the modules of a layer.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from distilcli.models.families import family_of, is_encoder, is_of_head, made_anew
from distilcli.models.narrowing.sizes import Sizes, resized, sizes_of
from distilcli.models.weights import layer_number

Kind = Literal["residual", "query", "key", "value", "inner", "features"]


@dataclass(frozen=True)
class Space:
    """Numbers that weights write and other weights read.

    Attributes:
        kind: residual: what every layer adds to; query, key, value: of all heads of a layer end to
            end, value being also what attention gives; inner: between the two products of a
            feed-forward network; features: between the first projection of a head and the rest.
        layer: where they are; None: everywhere, or in no layer.
    """

    kind: Kind
    layer: int | None = None


RESIDUAL, FEATURES = Space("residual"), Space("features")
_OF_HEADS: tuple[Kind, ...] = ("query", "key", "value")
# The spaces of an axis, in equal parts; no space where the axis follows no width.
Axis = tuple[Space, ...]


def axes_of(model: PreTrainedModel) -> dict[str, tuple[Axis, ...]]:
    """The spaces of every axis of every weight, by its name in the model."""
    config = model.config
    sizes = sizes_of(config)
    shapes = _shapes(model, config)
    wider = _shapes(model, resized(config, _wider(config, sizes)))
    deeper = _shapes(model, resized(config, sizes._replace(inner_size=sizes.inner_size + 1)))
    has_features = not is_encoder(model) and any(
        is_of_head(model, name) and sum(a != b for a, b in zip(shape, wider[name], strict=True)) > 1
        for name, shape in shapes.items()
    )
    axes: dict[str, tuple[Axis, ...]] = {}
    for name, shape in shapes.items():
        assert name in wider, f"{name} is only there at some widths"
        found: list[Axis] = []
        for axis, size in enumerate(shape):
            if wider[name][axis] != size:
                square = sum(a != b for a, b in zip(shape, wider[name], strict=True)) > 1
                found.append(_of_width(model, name, axis, square, has_features))
            elif deeper[name][axis] != size:
                found.append(_of_inner(model, name))
            else:
                found.append(())
        axes[name] = tuple(found)
    return axes


def _wider(config: Any, sizes: Sizes) -> Sizes:
    """Another width, which is not that of the embeddings."""
    step = 2 * sizes.num_heads
    width = sizes.hidden_size + step
    if width == family_of(config).embedding_width(config):
        width += step
    return sizes._replace(hidden_size=width)


def _shapes(model: PreTrainedModel, config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        empty = made_anew(model, config)
    return {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}


def _of_width(
    model: PreTrainedModel, name: str, axis: int, square: bool, has_features: bool
) -> Axis:
    """The spaces of an axis that follows the hidden size."""
    family = family_of(model)
    layer = layer_number(name, family)
    module = name.rpartition(".")[0]
    if layer is not None:
        inside = module.partition(f"{family.layers}.{layer}.")[2]
        roles = family.layer.roles
        if axis == 0:
            parts = tuple(Space(role, layer) for role in _OF_HEADS if roles[role] == inside)
            if parts:
                return parts
        elif inside == roles["attention_output"]:
            return (Space("value", layer),)
        return (RESIDUAL,)
    is_embedding = isinstance(model.get_submodule(module), nn.Embedding)
    if has_features and is_of_head(model, name) and not is_embedding:
        return (RESIDUAL,) if axis == 1 and square else (FEATURES,)
    return (RESIDUAL,)


def _of_inner(model: PreTrainedModel, name: str) -> Axis:
    """The space of an axis that follows the inner size, once for each part of its projection."""
    family = family_of(model)
    layer = layer_number(name, family)
    module = name.rpartition(".")[0]
    inside = module.partition(f"{family.layers}.{layer}.")[2]
    roles = family.layer.roles
    parts = [role for role in ("inner", "gate") if roles.get(role) == inside]
    return (Space("inner", layer),) * max(1, len(parts))
