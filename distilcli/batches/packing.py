"""Sequences laid end to end in one row, without padding: what every kind of micro-batch is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

_Batch = TypeVar("_Batch", bound="PackedSequences")


@dataclass(frozen=True)
class PackedSequences:
    """Sequences end to end in one row, without padding.

    Attributes:
        input_ids: of all sequences end to end.
        position_ids: position of each token in its own sequence.
        boundaries: first token of each sequence, then the number of tokens; int32.
        lengths: tokens of each sequence, in row order.
        sample_ids: index of each sequence in its split, in row order.
        is_placeholder: whether it stands in for a micro-batch without sequences. It runs through
            the model as any other, but counts for nothing.
    """

    input_ids: Int[Tensor, "1 tokens"]
    position_ids: Int[Tensor, "1 tokens"]
    boundaries: Int[Tensor, " sequences_plus_1"]
    lengths: tuple[int, ...]
    sample_ids: tuple[int, ...]
    is_placeholder: bool = field(default=False, kw_only=True)

    @property
    def num_tokens(self) -> int:
        """Tokens in the row."""
        return self.input_ids.shape[1]

    def to(self: _Batch, device: torch.device) -> _Batch:
        """The same batch on another device."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self: _Batch) -> _Batch:
        """The same batch in memory that a GPU can copy from without blocking."""
        return self._changed(Tensor.pin_memory)

    def _changed(self: _Batch, change: Callable[[Tensor], Tensor]) -> _Batch:
        changed: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                changed[name] = change(value)
            elif isinstance(value, PackedSequences):
                changed[name] = value._changed(change)
        return replace(self, **changed)

    def __getstate__(self) -> dict[str, Any]:
        # As NumPy, which travels between processes by value: as tensors, each would hold a file
        # descriptor, and a step of 4,000 sequences has hundreds.
        return {
            name: value.numpy() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(
            {
                name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                for name, value in state.items()
            }
        )


def positions(
    lengths: np.ndarray,
) -> tuple[Int[Tensor, "1 tokens"], Int[Tensor, " sequences_plus_1"]]:
    """Position of each token in its own sequence, and where sequences of `lengths` begin."""
    ends = np.cumsum(lengths)
    position_ids = np.arange(ends[-1], dtype=np.int64) - np.repeat(ends - lengths, lengths)
    boundaries = np.concatenate([[0], ends]).astype(np.int32)
    return torch.from_numpy(position_ids)[None], torch.from_numpy(boundaries)


def by_length(
    samples: np.ndarray, lengths: np.ndarray, tokens_per_micro_batch: int
) -> Iterator[list[int]]:
    """Samples in order of length, in groups of at most so many tokens (or one sample).

    Args:
        samples: their indices.
        lengths: tokens of every sequence that there is, of which `samples` are some.
        tokens_per_micro_batch: bound on the tokens of one group.
    """
    batch: list[int] = []
    tokens = 0
    for sample in samples[np.argsort(lengths[samples], kind="stable")].tolist():
        length = int(lengths[sample])
        if batch and tokens + length > tokens_per_micro_batch:
            yield batch
            batch, tokens = [], 0
        batch.append(sample)
        tokens += length
    if batch:
        yield batch


def spread(lengths: np.ndarray, num_sequences: int, num_tokens: int) -> np.ndarray:
    """Indices of sequences at even distances: at most so many, of about so many tokens at most.

    Args:
        lengths: tokens of every sequence that there is.
        num_sequences: bound on the sequences.
        num_tokens: bound on their tokens, if sequences are of mean length; one may be over it.
    """
    fitting = int(num_tokens // max(1.0, float(lengths.mean()))) if len(lengths) else 0
    chosen = min(num_sequences, len(lengths), max(1, fitting))
    places: np.ndarray = np.arange(chosen) * len(lengths) // max(1, chosen)
    return places
