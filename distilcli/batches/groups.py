"""A step plan whose samples come in groups, which losses look at as a whole.

A group belongs to the experiment, as the batch does: it is some samples that were drawn one after
the other. The hardware deals out whole groups, so no partition changes what is in one.
"""

import numpy as np

from distilcli.batches.plan import Draws, StepPlan, bins_of_rank
from distilcli.errors import ConfigError


class GroupedPlan(StepPlan):
    """Which groups of samples each optimiser step, rank and micro-batch holds.

    Args:
        lengths: tokens of every sample.
        global_batch_size: samples in a step, a multiple of `samples_per_group`.
        tokens_per_micro_batch: bound on the tokens of one micro-batch.
        seed: of the permutations.
        num_epochs: see `StepPlan`.
        samples_per_group: in draw order; only the last group of the last step may be smaller.

    Raises:
        ConfigError: there are fewer samples than a step has, or the longest samples are too many
            tokens for a micro-batch if they come into one group.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        global_batch_size: int,
        tokens_per_micro_batch: int,
        seed: int,
        num_epochs: int | None,
        samples_per_group: int,
    ) -> None:
        super().__init__(lengths, global_batch_size, tokens_per_micro_batch, seed, num_epochs)
        assert global_batch_size % samples_per_group == 0, "the experiment sees to that"
        self.samples_per_group = samples_per_group
        # Any samples may be drawn as a group: whether all fit is known now, not in epoch 3.
        drawable = np.sort(lengths)
        if num_epochs != 1 and len(lengths) % samples_per_group:
            drawable = drawable.repeat(2)  # a group of two epochs may have a sample of each
        largest = int(drawable[-samples_per_group:].sum())
        if largest > tokens_per_micro_batch:
            raise ConfigError(
                f"train.tokens_per_micro_batch {tokens_per_micro_batch} is under the {largest} "
                "tokens of the longest texts that may be drawn as one group",
                f"Raise it to {largest}, or lower task.group_size or task.max_length.",
            )

    @property
    def num_dealt(self) -> int:
        """What a step deals out whole to the processes: its groups."""
        return self.global_batch_size // self.samples_per_group

    def micro_batches(self, step: int, rank: int, world_size: int) -> list[Draws]:
        """The micro-batches of `rank` in one step, of whole groups; see `StepPlan.micro_batches`.

        Within a micro-batch groups keep the order in which they were drawn, so that a smaller one
        is the last.
        """
        draws = self.draws(step)
        starts = np.arange(0, len(draws), self.samples_per_group)
        tokens = np.add.reduceat(self.lengths[draws.samples].astype(np.int64), starts)
        bins = bins_of_rank(tokens, self.tokens_per_micro_batch, rank, world_size)
        return [draws.at(self._places(groups, len(draws))) for groups in bins]

    def _places(self, groups: list[int], num_draws: int) -> list[int]:
        size = self.samples_per_group
        return [
            place
            for group in sorted(groups)
            for place in range(group * size, min(num_draws, (group + 1) * size))
        ]
