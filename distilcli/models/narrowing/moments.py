"""What a model computes on some text: means and second moments of what its projections read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.batches.packing import PackedSequences
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.families import family_of, head_features, is_encoder
from distilcli.models.narrowing.spaces import Axis, Space
from distilcli.models.running import run_encoder, run_model
from distilcli.tasks.inputs import TaskBatch

# How much is looked at: a few hundred sequences, of no more tokens than a CPU runs in a minute.
NUM_SEQUENCES = 300
NUM_TOKENS = 2**15
TOKENS_AT_ONCE = 2048


class Moments:
    """Mean and second moment of vectors, in 64 bits."""

    def __init__(self, size: int) -> None:
        self._count = 0
        self._sum = torch.zeros(size, dtype=torch.float64)
        self._products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, vectors: Tensor) -> None:
        """Take in some more vectors: [..., size]."""
        rows = vectors.detach().reshape(-1, vectors.shape[-1])
        self._count += len(rows)
        self._sum += rows.sum(dim=0)
        self._products += rows.T @ rows

    @property
    def mean(self) -> Float[Tensor, " size"]:
        """Of all vectors."""
        return self._sum / self._count

    def second(self, *, centred: bool) -> Float[Tensor, "size size"]:
        """Mean product of any two of their numbers, or their covariance."""
        second = self._products / self._count
        return second - torch.outer(self.mean, self.mean) if centred else second


@dataclass
class Observed:
    """Of one model on some text.

    Attributes:
        inputs: moments of what a projection reads, by its name in the model.
        outputs: moments of queries and keys.
    """

    inputs: dict[str, Moments] = field(default_factory=dict)
    outputs: dict[Space, Moments] = field(default_factory=dict)
    _latest: tuple[Tensor, Moments] | None = None

    def read(self, name: str, given: Tensor) -> None:
        """Note what a projection reads; several that read the same tensor share its moments."""
        if self._latest is not None and self._latest[0] is given:
            self.inputs[name] = self._latest[1]
            return
        moments = self.inputs.setdefault(name, Moments(given.shape[-1]))
        moments.add(given)
        self._latest = given, moments

    def wrote(self, axis: Axis, result: Tensor) -> None:
        """Note the queries and keys among what a projection writes."""
        for space, part in zip(axis, result.chunk(len(axis), dim=-1), strict=True):
            if space.kind in ("query", "key"):
                self.outputs.setdefault(space, Moments(part.shape[-1])).add(part)


@torch.no_grad()
def observe(
    model: PreTrainedModel,
    axes: Mapping[str, Sequence[Axis]],
    batches: Sequence[PackedSequences],
) -> Observed:
    """Run a model over some text and look at what its projections read.

    Args:
        model: in eval mode; it is switched to packed attention.
        axes: of its weights, from `axes_of`.
        batches: inputs of its task, if it has a head for one, else text.
    """
    observed = Observed()
    decoder = family_of(model).vocabulary_head.decoder
    use_packed_attention(model)
    with _watched(model, axes, observed):
        for batch in batches:
            if isinstance(batch, TaskBatch) and not is_encoder(model):
                run_model(model, batch)
                continue
            hidden = run_encoder(model, batch, Packing.of(batch))
            if is_encoder(model):
                continue
            features = head_features(model, hidden)
            # The decoder is not run: its logits would cost more than all the rest.
            if axes[f"{decoder}.weight"][1]:
                observed.read(decoder, features)
    return observed


@contextmanager
def _watched(
    model: PreTrainedModel, axes: Mapping[str, Sequence[Axis]], observed: Observed
) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        writes, reads = axes[f"{name}.weight"]

        def before(_: Any, given: tuple[Tensor, ...], name: str = name) -> None:
            observed.read(name, given[0])

        def after(_: Any, given: Any, result: Tensor, writes: Axis = writes) -> None:
            observed.wrote(writes, result)

        if reads:
            handles.append(module.register_forward_pre_hook(before))
        if any(space.kind in ("query", "key") for space in writes):
            handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
