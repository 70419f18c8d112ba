"""What is inside a model while it runs over a packed row: hidden states, queries, keys, values."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel

from distilcli.losses.inside import Place, Shape
from distilcli.models.attention import listen_to_attention
from distilcli.models.families import encoder, encoder_layers, family_of

Inside = dict[Place, Tensor]
# In the order that those who listen to attention get them.
_OF_ATTENTION = ("attention_query", "attention_key")


def shape_of(model: PreTrainedModel) -> Shape:
    """Depth, width and heads of a model."""
    family = family_of(model)
    names, num_layers = family.settings, len(encoder_layers(model))
    return Shape(
        num_layers=num_layers,
        width=int(getattr(model.config, names.hidden_size)),
        num_heads=int(getattr(model.config, names.num_attention_heads)),
        radii=tuple(family.radii(model.config, num_layers)),
    )


class Recorder:
    """Keeps what is at some places of a model, in runs that ask for it.

    It hooks into the model, so it must be made before layers are compiled (`compile_layers`).

    Args:
        model: what is looked into.
        places: where; nothing else is kept.
    """

    def __init__(self, model: PreTrainedModel, places: Collection[Place]) -> None:
        self._found: Inside | None = None
        for place in sorted(set(places)):
            if place.what == "hidden_states":
                self._hook_between_layers(model, place)
            elif place.what in _OF_ATTENTION:
                self._listen_to_attention(model, place)
            else:
                self._hook_projection(model, place)

    @contextmanager
    def recording(self) -> Iterator[Inside]:
        """What the model's run in this block finds, [tokens, width] at each place, in its dtype."""
        self._found = {}
        try:
            yield self._found
        finally:
            self._found = None

    def _keep(self, place: Place, row: Tensor) -> None:
        if self._found is not None:
            self._found[place] = row[0]

    def _keep_heads(self, place: Place, heads: Tensor) -> None:
        if self._found is not None:
            self._found[place] = heads[0].transpose(0, 1).flatten(1)

    def _hook_between_layers(self, model: PreTrainedModel, place: Place) -> None:
        layers = encoder_layers(model)
        if place.layer < len(layers):
            layers[place.layer].register_forward_pre_hook(
                lambda _layer, inputs: self._keep(place, inputs[0])
            )
        else:  # the body, since a norm may follow the last layer
            encoder(model).register_forward_hook(
                lambda _body, _inputs, output: self._keep(place, output.last_hidden_state)
            )

    def _listen_to_attention(self, model: PreTrainedModel, place: Place) -> None:
        layer = encoder_layers(model)[place.layer]
        index = _OF_ATTENTION.index(place.what)
        listen_to_attention(
            layer.get_submodule(family_of(model).layer.attention),
            lambda *both: self._keep_heads(place, both[index]),
        )

    def _hook_projection(self, model: PreTrainedModel, place: Place) -> None:
        layer = family_of(model).layer
        projection = encoder_layers(model)[place.layer].get_submodule(layer.roles[place.what])
        index, count = layer.part(place.what)
        projection.register_forward_hook(
            lambda _module, _inputs, output: self._keep(place, output.chunk(count, dim=-1)[index])
        )
