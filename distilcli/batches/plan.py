"""The step plan: which sequences make an optimiser step, and how hardware cuts them.

The batch belongs to the experiment: step s is a fixed set of `global_batch_size` sequences, drawn
from permutations keyed on (seed, epoch), one after the other. The partition belongs to the
hardware: the set is cut into world_size x n packed micro-batches, balanced, the same n on every
rank. The position in the data is the step number, so that is all a resume needs.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from distilcli.errors import ConfigError

STEP_PLAN = 2  # the rule by which steps draw samples; 1 left out what filled no batch in an epoch


@dataclass(frozen=True)
class Draws:
    """Samples as they are drawn to train on.

    Attributes:
        samples: index of each in its split.
        epochs: the epoch that each is drawn in, from 0. Where a step ends one epoch and begins the
            next, it may hold a sample of both, and so the same sample twice.
    """

    samples: Int64[np.ndarray, " draws"]
    epochs: Int64[np.ndarray, " draws"]

    def __len__(self) -> int:
        return len(self.samples)

    def at(self, places: Sequence[int]) -> "Draws":
        """Those at some places, in this order."""
        chosen = np.asarray(places, dtype=np.int64)
        return Draws(self.samples[chosen], self.epochs[chosen])


class StepPlan:
    """Which sequences each optimiser step, rank and micro-batch holds.

    Epochs follow one another without a gap: what is left over at the end of one (fewer than a
    global batch) opens the first batch of the next. So every batch is of the same size, and every
    sequence is drawn once in an epoch. Where `num_epochs` ends the run, its last step holds what
    is left, which may be fewer.

    Args:
        lengths: tokens of every sequence of the training split.
        global_batch_size: sequences in a step.
        tokens_per_micro_batch: bound on the tokens of one micro-batch.
        seed: of the permutations.
        num_epochs: after how many the last step comes; None: there is no end.

    Raises:
        ConfigError: the split is smaller than one global batch.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        global_batch_size: int,
        tokens_per_micro_batch: int,
        seed: int,
        num_epochs: int | None = None,
    ) -> None:
        self.lengths = lengths
        self.global_batch_size = global_batch_size
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.seed = seed
        self.num_draws = None if num_epochs is None else num_epochs * len(lengths)
        if len(lengths) < global_batch_size:
            raise ConfigError(
                f"train.global_batch_size {global_batch_size} is more than the "
                f"{len(lengths)} sequences of the training split",
                "Lower train.global_batch_size or add text.",
            )
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    @property
    def steps_per_epoch(self) -> float:
        """Steps that one pass over the training split takes, on average."""
        return len(self.lengths) / self.global_batch_size

    @property
    def num_steps(self) -> int | None:
        """Steps of all epochs, the last one perhaps a smaller one; None where there is no end."""
        return None if self.num_draws is None else -(-self.num_draws // self.global_batch_size)

    def steps_to_reach(self, num_tokens: int) -> int:
        """The fewest steps that draw so many tokens, in whatever epoch these are reached."""
        epochs, left = divmod(num_tokens, int(self.lengths.sum()))
        draws = epochs * len(self.lengths)
        if left:
            draws += 1 + int(np.searchsorted(np.cumsum(self.lengths[self._order(epochs)]), left))
        return -(-draws // self.global_batch_size)

    def is_that_of(self, rule: int, num_steps: int) -> bool:
        """Whether an earlier `STEP_PLAN` draws the same samples in these steps."""
        num_samples, batch = len(self.lengths), self.global_batch_size
        return rule == STEP_PLAN or num_samples % batch == 0 or num_steps * batch <= num_samples

    def describe(self, num_steps: int) -> str:
        """What a run of so many steps draws: `20 of 16 samples, the last of 12 (2 epochs)`."""
        last = len(self.draws(num_steps - 1))
        drawn = (num_steps - 1) * self.global_batch_size + last
        words = f"{num_steps:,} of {self.global_batch_size:,} samples"
        if last < self.global_batch_size:
            words += f", the last of {last:,}"
        epochs = f"{drawn / len(self.lengths):.4g}"
        return f"{words} ({epochs} epoch{'' if epochs == '1' else 's'})"

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that `step`, from 0, begins in."""
        return step * self.global_batch_size // len(self.lengths)

    def samples(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Indices of the sequences of one step, the same on every rank."""
        return self.draws(step).samples

    def draws(self, step: int) -> Draws:
        """The sequences of one step with their epochs, the same on every rank."""
        first = step * self.global_batch_size
        end = first + self.global_batch_size
        if self.num_draws is not None:
            end = min(end, self.num_draws)
        samples, epochs = [], []
        while first < end:
            epoch, index = divmod(first, len(self.lengths))
            part = self._order(epoch)[index : index + end - first]
            samples.append(part)
            epochs.append(np.full(len(part), epoch, dtype=np.int64))
            first += len(part)
        return Draws(np.concatenate(samples), np.concatenate(epochs))

    def _order(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        """All samples in the order of this epoch; the last one asked for is kept."""
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._permutation = generator.permutation(len(self.lengths))
            self._epoch = epoch
        return self._permutation

    @property
    def num_dealt(self) -> int:
        """What a step deals out whole to the processes: its sequences."""
        return self.global_batch_size

    def micro_batches(self, step: int, rank: int, world_size: int) -> list[Draws]:
        """The micro-batches of `rank` in one step, as many as every other rank has.

        Some are empty where there are fewer sequences than micro-batches: among more processes
        than a step has sequences, in a last, smaller step, or where long sequences need more
        micro-batches than usual.
        """
        draws = self.draws(step)
        lengths = self.lengths[draws.samples]
        bins = bins_of_rank(lengths, self.tokens_per_micro_batch, rank, world_size)
        return [draws.at(places) for places in bins]


def bins_of_rank(
    lengths: np.ndarray, tokens_per_bin: int, rank: int, world_size: int
) -> list[list[int]]:
    """Places in `lengths` of each micro-batch of a rank, as many as every other rank has.

    Every rank has as many tokens as the others and sequences of all lengths, and each of its
    micro-batches those of similar length.

    Raises:
        ConfigError: one sequence alone is over the bound.
    """
    bins = balanced_bins(lengths, tokens_per_bin, world_size)[rank::world_size]
    return of_similar_lengths(bins, lengths, tokens_per_bin)


def balanced_bins(lengths: np.ndarray, tokens_per_bin: int, multiple: int) -> list[list[int]]:
    """Deal sequences into the fewest bins, a multiple of `multiple`, of at most `tokens_per_bin`.

    Longest first, each into the emptiest bin; within a bin sequences stay sorted by length, so
    that equal lengths are neighbours. Where there are fewer sequences than bins, some stay empty.

    Args:
        lengths: tokens of each sequence.
        tokens_per_bin: bound on the tokens in one bin.
        multiple: of which the number of bins is one.

    Returns:
        Of each bin, places in `lengths`.

    Raises:
        ConfigError: one sequence alone is over the bound.
    """
    longest = int(lengths.max())
    if longest > tokens_per_bin:
        raise ConfigError(
            f"train.tokens_per_micro_batch {tokens_per_bin}: a sequence has {longest} tokens",
            f"Set train.tokens_per_micro_batch to {longest} or more.",
        )
    longest_first = [(int(i), int(lengths[i])) for i in np.argsort(-lengths, kind="stable")]
    rounds = max(1, math.ceil(int(lengths.sum()) / (tokens_per_bin * multiple)))
    while True:
        num_bins = rounds * multiple
        heap = [(0, index) for index in range(num_bins)]
        bins: list[list[int]] = [[] for _ in range(num_bins)]
        for place, length in longest_first:
            tokens, index = heap[0]
            bins[index].append(place)
            heapq.heapreplace(heap, (tokens + length, index))
        if max(heap)[0] <= tokens_per_bin:
            return bins
        rounds += 1


def of_similar_lengths(
    bins: list[list[int]], lengths: np.ndarray, tokens_per_bin: int
) -> list[list[int]]:
    """What some bins hold, dealt to as many that each hold sequences of similar length.

    On a CPU, attention computes sequences of similar length together, and what runs on padded
    batches has less to pad. The bins differ in their tokens by less than the longest sequence. The
    old ones stay where a new one would be empty or over the bound.

    Args:
        bins: of one process; places in `lengths`.
        lengths: tokens of each sequence.
        tokens_per_bin: bound on the tokens in one bin.
    """
    places = np.array([place for one in bins for place in one], dtype=np.int64)
    places = places[np.lexsort((places, -lengths[places]))]
    ends = np.cumsum(lengths[places])
    # Cut where the tokens so far come nearest to an equal share.
    middles = ends - lengths[places] / 2
    shares = int(lengths[places].sum()) / len(bins) * np.arange(1, len(bins))
    dealt = np.split(places, np.searchsorted(middles, shares))
    sums = [int(lengths[one].sum()) for one in dealt]
    if min(sums) == 0 or max(sums) > tokens_per_bin:
        return bins
    return [one.tolist() for one in dealt]
