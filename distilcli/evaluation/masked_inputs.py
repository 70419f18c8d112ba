"""Masked text as inputs of which outputs are read where a token is hidden, one text at a time."""

import numpy as np

from distilcli.batches.masked import held_out_batches
from distilcli.evaluation.text import Text
from distilcli.tasks.inputs import Inputs, join
from distilcli.text.row import IGNORE_INDEX

_TOKENS_AT_ONCE = 1 << 16


def masked_inputs(text: Text, num_sequences: int) -> Inputs:
    """Sequences of a text under its fixed mask, with the hidden tokens as targets.

    Args:
        text: the text.
        num_sequences: how many of its sequences, at even distances.
    """
    ids: list[list[int]] = []
    labels: list[np.ndarray] = []
    for batch in held_out_batches(text.split, text.masker, num_sequences, _TOKENS_AT_ONCE):
        lengths = list(batch.lengths)
        ids += [row.tolist() for row in batch.input_ids[0].split(lengths)]
        labels += [row.numpy() for row in batch.labels.split(lengths)]
    places = [np.flatnonzero(row != IGNORE_INDEX).tolist() for row in labels]
    types = [[0] * len(row) for row in ids]
    targets = np.concatenate(labels)
    return join(ids, types, places, targets[targets != IGNORE_INDEX])
