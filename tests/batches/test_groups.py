"""Groups of samples: no partition cuts one, or changes which samples are in it."""

import numpy as np
import pytest

from distilcli.batches.groups import GroupedPlan
from distilcli.batches.plan import StepPlan
from distilcli.errors import ConfigError

LENGTHS = np.random.Generator(np.random.Philox(7)).integers(3, 12, 101).astype(np.int32)
BATCH, GROUP, BOUND = 24, 4, 60


def plan(bound: int = BOUND, epochs: int | None = None, group: int = GROUP) -> GroupedPlan:
    return GroupedPlan(LENGTHS, BATCH, bound, 5, epochs, group)


def groups_of(step: int, made: GroupedPlan, world_size: int) -> list[list[int]]:
    """The samples of each group, of all ranks and micro-batches."""
    found = []
    for rank in range(world_size):
        for part in made.micro_batches(step, rank, world_size):
            samples = part.samples.tolist()
            found += [samples[start : start + GROUP] for start in range(0, len(samples), GROUP)]
    return sorted(found)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("bound", [48, 120, 10_000])
def test_every_partition_has_the_same_groups(world_size, bound):
    """They are what is drawn, cut in order, in each step of an epoch and into the next one."""
    for step in range(6):
        drawn = plan().samples(step).tolist()
        expected = sorted(drawn[start : start + GROUP] for start in range(0, BATCH, GROUP))
        made = plan(bound)
        assert groups_of(step, made, world_size) == expected
        parts = [made.micro_batches(step, rank, world_size) for rank in range(world_size)]
        assert len({len(part) for part in parts}) == 1
        tokens = [int(LENGTHS[one.samples].sum()) for part in parts for one in part if len(one)]
        assert max(tokens) <= bound


def test_the_last_step_has_a_smaller_group_at_the_end_of_its_micro_batch():
    """101 samples are four batches of 24 and 5 more: a group of 4, and one of 1."""
    made = plan(epochs=1)
    last = made.num_steps - 1
    for bound in (48, 10_000):
        parts = plan(bound, epochs=1).micro_batches(last, 0, 1)
        assert sorted(len(part) for part in parts) in ([1, 4], [5])
        drawn = made.samples(last).tolist()
        assert [one for part in parts for one in part.samples.tolist()][-1:] in (
            [drawn[-1]],
            [drawn[3]],
        )
        assert any(part.samples.tolist()[-1] == drawn[-1] for part in parts)


def test_groups_of_one_are_the_plan_without_groups():
    without = StepPlan(LENGTHS, BATCH, BOUND, 5)
    for step in range(3):
        ours, theirs = (
            sorted(sorted(part.samples.tolist()) for part in one.micro_batches(step, 0, 1))
            for one in (plan(group=1), without)
        )
        assert ours == theirs


def test_a_group_that_may_be_too_long_is_refused_at_the_start():
    longest = int(np.sort(LENGTHS)[-GROUP:].sum())
    plan(longest, epochs=1)
    with pytest.raises(ConfigError, match=f"under the {longest} tokens") as caught:
        plan(longest - 1, epochs=1)
    assert f"Raise it to {longest}" in caught.value.hint


def test_a_group_of_two_epochs_may_have_the_longest_sample_twice():
    """It fits into a micro-batch wherever such a group is drawn."""
    lengths = np.array([40, 1, 1, 1, 1], dtype=np.int32)
    with pytest.raises(ConfigError, match="under the 80 tokens"):
        GroupedPlan(lengths, 2, 79, 0, None, 2)
    made = GroupedPlan(lengths, 2, 80, 0, None, 2)
    drawn = [lengths[made.samples(step)].sum() for step in range(200)]
    assert max(drawn) == 80
    assert all(made.micro_batches(step, 0, 1) for step in range(200))
    GroupedPlan(lengths, 2, 41, 0, 1, 2)  # of one epoch
    GroupedPlan(lengths[:4], 2, 41, 0, None, 2)  # epochs of whole groups


def test_among_more_processes_than_groups_some_have_none():
    parts = [plan().micro_batches(0, rank, 8) for rank in range(8)]
    assert [bool(len(part)) for [part] in parts] == [True] * 6 + [False] * 2
    assert plan().num_dealt == 6
