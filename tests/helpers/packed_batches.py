"""Splits of random sequences, and packed batches undone into padded ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from distilcli.batches.masked import PackedBatch
from distilcli.batches.masking import Masker
from distilcli.config.data import MaskingConfig
from distilcli.corpus.store import Split

NUM_SPECIAL = 5
PAD, UNK, CLS, SEP, MASK = range(NUM_SPECIAL)


def split_of(rows: Sequence[Sequence[int]]) -> Split:
    """A split in memory, in two parts as if of two shards."""
    middle = len(rows) // 2
    parts = []
    for part in (rows[:middle], rows[middle:]):
        values = np.concatenate([np.array(row, np.int32) for row in part] or [np.zeros(0, "i4")])
        parts.append((values, np.cumsum([0, *map(len, part)])))
    return Split(parts)


def random_split(
    lengths: Sequence[int], tokenizer: PreTrainedTokenizerFast, seed: int = 0
) -> Split:
    """[CLS], ordinary tokens, [SEP], with these lengths."""
    draw = np.random.default_rng(seed)
    return split_of(
        [
            [CLS, *draw.integers(NUM_SPECIAL, len(tokenizer), length - 2).tolist(), SEP]
            for length in lengths
        ]
    )


def make_masker(
    tokenizer: PreTrainedTokenizerFast,
    seed: int = 0,
    counts: np.ndarray | None = None,
    vocab_size: int | None = None,
    **config: float,
) -> Masker:
    vocab_size = vocab_size or len(tokenizer)
    counts = np.ones(vocab_size, np.int64) if counts is None else counts
    return Masker(MaskingConfig(**config), tokenizer, vocab_size, counts, seed)


class Padded(NamedTuple):
    """A batch in the ordinary form: `real`, bool, is the attention mask."""

    input_ids: Tensor
    real: Tensor


def padded(batch: PackedBatch) -> Padded:
    """The sequences of a packed batch, one a row, padded on the right."""
    rows = batch.input_ids[0].split(list(batch.lengths))
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    lengths = torch.tensor(batch.lengths)
    return Padded(input_ids, torch.arange(input_ids.shape[1]) < lengths[:, None])
