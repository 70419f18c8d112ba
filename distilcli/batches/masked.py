"""Micro-batches of masked-LM training: sequences of a token store, masked and packed.

Student and teacher mostly read the same tokens. Where the student has a part of its teacher's
vocabulary, each reads its own tokens of the same text, and they are compared where these agree.
"""

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
class TeacherRow(PackedSequences):
    """What the teacher reads of a micro-batch whose student has another vocabulary.

    Attributes:
        input_ids: of the teacher's vocabulary, masked where the student's tokens are.
        soft_positions: where the tokens at the batch's `soft_positions` stand in this row.
        student_pairs: the student's positions whose token is one of the teacher's, too, at the same
            spot of the text.
        pairs: where these tokens stand in this row.
        pair_lengths: how many of these tokens each sequence has.
    """

    soft_positions: Int[Tensor, " soft"]
    student_pairs: Int[Tensor, " pairs"]
    pairs: Int[Tensor, " pairs"]
    pair_lengths: tuple[int, ...]


@dataclass(frozen=True)
class PackedBatch(PackedSequences):
    """One micro-batch of masked-LM training.

    Attributes:
        input_ids: masked input.
        labels: the original id at chosen positions, IGNORE_INDEX elsewhere.
        masked_positions: where labels are, in ascending order.
        soft_positions: where soft targets are compared: those with a label, in the order of
            masked_positions, then the others that take part. With the masked ones first, labels
            belong to a prefix known without a sync.
        lone_positions: masked positions that are not compared, since the teacher has no such token.
        teacher_row: what the teacher reads; None: the same as the student.
    """

    labels: Int[Tensor, " tokens"]
    masked_positions: Int[Tensor, " masked"]
    soft_positions: Int[Tensor, " soft"]
    lone_positions: Int[Tensor, " lone"]
    teacher_row: TeacherRow | None = None

    @property
    def num_masked(self) -> int:
        """Positions with a label."""
        return self.masked_positions.shape[0]

    @property
    def num_soft(self) -> int:
        """Positions that soft targets look at."""
        return self.soft_positions.shape[0]

    @property
    def num_soft_masked(self) -> int:
        """Of the positions that soft targets look at, those with a label, which come first."""
        return self.num_masked - self.lone_positions.shape[0]

    @property
    def num_compared(self) -> int:
        """Tokens whose hidden states can be compared with the teacher's."""
        row = self.teacher_row
        return self.num_tokens if row is None else row.pairs.shape[0]


def pack_masked(
    split: Split,
    samples: Sequence[int],
    masker: Masker,
    epoch: int | Int64[np.ndarray, " samples"],
    unmasked_share: float = 1.0,
    teacher_ids: Int64[np.ndarray, " vocab"] | None = None,
) -> PackedBatch:
    """Read, mask and lay end to end the given sequences of a split.

    Args:
        split: what they are read from.
        samples: their indices.
        masker: hides tokens.
        epoch: of the masks, one for all or one for each sample.
        unmasked_share: of the tokens that are not hidden, how many soft targets look at.
        teacher_ids: the teacher's id of each of the student's; the split then holds the teacher's
            tokens, too. None: both have the same ids.
    """
    rows = [split.tokens(sample) for sample in samples]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    original = np.concatenate(rows).astype(np.int32)
    sample_ids = np.asarray(samples, dtype=np.int64)
    masked, chosen = masker.mask(original, lengths, sample_ids, epoch)
    position_ids, boundaries = positions(lengths)
    labels = np.where(chosen, original, IGNORE_INDEX).astype(np.int64)
    joining = masker.sample(lengths, sample_ids, epoch, unmasked_share) & ~chosen
    pairing = None
    comparable = np.ones(len(original), dtype=bool)
    if teacher_ids is not None:
        pairing = _Pairing(split, samples, lengths)
        comparable = pairing.is_pair
    soft_positions = np.concatenate(
        [np.flatnonzero(chosen & comparable), np.flatnonzero(joining & comparable)]
    )
    teacher_row = None
    if pairing is not None and teacher_ids is not None:
        replaced_by = np.where(masked != original, teacher_ids[masked], -1)
        mask_id = int(teacher_ids[masker.mask_id])
        teacher_row = pairing.row(replaced_by, mask_id, soft_positions, sample_ids)
    return PackedBatch(
        input_ids=torch.from_numpy(masked.astype(np.int64))[None],
        position_ids=position_ids,
        labels=torch.from_numpy(labels),
        masked_positions=torch.from_numpy(np.flatnonzero(chosen)),
        soft_positions=torch.from_numpy(soft_positions),
        lone_positions=torch.from_numpy(np.flatnonzero(chosen & ~comparable)),
        teacher_row=teacher_row,
        boundaries=boundaries,
        lengths=tuple(lengths.tolist()),
        sample_ids=tuple(int(sample) for sample in samples),
    )


