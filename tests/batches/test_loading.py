"""Micro-batches read ahead: the same ones, in order, whoever makes them."""

import os

import pytest
import torch
from packed_batches import make_masker, random_split
from tiny_experiments import start_function
from token_stores import tiny_tokenizer as word_pieces
from torch.utils.data import get_worker_info
from transformers import PreTrainedTokenizerFast

from distilcli.batches.loading import StepBatches, load_steps
from distilcli.batches.masked import PackedBatch, pack_masked
from distilcli.batches.plan import Draws, StepPlan
from distilcli.errors import ConfigError
from distilcli.signals import STOP_SIGNALS

CPU = torch.device("cpu")
LENGTHS = [5 + i % 20 for i in range(64)]


class Signalled(StepBatches):
    """Its workers are sent, in the middle of the work, what a scheduler sends to a whole job."""

    def __getitem__(self, step: int) -> list[PackedBatch]:
        if get_worker_info() is not None:
            for number in STOP_SIGNALS:
                os.kill(os.getpid(), number)
        return super().__getitem__(step)


def batches_of(tokenizer: PreTrainedTokenizerFast, rank: int = 0, world_size: int = 1) -> Signalled:
    split = random_split(LENGTHS, tokenizer)
    plan = StepPlan(split.lengths, 16, 64, seed=3)
    masker = make_masker(tokenizer)

    def pack_draws(draws: Draws) -> PackedBatch:
        return pack_masked(split, draws.samples.tolist(), masker, draws.epochs, 0.4)

    return Signalled(pack_draws, plan, rank, world_size)


def assert_same(found: list[PackedBatch], expected: list[PackedBatch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.sample_ids == other.sample_ids
        for name in ("input_ids", "labels", "soft_positions"):
            assert torch.equal(getattr(one, name), getattr(other, name))


class Failing(StepBatches):
    """Finds a mistake in its third step."""

    def __getitem__(self, step: int) -> list[PackedBatch]:
        if step == 2:
            raise ConfigError("too few sequences", "Use more.")
        return super().__getitem__(step)


@pytest.mark.parametrize("num_workers", [None, 2], ids=["none", "two"])
@pytest.mark.parametrize("rank", [0, 1])
def test_every_step_in_order_from_any_step(tiny_tokenizer, rank, num_workers):
    batches = batches_of(tiny_tokenizer, rank, world_size=2)
    loaded = list(load_steps(batches, range(3, 10), CPU, num_workers))
    assert len(loaded) == 7  # over the end of an epoch, which has 4 steps
    for step, found in enumerate(loaded, start=3):
        assert_same(found, batches[step])


def test_loading_leaves_the_random_numbers_of_training_alone(tiny_tokenizer):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    next(load_steps(batches_of(tiny_tokenizer), range(3), CPU))
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_share_a_step(tiny_tokenizer):
    parts = [batches_of(tiny_tokenizer, rank, world_size=2)[1] for rank in range(2)]
    samples = [sample for part in parts for batch in part for sample in batch.sample_ids]
    assert sorted(samples) == sorted(batches_of(tiny_tokenizer).plan.samples(1).tolist())


def test_a_rank_without_samples_of_its_own_gets_a_placeholder(tiny_tokenizer):
    """In a last step of one sample every rank still has a micro-batch to run."""
    parts = []
    for rank in range(3):
        batches = batches_of(tiny_tokenizer, rank, world_size=3)
        batches.plan.num_draws = 17
        parts += batches[1]
    assert [part.is_placeholder for part in parts] == [False, True, True]
    assert len({part.sample_ids for part in parts}) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mistake_is_the_same_error_wherever_it_is_found(tiny_tokenizer, num_workers):
    whole = batches_of(tiny_tokenizer)
    batches = Failing(whole.pack, whole.plan, 0, 1)
    loaded = load_steps(batches, range(9), CPU, num_workers)
    assert len([next(loaded), next(loaded)]) == 2
    with pytest.raises(ConfigError) as caught:
        next(loaded)
    assert (caught.value.message, caught.value.hint) == ("too few sequences", "Use more.")


def leave_a_loader_behind() -> None:
    """Ends with workers at work and a reference to them that nobody lets go of."""
    global _loaded
    _loaded = load_steps(batches_of(word_pieces()), range(9), CPU, 2)
    next(_loaded)


@pytest.mark.slow
def test_a_process_ends_with_workers_at_work():
    """Python sends them SIGTERM, which they ignore, and waits for them: for ever."""
    finished = start_function(leave_a_loader_behind, []).wait()
    assert finished.code == 0, finished.stderr
