"""The step plan, its partition over ranks, and packing."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed_batches import CLS, SEP, make_masker, random_split

from distilcli.batches import (
    IGNORE_INDEX,
    PackedBatch,
    StepPlan,
    balanced_bins,
    held_out_batches,
    pack,
)
from distilcli.errors import ConfigError

NUM_SEQUENCES, BATCH, BOUND = 203, 24, 150
WORLD_SIZES = [1, 2, 3, 8]


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 65, NUM_SEQUENCES).astype(np.int32)


@pytest.fixture
def plan(lengths) -> StepPlan:
    return StepPlan(lengths, BATCH, BOUND, seed=5)


# Which sequences make a step


def test_an_epoch_holds_every_sequence_once_but_the_remainder(plan):
    assert plan.steps_per_epoch == NUM_SEQUENCES // BATCH == 8
    left_over = []
    for epoch in range(3):
        steps = range(epoch * 8, (epoch + 1) * 8)
        assert {plan.epoch(step) for step in steps} == {epoch}
        drawn = np.concatenate([plan.samples(step) for step in steps])
        assert len(drawn) == len(set(drawn.tolist())) == 8 * BATCH
        assert set(drawn.tolist()) <= set(range(NUM_SEQUENCES))
        left_over.append(frozenset(range(NUM_SEQUENCES)) - set(drawn.tolist()))
    assert len(set(left_over)) == 3


def test_epochs_and_seeds_differ(plan, lengths):
    first, again = plan.samples(0).tolist(), plan.samples(8).tolist()
    other = StepPlan(lengths, BATCH, BOUND, seed=6).samples(0).tolist()
    assert len({tuple(first), tuple(again), tuple(other)}) == 3


def test_a_step_does_not_depend_on_the_steps_before(plan, lengths):
    walked = [plan.samples(step).tolist() for step in range(20)]
    for step in (19, 3, 11):
        resumed = StepPlan(lengths, BATCH, BOUND, seed=5)
        assert resumed.samples(step).tolist() == walked[step]


def test_a_step_does_not_depend_on_the_hardware(lengths):
    first = StepPlan(lengths, BATCH, BOUND, seed=5).samples(4)
    assert StepPlan(lengths, BATCH, 10 * BOUND, seed=5).samples(4).tolist() == first.tolist()


def test_the_permutation_is_the_same_for_ever():
    """A resumed run goes on in the order of the run it continues."""
    plan = StepPlan(np.full(20, 8), 5, 100, seed=42)
    assert [plan.samples(step).tolist() for step in (0, 4)] == [
        [17, 13, 1, 5, 2],
        [9, 4, 12, 1, 11],
    ]


def test_more_than_the_split_in_a_batch_is_refused(lengths):
    assert StepPlan(lengths, NUM_SEQUENCES, BOUND, seed=0).steps_per_epoch == 1
    with pytest.raises(ConfigError, match="204 is more than the 203 sequences") as caught:
        StepPlan(lengths, NUM_SEQUENCES + 1, BOUND, seed=0)
    assert "train.global_batch_size" in caught.value.message
    assert caught.value.hint


# How ranks share a step


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_ranks_share_a_step_without_loss_or_double(plan, lengths, world_size):
    for step in (0, 5, 17):
        by_rank = [plan.micro_batches(step, rank, world_size) for rank in range(world_size)]
        assert len({len(micro_batches) for micro_batches in by_rank}) == 1
        flat = [micro_batch for micro_batches in by_rank for micro_batch in micro_batches]
        dealt = [sample for micro_batch in flat for sample in micro_batch]
        assert sorted(dealt) == sorted(plan.samples(step).tolist())
        assert all(0 < lengths[micro_batch].sum() <= BOUND for micro_batch in flat)


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=40),
    st.integers(64, 100),
    st.sampled_from(WORLD_SIZES),
)
def test_bins_are_full_sorted_and_balanced(sizes, bound, multiple):
    samples, sizes = np.arange(len(sizes)) * 3, np.array(sizes, np.int32)
    size_of = dict(zip(samples.tolist(), sizes.tolist(), strict=True))
    try:
        bins = balanced_bins(samples, sizes, bound, multiple)
    except ConfigError:
        # Never with bins for twice the tokens: then, longest first, something half empty is left.
        assert len(sizes) < multiple * (np.ceil(2 * sizes.sum() / (bound * multiple)) + 1)
        return
    assert len(bins) % multiple == 0
    assert sorted(sample for one in bins for sample in one) == samples.tolist()
    totals = [sum(size_of[sample] for sample in one) for one in bins]
    assert 0 < min(totals) <= max(totals) <= bound
    # Into the emptiest bin each: two bins differ by one sequence at most.
    assert max(totals) - min(totals) <= sizes.max()
    for one in bins:
        found = [size_of[sample] for sample in one]
        assert found == sorted(found, reverse=True)


def test_bins_are_the_fewest_that_hold_the_tokens():
    samples, sizes = np.arange(12), np.full(12, 10)
    for bound, multiple, expected in ((120, 1, 1), (60, 1, 2), (59, 1, 3), (60, 4, 4), (20, 2, 6)):
        assert len(balanced_bins(samples, sizes, bound, multiple)) == expected


def test_bins_are_added_where_sequences_pair_badly():
    """120 tokens would fit into two bins of 64, but no two sequences of 40 fit into one."""
    assert balanced_bins(np.arange(3), np.full(3, 40), 64, 1) == [[0], [1], [2]]
    found = balanced_bins(np.arange(6), np.full(6, 40), 64, 2)
    assert found == [[0], [1], [2], [3], [4], [5]]


def test_fewer_sequences_than_processes_are_refused():
    with pytest.raises(ConfigError, match="fewer sequences than the 8 micro-batches") as caught:
        balanced_bins(np.arange(7), np.full(7, 10), 100, 8)
    assert "train.global_batch_size 7" in caught.value.message
    assert "fewer processes" in caught.value.hint


def test_a_sequence_over_the_bound_is_refused():
    with pytest.raises(ConfigError, match="micro-batches"):
        balanced_bins(np.arange(4), np.array([10, 10, 101, 10]), 100, 1)


# Packing


@pytest.fixture
def split(lengths, tiny_tokenizer):
    return random_split(lengths.tolist(), tiny_tokenizer)


def test_pack_lays_sequences_end_to_end(split, tiny_tokenizer):
    samples = [150, 2, 99, 3]
    batch = pack(split, samples, make_masker(tiny_tokenizer), epoch=1)
    rows = [split.tokens(sample) for sample in samples]
    assert batch.sample_ids == (150, 2, 99, 3)
    assert batch.lengths == tuple(len(row) for row in rows)
    assert batch.num_tokens == sum(batch.lengths) == batch.input_ids.shape[1]
    assert batch.position_ids.tolist() == [[i for row in rows for i in range(len(row))]]
    dtypes = {batch.input_ids.dtype, batch.position_ids.dtype, batch.labels.dtype}
    assert dtypes == {torch.int64}


def test_labels_are_the_hidden_tokens_and_nothing_else(split, tiny_tokenizer):
    samples = list(range(40))
    batch = pack(split, samples, make_masker(tiny_tokenizer), epoch=0)
    original = torch.from_numpy(np.concatenate([split.tokens(i) for i in samples])).long()
    chosen = torch.zeros(len(original), dtype=torch.bool)
    chosen[batch.masked_positions] = True
    assert batch.num_masked == chosen.sum() > 0
    assert (batch.masked_positions.diff() > 0).all()
    assert torch.equal(batch.labels[chosen], original[chosen])
    assert (batch.labels[~chosen] == IGNORE_INDEX).all()
    assert torch.equal(batch.input_ids[0, ~chosen], original[~chosen])
    assert (batch.input_ids[0, chosen] != original[chosen]).float().mean() > 0.7
    edges = (original == CLS) | (original == SEP)
    assert not (edges & chosen).any()


def test_a_sequence_is_masked_alike_in_every_batch(split, tiny_tokenizer):
    masker = make_masker(tiny_tokenizer)
    together = pack(split, [7, 8, 9], masker, epoch=4)
    alone = pack(split, [8], masker, epoch=4)
    where = slice(len(split.tokens(7)), len(split.tokens(7)) + len(split.tokens(8)))
    assert torch.equal(together.input_ids[:, where], alone.input_ids)
    assert torch.equal(together.labels[where], alone.labels)
    assert torch.equal(together.position_ids[:, where], alone.position_ids)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_soft_targets_look_at_the_masked_positions_first(split, tiny_tokenizer, share):
    batch = pack(split, range(60), make_masker(tiny_tokenizer), 0, share)
    masked, others = batch.soft_positions.split(
        [batch.num_masked, batch.num_soft - batch.num_masked]
    )
    assert torch.equal(masked, batch.masked_positions)
    assert (others.diff() > 0).all()
    assert not set(others.tolist()) & set(masked.tolist())
    num_others = batch.num_tokens - batch.num_masked
    assert abs(len(others) - share * num_others) <= 5 * (share * (1 - share) * num_others) ** 0.5


def tensors(batch: PackedBatch) -> dict[str, torch.Tensor]:
    return {key: value for key, value in vars(batch).items() if isinstance(value, torch.Tensor)}


def test_a_batch_moves_whole(split, tiny_tokenizer):
    batch = pack(split, [0, 1], make_masker(tiny_tokenizer), epoch=0)
    moved = batch.to(torch.device("meta"))
    assert all(tensor.is_meta for tensor in tensors(moved).values())
    assert (moved.lengths, moved.sample_ids) == (batch.lengths, batch.sample_ids)


def test_a_batch_travels_between_processes_by_value(split, tiny_tokenizer):
    """Tensors among processes hold a file descriptor each, and would run out of them."""
    batch = pack(split, [0, 1], make_masker(tiny_tokenizer), epoch=0)
    sent = bytes(ForkingPickler.dumps(batch))
    arrived = ForkingPickler.loads(sent)
    assert len(sent) > sum(tensor.nbytes for tensor in tensors(batch).values())
    assert tensors(arrived).keys() == tensors(batch).keys()
    for key, tensor in tensors(batch).items():
        assert torch.equal(tensors(arrived)[key], tensor)
    assert (arrived.lengths, arrived.sample_ids) == (batch.lengths, batch.sample_ids)


# Held-out text


def held_out(split, masker, number, ranks=1):
    return [
        list(held_out_batches(split, masker, number, BOUND, rank, ranks)) for rank in range(ranks)
    ]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_held_out_choice_is_even_and_shared_once(tiny_tokenizer, world_size):
    split = random_split([10, 3, 60, 25, 40] * 12, tiny_tokenizer)
    by_rank = held_out(split, make_masker(tiny_tokenizer), 20, world_size)
    batches = [batch for rank in by_rank for batch in rank]
    assert all(batch.num_tokens <= BOUND for batch in batches)
    seen = [sample for batch in batches for sample in batch.sample_ids]
    assert sorted(seen) == list(range(0, 60, 3))


@given(st.integers(1, 30), st.integers(1, 40), st.sampled_from(WORLD_SIZES))
def test_held_out_choice_of_any_size(tiny_tokenizer, size, number, world_size):
    split = random_split([3 + i % 9 for i in range(size)], tiny_tokenizer)
    by_rank = held_out(split, make_masker(tiny_tokenizer), number, world_size)
    seen = [sample for rank in by_rank for batch in rank for sample in batch.sample_ids]
    assert len(seen) == len(set(seen)) == min(size, number)
    assert set(seen) <= set(range(size))


def test_held_out_mask_is_the_same_in_every_pass(split, tiny_tokenizer):
    masker = make_masker(tiny_tokenizer)
    first, again = (held_out(split, masker, 30)[0] for _ in range(2))
    assert len(first) > 1
    for one, two in zip(first, again, strict=True):
        assert one.sample_ids == two.sample_ids
        assert torch.equal(one.labels, two.labels)
        assert torch.equal(one.input_ids, two.input_ids)
        assert list(one.lengths) == sorted(one.lengths)
