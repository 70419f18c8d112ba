"""Micro-batches of masked-LM training: sequences of a token store, masked and packed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from distilcli.batches.masking import Masker
from distilcli.batches.packing import PackedSequences, by_length, positions
from distilcli.corpus.store import Split
from distilcli.text.row import IGNORE_INDEX


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


def pack_masked(
    split: Split,
    samples: Sequence[int],
    masker: Masker,
    epoch: int | Int64[np.ndarray, " samples"],
    unmasked_share: float = 1.0,
) -> PackedBatch:
    """Read, mask and lay end to end the given sequences of a split.

    Args:
        split: what they are read from.
        samples: their indices.
        masker: hides tokens.
        epoch: of the masks, one for all or one for each sample.
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
        yield pack_masked(split, batch, masker, epoch=0)
