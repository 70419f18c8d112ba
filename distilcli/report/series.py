"""What metrics.jsonl says, as series over steps and as sums."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

HELD_OUT, LOSS = "held_out/", "loss/"
TOTAL = "loss/total"
# Names of loss terms in the settings where their keys in the records are others, which came first.
# A test holds them to the table of losses.
OTHER_NAMES = {
    "loss/kl": "soft_targets",
    "loss/mlm": "masked_lm",
    "loss/cos": "hidden_cosine",
    "loss/mse": "logit_mse",
    "loss/hard": "labels",
}
OF_EMBEDDINGS = {"loss/cos": "cosine", "loss/mse": "mse"}


@dataclass(frozen=True)
class Series:
    """One quantity over the steps at which it is known.

    Attributes:
        steps: rising.
        values: as many.
    """

    steps: Sequence[int]
    values: Sequence[float]

    def __len__(self) -> int:
        return len(self.steps)

    def smooth(self) -> "Series":
        """The mean of a twentieth of the steps around each step, or of as many as there are."""
        reach = max(1, len(self) // 40)
        sums = [0.0, *itertools.accumulate(self.values)]
        means = []
        for place in range(len(self)):
            first, end = max(0, place - reach), min(len(self), place + reach + 1)
            means.append((sums[end] - sums[first]) / (end - first))
        return Series(self.steps, means)

    def thinned(self, most: int) -> "Series":
        """Every n-th value, the last one included, so that `most` are left."""
        stride = -(-len(self) // most) if len(self) > most else 1
        kept = sorted({*range(0, len(self), stride), len(self) - 1}) if len(self) else []
        return Series([self.steps[i] for i in kept], [self.values[i] for i in kept])


def series_of(records: Sequence[dict[str, Any]], key: str) -> Series:
    """One key of the records, where it is there and finite."""
    found = [
        (record["step"], float(record[key]))
        for record in records
        if isinstance(record.get(key), int | float) and isfinite(record[key])
    ]
    return Series([step for step, _ in found], [value for _, value in found])


def keys_of(records: Sequence[dict[str, Any]], opening: str) -> list[str]:
    """The keys of the records that begin with `opening`, in the order in which they come."""
    names = dict.fromkeys(key for record in records for key in record)
    return [key for key in names if key.startswith(opening)]


def terms_of(records: Sequence[dict[str, Any]], task: str | None) -> dict[str, str]:
    """The loss terms that a run recorded: keys of the records, and names in the settings."""
    names = OTHER_NAMES | (OF_EMBEDDINGS if task == "embedding" else {})
    return {key: names.get(key, key.removeprefix(LOSS)) for key in _recorded(records)}


def _recorded(records: Sequence[dict[str, Any]]) -> list[str]:
    return [key for key in keys_of(records, LOSS) if key != TOTAL]


@dataclass(frozen=True)
class Length:
    """What a run trained for, as far as its records go.

    Attributes:
        steps: optimiser steps.
        tokens: that it read.
        seconds: of training, validation and checkpoints included, starts not.
        epoch: the last one that was begun, from 1.
    """

    steps: int
    tokens: int
    seconds: float
    epoch: int


def length_of(records: Sequence[dict[str, Any]]) -> Length:
    """How long the steps of these records took.

    All records between two looks at the clock have the same speed.
    """
    tokens, seconds, epoch = 0, 0.0, 0
    for record in records:
        count, speed = record.get("speed/tokens"), record.get("speed/tokens_per_second")
        if isinstance(count, int | float) and isinstance(speed, int | float) and speed > 0:
            tokens += int(count)
            seconds += count / speed
        epoch = max(epoch, int(record.get("epoch", 0)))
    return Length(len(records), tokens, seconds, epoch + 1 if records else 0)


def tokens_at(records: Sequence[dict[str, Any]]) -> dict[int, int]:
    """Tokens read up to each step."""
    counts = [int(record.get("speed/tokens", 0)) for record in records]
    steps = [record["step"] for record in records]
    return dict(zip(steps, itertools.accumulate(counts), strict=True))