class _Pairing:
    """The teacher's tokens of the samples of a micro-batch, and where the student's stand in them.

    Args:
        split: of a store with the tokens of both.
        samples: indices of its sequences.
        lengths: tokens of each, of the student.

    Attributes:
        is_pair: for each of the student's tokens, whether it is one of the teacher's, too, at the
            same spot of the text.
    """

    def __init__(
        self, split: Split, samples: Sequence[int], lengths: Int64[np.ndarray, " samples"]
    ) -> None:
        rows = [split.teacher(sample) for sample in samples]
        self._ids = np.concatenate([ids for ids, _ in rows]).astype(np.int64)
        self._lengths = np.array([len(ids) for ids, _ in rows], dtype=np.int64)
        self._ends = np.cumsum(lengths)
        starts = np.repeat(np.cumsum(self._lengths) - self._lengths, lengths)
        places = np.concatenate([places for _, places in rows]).astype(np.int64)
        self.is_pair = places >= 0
        within = np.where(self.is_pair, places, -places - 1)
        self._position = starts + within
        # A token that begins in none of the teacher's has the place of the row's first token.
        self._covers = self.is_pair | (within > 0)

    def row(
        self,
        replaced_by: Int64[np.ndarray, " tokens"],
        mask_id: int,
        soft_positions: Int64[np.ndarray, " soft"],
        sample_ids: Int64[np.ndarray, " samples"],
    ) -> TeacherRow:
        """What the teacher reads.

        A token of both has the same thing in its place. Of a token that the student reads in
        parts, the teacher reads [MASK] as soon as one of the parts is replaced.

        Args:
            replaced_by: the teacher's id of what stands in the place of the student's tokens; -1
                where they are as they were.
            mask_id: of the teacher's [MASK].
            soft_positions: the student's positions that are compared.
            sample_ids: of the sequences.
        """
        ids = self._ids.copy()
        parts = (replaced_by >= 0) & ~self.is_pair & self._covers
        ids[self._position[parts]] = mask_id
        whole = (replaced_by >= 0) & self.is_pair
        ids[self._position[whole]] = replaced_by[whole]
        position_ids, boundaries = positions(self._lengths)
        pairs = np.flatnonzero(self.is_pair)
        pairs_before = np.searchsorted(pairs, self._ends)
        return TeacherRow(
            input_ids=torch.from_numpy(ids)[None],
            position_ids=position_ids,
            boundaries=boundaries,
            lengths=tuple(self._lengths.tolist()),
            sample_ids=tuple(sample_ids.tolist()),
            soft_positions=torch.from_numpy(self._position[soft_positions]),
            student_pairs=torch.from_numpy(pairs),
            pairs=torch.from_numpy(self._position[pairs]),
            pair_lengths=tuple(np.diff(pairs_before, prepend=0).tolist()),
        )


def held_out_batches(
    split: Split,
    masker: Masker,
    num_sequences: int,
    tokens_per_micro_batch: int,
    rank: int = 0,
    world_size: int = 1,
    teacher_ids: Int64[np.ndarray, " vocab"] | None = None,
) -> Iterator[PackedBatch]:
    """Packed micro-batches of this rank's share of an evenly spaced choice of a split.

    The mask is that of epoch 0, so every pass sees the same one.
    """
    num_chosen = min(num_sequences, len(split))
    samples = (np.arange(num_chosen) * len(split) // num_chosen)[rank::world_size]
    for batch in by_length(samples, split.lengths, tokens_per_micro_batch):
        yield pack_masked(split, batch, masker, epoch=0, teacher_ids=teacher_ids)
