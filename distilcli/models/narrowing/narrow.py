"""Making a model narrower: every weight with what is kept of the widths that it reads and writes.

    narrow(model, Sizes(hidden_size=384, num_heads=6, inner_size=1536), batches)

The result is a model of the same class with another configuration. Where a size stays what it was,
so does every weight, to the last bit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.batches.packing import PackedSequences
from distilcli.config.models import Widths
from distilcli.models.copying import seeded
from distilcli.models.families import (
    encoder_layers,
    family_of,
    is_masked_lm,
    made_anew,
    settle_ties,
)
from distilcli.models.narrowing.choices import (
    Cut,
    HeadMoments,
    Reading,
    apply_cut,
    best,
    cut_heads,
    importance,
    reading,
)
from distilcli.models.narrowing.moments import Observed, observe
from distilcli.models.narrowing.sizes import (
    Sizes,
    check_can_be_cut,
    resized,
    sizes_of,
    wanted_sizes,
)
from distilcli.models.narrowing.spaces import FEATURES, RESIDUAL, Axis, Space, axes_of

# Where text to look at comes from, asked only if it is needed.
Sequences = Callable[[], Sequence[PackedSequences]]


def no_sequences() -> Sequence[PackedSequences]:
    """The sequences of a caller who asks for no narrower model."""
    raise AssertionError("a narrower student is made by text")


def narrowed(model: PreTrainedModel, student: Widths, sequences: Sequences) -> PreTrainedModel:
    """A model as narrow as a student is asked to be; the model itself where it is already.

    Args:
        model: see `narrow`.
        student: says which widths.
        sequences: gives inputs of the model.

    Raises:
        ConfigError: there are no such heads, or the model cannot be cut to these sizes.
    """
    sizes = wanted_sizes(model.config, student)
    if sizes == sizes_of(model.config):
        return model
    check_can_be_cut(model.config, sizes)
    return narrow(model, sizes, sequences())


def narrow(
    model: PreTrainedModel, sizes: Sizes, batches: Sequence[PackedSequences]
) -> PreTrainedModel:
    """A narrower model that computes as nearly as it can what a model does on some text.

    Args:
        model: in fp32 or fp64 and eval mode; it is switched to packed attention.
        sizes: of the result.
        batches: inputs of its task, if it has a head for one, else text, masked as for training.

    Raises:
        ConfigError: the model cannot be cut to these sizes.
    """
    check_can_be_cut(model.config, sizes)
    axes = axes_of(model)
    plan = _Plan(model, sizes, axes, observe(model, axes, batches))
    with seeded(0):  # every weight is overwritten; this keeps the global random state
        smaller = made_anew(model, resized(model.config, sizes))
    nn.Module.to(smaller, dtype=model.dtype)
    smaller.load_state_dict(_cut_weights(model, axes, plan), strict=True)
    if is_masked_lm(smaller):
        settle_ties(smaller)
    smaller.train(False)
    return smaller


class _Plan:
    """What is kept of every width of a model, and with which weights it is then read.

    Attributes:
        cuts: by space; one that stays whole is not among them.
        readings: by name of the projection that reads a cut width.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sizes: Sizes,
        axes: Mapping[str, Sequence[Axis]],
        observed: Observed,
    ) -> None:
        self._model, self._axes, self._observed = model, axes, observed
        self._old, self._new = sizes_of(model.config), sizes
        layers = encoder_layers(model)
        self._stack = next(name for name, one in model.named_modules() if one is layers)
        self.cuts: dict[Space, Cut] = {}
        if sizes.hidden_size != self._old.hidden_size:
            self._cut_hidden_states()
            self._cut_features()
        for layer in range(len(layers)):
            if sizes[:2] != self._old[:2]:
                self._cut_heads(layer)
            if sizes.inner_size != self._old.inner_size:
                self._cut_inner(layer)
        self.readings = self._readings()

    def _cut_hidden_states(self) -> None:
        """By the mean share of every channel in what the projections give that read it."""
        scores = [
            self._importance(name)
            for name in self._observed.inputs
            if self._reads(name) == RESIDUAL or self._is_tied(name)
        ]
        self.cuts[RESIDUAL] = best(torch.stack(scores).mean(dim=0), self._new.hidden_size)

    def _cut_features(self) -> None:
        """Those of a tied decoder are the channels of the word embeddings."""
        readers = [name for name in self._observed.inputs if self._reads(name) == FEATURES]
        if not readers:
            return
        scores = [self._importance(name) for name in readers]
        is_tied = any(map(self._is_tied, readers))
        own = best(torch.stack(scores).mean(dim=0), self._new.hidden_size)
        self.cuts[FEATURES] = self.cuts[RESIDUAL] if is_tied else own

    def _cut_heads(self, layer: int) -> None:
        name = self._module(layer, "attention_output")
        query, key, value = (Space(role, layer) for role in ("query", "key", "value"))
        second = self._observed.inputs[name].second(centred=self._has_bias(name))
        outputs = (self._observed.outputs[one].second(centred=False) for one in (query, key))
        moments = HeadMoments(second, *outputs)
        rotates = family_of(self._model).embeddings.positions is None
        cuts = cut_heads(self._weight(name), moments, self._old, self._new, rotates=rotates)
        self.cuts |= dict(zip((query, key, value), cuts, strict=True))

    def _cut_inner(self, layer: int) -> None:
        scores = self._importance(self._module(layer, "outer"))
        self.cuts[Space("inner", layer)] = best(scores, self._new.inner_size)

    def _readings(self) -> dict[str, Reading]:
        found = {}
        for name, moments in self._observed.inputs.items():
            cut = self.cuts.get(self._reads(name))
            if cut is not None and not self._is_tied(name):
                found[name] = reading(moments, cut, centred=self._has_bias(name))
        return found

    def _importance(self, name: str) -> Float[Tensor, " size"]:
        moments, centred = self._observed.inputs[name], self._has_bias(name)
        return importance(self._weight(name), moments, centred=centred)

    def _weight(self, name: str) -> Float[Tensor, "out size"]:
        return self._model.get_parameter(f"{name}.weight").detach()

    def _module(self, layer: int, role: str) -> str:
        family = family_of(self._model)
        return f"{self._stack}.{layer}.{family.layer.roles[role]}"

    def _reads(self, name: str) -> Space:
        (space,) = self._axes[f"{name}.weight"][1]
        return space

    def _has_bias(self, name: str) -> bool:
        return self._model.get_submodule(name).bias is not None

    def _is_tied(self, name: str) -> bool:
        """Whether a projection's weight is the word embeddings, which are cut as such."""
        words: Any = self._model.get_input_embeddings()
        return self._model.get_parameter(f"{name}.weight") is words.weight


