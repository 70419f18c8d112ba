"""The step plan, its partition over ranks, and packing."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed_batches import CLS, SEP, make_masker, random_split

from distilcli.batches.masked import PackedBatch, held_out_batches, pack_masked
from distilcli.batches.plan import (
    STEP_PLAN,
    Draws,
    StepPlan,
    balanced_bins,
    bins_of_rank,
    of_similar_lengths,
)
from distilcli.errors import ConfigError
from distilcli.text.row import IGNORE_INDEX

NUM_SEQUENCES, BATCH, BOUND = 203, 24, 150
WORLD_SIZES = [1, 2, 3, 8]


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 65, NUM_SEQUENCES).astype(np.int32)


@pytest.fixture
def plan(lengths) -> StepPlan:
    return StepPlan(lengths, BATCH, BOUND, seed=5)


# Which sequences make a step


def drawn_by(plan: StepPlan, steps: range) -> list[tuple[int, int]]:
    """(epoch, sample) of everything that some steps draw, in order."""
    draws = [plan.draws(step) for step in steps]
    return [
        pair
        for part in draws
        for pair in zip(part.epochs.tolist(), part.samples.tolist(), strict=True)
    ]


@given(
    st.lists(st.integers(3, 20), min_size=4, max_size=30), st.integers(1, 4), st.integers(1, 999)
)
def test_the_fewest_steps_that_draw_so_many_tokens(lengths, batch, tokens):
    """Counted one step after the other, over epochs."""
    plan = StepPlan(np.array(lengths, dtype=np.int32), batch, BOUND, seed=5)
    steps = drawn = 0
    while drawn < tokens:
        drawn += plan.lengths[plan.samples(steps)].sum()
        steps += 1
    assert plan.steps_to_reach(tokens) == steps


def test_an_epoch_holds_every_sequence_once(plan):
    """What fills no batch at its end opens the first batch of the next."""
    drawn = drawn_by(plan, range(26))  # 24 * 26 = 624: three epochs of 203 and a little more
    assert [len(plan.samples(step)) for step in range(26)] == [BATCH] * 26
    for epoch in range(3):
        of_epoch = drawn[epoch * NUM_SEQUENCES : (epoch + 1) * NUM_SEQUENCES]
        assert {found for found, _ in of_epoch} == {epoch}
        assert sorted(sample for _, sample in of_epoch) == list(range(NUM_SEQUENCES))
    assert [plan.epoch(step) for step in (0, 8, 9, 16, 17, 25)] == [0, 0, 1, 1, 2, 2]
    assert set(plan.draws(8).epochs.tolist()) == {0, 1}


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 5), st.sampled_from(WORLD_SIZES))
def test_a_run_sees_every_sequence_once_an_epoch_on_any_hardware(size, batch, epochs, world_size):
    """No more and no fewer, in batches of one size but for the last."""
    size, batch = max(size, batch), max(batch, world_size)
    size = max(size, batch)
    plan = StepPlan(np.full(size, 5), batch, 20, seed=1, num_epochs=epochs)
    steps = range(plan.num_steps)
    sizes = [len(plan.samples(step)) for step in steps]
    assert set(sizes[:-1]) <= {batch}
    assert 0 < sizes[-1] <= batch
    expected = sorted((epoch, sample) for epoch in range(epochs) for sample in range(size))
    assert sorted(drawn_by(plan, steps)) == expected
    dealt = []
    for step in steps:
        by_rank = [plan.micro_batches(step, rank, world_size) for rank in range(world_size)]
        assert len({len(parts) for parts in by_rank}) == 1
        for part in (part for parts in by_rank for part in parts):
            assert plan.lengths[part.samples].sum() <= 20
            dealt += zip(part.epochs.tolist(), part.samples.tolist(), strict=True)
    assert sorted(dealt) == expected


@pytest.mark.parametrize(
    ("size", "batch", "epochs", "sizes", "words"),
    [
        (31, 16, 1, [16, 15], "2 of 16 samples, the last of 15 (1 epoch)"),
        (32, 16, 1, [16, 16], "2 of 16 samples (1 epoch)"),
        (17, 16, 3, [16, 16, 16, 3], "4 of 16 samples, the last of 3 (3 epochs)"),
        (17, 16, 1, [16, 1], "2 of 16 samples, the last of 1 (1 epoch)"),
        (16, 16, 2, [16, 16], "2 of 16 samples (2 epochs)"),
    ],
)
def test_the_last_step_holds_what_is_left(size, batch, epochs, sizes, words):
    plan = StepPlan(np.full(size, 8), batch, 100, seed=0, num_epochs=epochs)
    assert [len(plan.samples(step)) for step in range(plan.num_steps)] == sizes
    assert plan.describe(plan.num_steps) == words


def test_an_earlier_rule_is_the_same_where_nothing_was_left_over(plan, lengths):
    """It drew the same whole batches, and no others, from the first epoch."""
    assert [plan.is_that_of(1, num_steps) for num_steps in (8, 9)] == [True, False]
    assert plan.is_that_of(STEP_PLAN, 9)
    assert StepPlan(lengths, 29, BOUND, seed=5).is_that_of(1, 100)  # 203 is 7 * 29


def test_a_number_of_steps_is_of_whole_batches(lengths):
    """However far that goes beyond the epochs."""
    plan = StepPlan(lengths, BATCH, BOUND, seed=5)
    assert plan.num_steps is None
    assert {len(plan.samples(step)) for step in (8, 100, 1000)} == {BATCH}
    assert plan.describe(100) == f"100 of 24 samples ({2400 / 203:.4g} epochs)"


def test_epochs_and_seeds_differ(plan, lengths):
    first, again = plan.samples(0).tolist(), plan.samples(9).tolist()
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
        flat = [draws.samples for micro_batches in by_rank for draws in micro_batches]
        assert sorted(np.concatenate(flat).tolist()) == sorted(plan.samples(step).tolist())
        assert all(0 < lengths[samples].sum() <= BOUND for samples in flat)


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=40),
    st.integers(64, 100),
    st.sampled_from(WORLD_SIZES),
)
def test_bins_are_full_sorted_and_balanced(sizes, bound, multiple):
    sizes = np.array(sizes, np.int32)
    bins = balanced_bins(sizes, bound, multiple)
    assert len(bins) % multiple == 0
    # Never bins for more than twice the tokens: longest first, they would be half empty.
    assert len(bins) <= multiple * (np.ceil(2 * sizes.sum() / (bound * multiple)) + 1)
    assert sorted(place for one in bins for place in one) == list(range(len(sizes)))
    totals = [int(sizes[one].sum()) for one in bins if one]
    assert max(totals) <= bound
    # Into the emptiest bin each: none is empty before all sequences have one of their own, and two
    # bins differ by one sequence at most.
    assert len(totals) == min(len(bins), len(sizes))
    assert max(totals) - min(totals) <= sizes.max()
    for one in bins:
        found = sizes[one].tolist()
        assert found == sorted(found, reverse=True)


def test_bins_are_the_fewest_that_hold_the_tokens():
    sizes = np.full(12, 10)
    for bound, multiple, expected in ((120, 1, 1), (60, 1, 2), (59, 1, 3), (60, 4, 4), (20, 2, 6)):
        assert len(balanced_bins(sizes, bound, multiple)) == expected


def test_bins_are_added_where_sequences_pair_badly():
    """120 tokens would fit into two bins of 64, but no two sequences of 40 fit into one."""
    assert balanced_bins(np.full(3, 40), 64, 1) == [[0], [1], [2]]
    assert balanced_bins(np.full(6, 40), 64, 2) == [[0], [1], [2], [3], [4], [5]]


def test_bins_stay_empty_where_sequences_are_few():
    """Three sequences that pair badly need two rounds of two processes."""
    assert balanced_bins(np.full(3, 40), 64, 2) == [[0], [1], [2], []]
    assert balanced_bins(np.array([5]), 64, 3) == [[0], [], []]


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=40),
    st.integers(64, 200),
    st.sampled_from(WORLD_SIZES),
)
def test_ranks_share_tokens_and_micro_batches_evenly(sizes, bound, world_size):
    """As far as whole sequences allow; no micro-batch is over the bound or needlessly empty."""
    sizes = np.array(sizes, np.int32)
    by_rank = [bins_of_rank(sizes, bound, rank, world_size) for rank in range(world_size)]
    bins = [one for of_rank in by_rank for one in of_rank]
    assert len({len(of_rank) for of_rank in by_rank}) == 1
    assert sorted(place for one in bins for place in one) == list(range(len(sizes)))
    assert max(int(sizes[one].sum()) for one in bins) <= bound
    totals = [sum(int(sizes[one].sum()) for one in of_rank) for of_rank in by_rank]
    assert max(totals) - min(totals) <= len(by_rank[0]) * sizes.max()
    assert sum(map(bool, bins)) == min(len(bins), len(sizes))
    for one in bins:
        assert sizes[one].tolist() == sorted(sizes[one], reverse=True)


def test_each_micro_batch_holds_sequences_of_similar_length():
    sizes = np.array([10, 40, 20, 39, 20, 11, 10, 50])
    assert bins_of_rank(sizes, 120, 0, 1) == [[7, 1], [3, 2, 4, 5, 0, 6]]
    # Of two ranks, each has long ones and short ones.
    by_rank = [bins_of_rank(sizes, 60, rank, 2) for rank in range(2)]
    assert by_rank == [[[7], [3, 5]], [[1], [2, 4, 0, 6]]]


def test_bins_that_would_be_too_full_or_empty_stay_as_they_are():
    """By length the first of two bins would hold 50 and 40 tokens, or nothing."""
    sizes = np.array([50, 40, 30, 30])
    assert of_similar_lengths([[0, 3], [1, 2]], sizes, 90) == [[0, 1], [2, 3]]
    assert of_similar_lengths([[0, 3], [1, 2]], sizes, 89) == [[0, 3], [1, 2]]
    assert of_similar_lengths([[0], [1], [2]], np.array([90, 2, 1]), 90) == [[0], [1], [2]]
    assert of_similar_lengths([[0], []], np.array([5]), 90) == [[0], []]


def test_among_more_processes_than_sequences_some_have_none():
    plan = StepPlan(np.full(20, 10), 5, 100, seed=0)
    parts = [plan.micro_batches(0, rank, 8) for rank in range(8)]
    assert [[len(part) for part in parts_of_one] for parts_of_one in parts] == [[1]] * 5 + [[0]] * 3
    drawn = np.concatenate([part.samples for [part] in parts])
    assert sorted(drawn) == sorted(plan.samples(0))


def test_a_sequence_over_the_bound_is_refused():
    with pytest.raises(ConfigError, match="micro_batch 100: a sequence has 101 tokens") as caught:
        balanced_bins(np.array([10, 10, 101, 10]), 100, 1)
    assert "to 101 or more" in caught.value.hint


# Packing


@pytest.fixture
def split(lengths, tiny_tokenizer):
    return random_split(lengths.tolist(), tiny_tokenizer)


def test_pack_lays_sequences_end_to_end(split, tiny_tokenizer):
    samples = [150, 2, 99, 3]
    batch = pack_masked(split, samples, make_masker(tiny_tokenizer), epoch=1)
    rows = [split.tokens(sample) for sample in samples]
    assert batch.sample_ids == (150, 2, 99, 3)
    assert batch.lengths == tuple(len(row) for row in rows)
    assert batch.num_tokens == sum(batch.lengths) == batch.input_ids.shape[1]
    assert batch.position_ids.tolist() == [[i for row in rows for i in range(len(row))]]
    dtypes = {batch.input_ids.dtype, batch.position_ids.dtype, batch.labels.dtype}
    assert dtypes == {torch.int64}


def test_labels_are_the_hidden_tokens_and_nothing_else(split, tiny_tokenizer):
    samples = list(range(40))
    batch = pack_masked(split, samples, make_masker(tiny_tokenizer), epoch=0)
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
    together = pack_masked(split, [7, 8, 9], masker, epoch=4)
    alone = pack_masked(split, [8], masker, epoch=4)
    where = slice(len(split.tokens(7)), len(split.tokens(7)) + len(split.tokens(8)))
    assert torch.equal(together.input_ids[:, where], alone.input_ids)
    assert torch.equal(together.labels[where], alone.labels)
    assert torch.equal(together.position_ids[:, where], alone.position_ids)


def test_one_sequence_twice_in_a_batch_has_the_mask_of_each_epoch(split, tiny_tokenizer):
    """As in a step that ends one epoch and begins the next."""
    masker = make_masker(tiny_tokenizer)
    draws = Draws(np.array([8, 3, 8]), np.array([4, 4, 5]))
    both = pack_masked(split, draws.samples.tolist(), masker, draws.epochs, 0.5)
    size = len(split.tokens(8))
    for where, epoch in ((slice(0, size), 4), (slice(-size, None), 5)):
        alone = pack_masked(split, [8], masker, epoch, 0.5)
        assert torch.equal(both.input_ids[:, where], alone.input_ids)
        assert torch.equal(both.labels[where], alone.labels)
    assert not torch.equal(both.labels[:size], both.labels[-size:])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_soft_targets_look_at_the_masked_positions_first(split, tiny_tokenizer, share):
    batch = pack_masked(split, range(60), make_masker(tiny_tokenizer), 0, share)
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
    batch = pack_masked(split, [0, 1], make_masker(tiny_tokenizer), epoch=0)
    moved = batch.to(torch.device("meta"))
    assert all(tensor.is_meta for tensor in tensors(moved).values())
    assert (moved.lengths, moved.sample_ids) == (batch.lengths, batch.sample_ids)


def test_a_batch_travels_between_processes_by_value(split, tiny_tokenizer):
    """Tensors among processes hold a file descriptor each, and would run out of them."""
    batch = pack_masked(split, [0, 1], make_masker(tiny_tokenizer), epoch=0)
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
