"""Step plan and packing: which sequences make an optimiser step, and how hardware cuts them.

The batch belongs to the experiment: step s is a fixed set of `global_batch_size` sequences, drawn
from a permutation keyed on (seed, epoch). The partition belongs to the hardware: the set is cut
into world_size x n packed micro-batches, balanced, the same n on every rank. The position in the
data is the step number, so that is all a resume needs.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from distilcli.errors import ConfigError
from distilcli.masking import Masker
from distilcli.store import Split

IGNORE_INDEX = -100
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
    """

    input_ids: Int[Tensor, "1 tokens"]
    position_ids: Int[Tensor, "1 tokens"]
    boundaries: Int[Tensor, " sequences_plus_1"]
    lengths: tuple[int, ...]
    sample_ids: tuple[int, ...]

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
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
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


@dataclass(frozen=True)
class PackedBatch(PackedSequences):
    """One micro-batch of masked-LM training.

    Attributes:
        input_ids: masked input.
        labels: the original id at chosen positions, IGNORE_INDEX elsewhere.
        masked_positions: where labels are, in ascending order.
        soft_positions: where soft targets are compared: masked_positions, then the others that
            take part. With the masked ones first, labels belong to a prefix known without a sync.
    """

    labels: Int[Tensor, " tokens"]
    masked_positions: Int[Tensor, " masked"]
    soft_positions: Int[Tensor, " soft"]

    @property
    def num_masked(self) -> int:
        """Positions with a label."""
        return self.masked_positions.shape[0]

    @property
    def num_soft(self) -> int:
        """Positions that soft targets look at."""
        return self.soft_positions.shape[0]


class StepPlan:
    """Which sequences each optimiser step, rank and micro-batch holds.

    Sequences left over at the end of an epoch (fewer than a global batch) are not drawn in that
    epoch; the permutation changes, so they differ from epoch to epoch.

    Args:
        lengths: tokens of every sequence of the training split.
        global_batch_size: sequences in a step.
        tokens_per_micro_batch: bound on the tokens of one micro-batch.
        seed: of the permutations.

    Raises:
        ConfigError: the split is smaller than one global batch.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        global_batch_size: int,
        tokens_per_micro_batch: int,
        seed: int,
    ) -> None:
        self.lengths = lengths
        self.global_batch_size = global_batch_size
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.seed = seed
        self.steps_per_epoch = len(lengths) // global_batch_size
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"train.global_batch_size {global_batch_size} is more than the "
                f"{len(lengths)} sequences of the training split",
                "Lower train.global_batch_size or add text.",
            )
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that `step`, from 0, belongs to."""
        return step // self.steps_per_epoch

    def samples(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Indices of the sequences of one step, the same on every rank."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._permutation = generator.permutation(len(self.lengths))
            self._epoch = epoch
        first = index * self.global_batch_size
        return self._permutation[first : first + self.global_batch_size]

    def micro_batches(self, step: int, rank: int, world_size: int) -> list[list[int]]:
        """The micro-batches of `rank` in one step, as lists of sequence indices.

        Raises:
            ConfigError: there are fewer sequences than micro-batches to fill.
        """
        samples = self.samples(step)
        bins = balanced_bins(
            samples, self.lengths[samples], self.tokens_per_micro_batch, world_size
        )
        return bins[rank::world_size]


def balanced_bins(
    samples: np.ndarray, lengths: np.ndarray, tokens_per_bin: int, multiple: int
) -> list[list[int]]:
    """Deal sequences into the fewest bins, a multiple of `multiple`, of at most `tokens_per_bin`.

    Longest first, each into the emptiest bin; within a bin sequences stay sorted by length, so
    that equal lengths are neighbours.

    Raises:
        ConfigError: a bin would stay empty.
    """
    order = np.argsort(-lengths, kind="stable")
    longest_first = [(int(samples[i]), int(lengths[i])) for i in order]
    rounds = max(1, math.ceil(int(lengths.sum()) / (tokens_per_bin * multiple)))
    while True:
        num_bins = rounds * multiple
        if num_bins > len(longest_first):
            raise ConfigError(
                f"train.global_batch_size {len(longest_first)} gives fewer sequences than the "
                f"{num_bins} micro-batches of a step",
                "Raise train.global_batch_size or train.tokens_per_micro_batch, "
                "or use fewer processes.",
            )
        heap = [(0, index) for index in range(num_bins)]
        bins: list[list[int]] = [[] for _ in range(num_bins)]
        for sample, length in longest_first:
            tokens, index = heap[0]
            bins[index].append(sample)
            heapq.heapreplace(heap, (tokens + length, index))
        if max(heap)[0] <= tokens_per_bin:
            return bins
        rounds += 1


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


def pack(
    split: Split,
    samples: Sequence[int],
    masker: Masker,
    epoch: int,
    unmasked_share: float = 1.0,
) -> PackedBatch:
    """Read, mask and lay end to end the given sequences of a split.

    Args:
        split: what they are read from.
        samples: their indices.
        masker: hides tokens.
        epoch: of the masks.
        unmasked_share: of the tokens that are not hidden, how many soft targets look at.
    """
    rows = [split.tokens(sample) for sample in samples]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    original = np.concatenate(rows).astype(np.int32)
    sample_ids = np.asarray(samples, dtype=np.int64)
    masked, chosen = masker.mask(original, lengths, sample_ids, epoch)
    position_ids, boundaries = positions(lengths)
    labels = np.where(chosen, original, IGNORE_INDEX).astype(np.int64)
    joining = masker.sample(lengths, sample_ids, epoch, unmasked_share) & ~chosen
    masked_positions = np.flatnonzero(chosen)
    soft_positions = np.concatenate([masked_positions, np.flatnonzero(joining)])
    return PackedBatch(
        input_ids=torch.from_numpy(masked.astype(np.int64))[None],
        position_ids=position_ids,
        labels=torch.from_numpy(labels),
        masked_positions=torch.from_numpy(masked_positions),
        soft_positions=torch.from_numpy(soft_positions),
        boundaries=boundaries,
        lengths=tuple(lengths.tolist()),
        sample_ids=tuple(int(sample) for sample in samples),
    )


def held_out_batches(
    split: Split,
    masker: Masker,
    num_sequences: int,
    tokens_per_micro_batch: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[PackedBatch]:
    """Packed micro-batches of this rank's share of an evenly spaced choice of a split.

    The mask is that of epoch 0, so every pass sees the same one.
    """
    num_chosen = min(num_sequences, len(split))
    samples = (np.arange(num_chosen) * len(split) // num_chosen)[rank::world_size]
    for batch in by_length(samples, split.lengths, tokens_per_micro_batch):
        yield pack(split, batch, masker, epoch=0)