def _cut_weights(
    model: PreTrainedModel, axes: Mapping[str, Sequence[Axis]], plan: _Plan
) -> dict[str, Tensor]:
    """Every weight of the narrower model, by its name."""
    weights = dict(model.state_dict())
    for name, found in plan.readings.items():
        weight, bias = weights[f"{name}.weight"].double(), weights.get(f"{name}.bias")
        weights[f"{name}.weight"] = weight @ found.matrix
        if bias is not None:
            weights[f"{name}.bias"] = bias.double() + weight @ found.constant
    for name, of_weight in axes.items():
        for axis, spaces in enumerate(of_weight):
            is_read = axis == 1 and name.rpartition(".")[0] in plan.readings
            if not is_read:
                weights[name] = _cut_axis(weights[name], axis, spaces, plan.cuts)
    head = family_of(model).vocabulary_head
    if head.decoder in plan.readings and f"{head.decoder}.bias" in weights:
        # A decoder of its own, whose bias has two names in some families.
        weights |= dict.fromkeys(head.biases, weights[f"{head.decoder}.bias"])
    return {name: tensor.to(model.dtype).contiguous() for name, tensor in weights.items()}


def _cut_axis(weight: Tensor, axis: int, spaces: Axis, cuts: Mapping[Space, Cut]) -> Tensor:
    """Cut one axis, part by part."""
    if not any(space in cuts for space in spaces):
        return weight
    parts = weight.chunk(len(spaces), dim=axis)
    return torch.cat(
        [apply_cut(cuts[space], part, axis) for space, part in zip(spaces, parts, strict=True)],
        dim=axis,
    )
