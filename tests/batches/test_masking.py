"""Masks: how many, which, replaced by what, and of what they are a function."""

import math
from collections.abc import Sequence
from copy import deepcopy
from hashlib import blake2b
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packed_batches import CLS, MASK, NUM_SPECIAL, PAD, SEP, UNK, make_masker
from transformers import AddedToken

from distilcli.batches import masking

VOCAB = 27
ORDINARY = st.integers(NUM_SPECIAL, VOCAB - 1)
SPECIAL = st.sampled_from([PAD, UNK, CLS, SEP, MASK])


def mask(masker, rows: Sequence[Sequence[int]], samples: Sequence[int] | None = None, epoch=0):
    """Masks rows as one packed batch; samples are numbered from 0 unless said."""
    samples = range(len(rows)) if samples is None else samples
    return masker.mask(
        np.concatenate([np.array(row, np.int32) for row in rows]),
        np.array([len(row) for row in rows], np.int64),
        np.array(list(samples), np.int64),
        epoch,
    )


def random_rows(number: int, length: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return draw.integers(NUM_SPECIAL, VOCAB, (number, length)).tolist()


def within(count: int, trials: int, probability: float, deviations: float = 5.0) -> bool:
    """Whether a binomial count is as near to its mean as 1 in about 2 million is not."""
    spread = math.sqrt(trials * probability * (1 - probability))
    return abs(count - trials * probability) <= deviations * spread


# How many


@given(
    st.lists(st.lists(st.one_of(ORDINARY, SPECIAL), min_size=1, max_size=60), max_size=8),
    st.floats(0.01, 0.99),
)
def test_each_sequence_has_its_exact_share(tiny_tokenizer, rows, probability):
    rows = [[CLS], *rows]
    masked, chosen = mask(make_masker(tiny_tokenizer, mlm_probability=probability), rows)
    start = 0
    for row in rows:
        here = chosen[start : start + len(row)]
        start += len(row)
        ordinary = sum(token >= NUM_SPECIAL for token in row)
        share = math.floor(probability * ordinary + 0.5)  # half rounds up
        assert here.sum() == (max(1, share) if ordinary else 0)
        assert not here[np.array(row) < NUM_SPECIAL].any()
    original = np.concatenate([np.array(row, np.int32) for row in rows])
    assert (masked[~chosen] == original[~chosen]).all()
    assert masked.dtype == np.int32


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (3, 1), (10, 2), (20, 3), (100, 15)])
def test_fifteen_percent(tiny_tokenizer, length, expected):
    """The share of masked tokens is 15 % of a row, rounded, at least one."""
    _, chosen = mask(make_masker(tiny_tokenizer), random_rows(5, length))
    assert chosen.reshape(5, length).sum(axis=1).tolist() == [expected] * 5


# Replaced by what


def test_eighty_ten_ten(tiny_tokenizer):
    """80 % become the mask, 10 % a random token, 10 % stay (BERT, section 3.1)."""
    rows = random_rows(600, 100)
    masked, chosen = mask(make_masker(tiny_tokenizer), rows)
    before, after = np.concatenate(rows)[chosen], masked[chosen]
    trials = 600 * 15
    assert len(after) == trials
    ordinary = VOCAB - NUM_SPECIAL
    assert within((after == MASK).sum(), trials, 0.8)
    # A random token is the old one once in `ordinary` times.
    assert within(((after != MASK) & (after != before)).sum(), trials, 0.1 * (1 - 1 / ordinary))
    assert within((after == before).sum(), trials, 0.1 * (1 + 1 / ordinary))


@pytest.mark.parametrize(
    ("mask_share", "random_share"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.3, 0.6)]
)
def test_shares_are_settings(tiny_tokenizer, mask_share, random_share):
    """The shares of mask and random tokens are those of the settings."""
    masker = make_masker(tiny_tokenizer, mask_share=mask_share, random_share=random_share)
    rows = random_rows(200, 100)
    masked, chosen = mask(masker, rows)
    before, after = np.concatenate(rows)[chosen], masked[chosen]
    changed = 1 - 1 / (VOCAB - NUM_SPECIAL)
    assert within((after == MASK).sum(), len(after), mask_share)
    replaced = ((after != MASK) & (after != before)).sum()
    assert within(replaced, len(after), random_share * changed)


def test_random_replacements_are_uniform_and_never_special(tiny_tokenizer):
    """Also never an id that the tokenizer does not have, as in a padded-up vocabulary."""
    masker = make_masker(tiny_tokenizer, vocab_size=VOCAB + 5, mask_share=0.0, random_share=1.0)
    masked, chosen = mask(masker, random_rows(600, 100))
    counts = np.bincount(masked[chosen], minlength=VOCAB + 5)
    assert counts[:NUM_SPECIAL].sum() == counts[VOCAB:].sum() == 0
    counts = counts[NUM_SPECIAL:VOCAB]
    expected = chosen.sum() / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1  # mean of chi-square; its variance is twice that
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_a_special_token_without_a_role_is_special(tiny_tokenizer):
    """Such as a decoder's end of text, which is none of those that transformers gives a name."""
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.add_tokens([AddedToken("<|end|>", special=True), AddedToken("ordinary")])
    end, ordinary = tokenizer.convert_tokens_to_ids(["<|end|>", "ordinary"])
    assert end not in tokenizer.all_special_ids
    masker = make_masker(tokenizer, mask_share=0.0, random_share=1.0, mlm_probability=0.9)
    rows = [[CLS, end, *([ordinary, NUM_SPECIAL] * 200), SEP] for _ in range(40)]
    masked, chosen = mask(masker, rows)
    original = np.concatenate(rows)
    assert not chosen[original == end].any()
    assert chosen[original == ordinary].mean() > 0.8
    assert end not in masked[chosen]
    assert ordinary in masked[chosen]


# Which


def inclusion(weights: Sequence[float], number: int) -> np.ndarray:
    """Probability of each item to be among `number` drawn by weight without replacement."""
    found = np.zeros(len(weights))
    for drawn in permutations(range(len(weights)), number):
        probability, left = 1.0, sum(weights)
        for item in drawn:
            probability *= weights[item] / left
            left -= weights[item]
        found[list(drawn)] += probability
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_choice_follows_the_smoothed_counts(tiny_tokenizer, smoothing, probability):
    counts = np.ones(VOCAB, np.int64)
    counts[5:9] = [1000, 100, 10, 0]  # a token that never occurs counts as once
    masker = make_masker(
        tiny_tokenizer, counts=counts, smoothing=smoothing, mlm_probability=probability
    )
    row = [CLS, 5, 6, 5, 7, 8, 5, SEP]
    trials = 20_000
    _, chosen = mask(masker, [row] * trials)
    chosen = chosen.reshape(trials, len(row)).sum(axis=0)
    weights = np.maximum(counts[row[1:-1]], 1) ** -smoothing
    expected = inclusion(weights, math.floor(probability * 6 + 0.5))
    assert chosen[0] == chosen[-1] == 0
    for count, share in zip(chosen[1:-1], expected, strict=True):
        assert within(count, trials, share)


def test_every_place_is_as_likely(tiny_tokenizer):
    trials, length = 4_000, 40
    _, chosen = mask(make_masker(tiny_tokenizer), random_rows(trials, length))
    by_place = chosen.reshape(trials, length).sum(axis=0)
    assert all(within(count, trials, 0.15) for count in by_place)


def test_neighbouring_samples_and_epochs_are_independent(tiny_tokenizer):
    """Two masks of 15 % meet in 15 % of 15 %: no stream is another's shifted copy."""
    masker, rows = make_masker(tiny_tokenizer), random_rows(1_000, 40)
    chosen = mask(masker, rows)[1].reshape(1_000, 40)
    other = mask(masker, rows, epoch=1)[1].reshape(1_000, 40)
    for one, two in ((chosen[:-1], chosen[1:]), (chosen, other), (chosen[:, :-1], other[:, 1:])):
        assert within((one & two).sum(), one.size, 0.15 * 0.15)


def test_what_a_token_becomes_says_nothing_about_its_neighbours(tiny_tokenizer):
    """Choice, action and replacement draw from streams that never meet, at any distance."""
    rows = random_rows(3_000, 40)
    masked, chosen = (array.reshape(3_000, 40) for array in mask(make_masker(tiny_tokenizer), rows))
    hidden = masked == MASK
    for distance in (1, 2, 3):
        for here, there in (
            (slice(None, -distance), slice(distance, None)),
            (slice(distance, None), slice(None, -distance)),
        ):
            both = chosen[:, here] & chosen[:, there]
            assert within((both & hidden[:, here]).sum(), both.sum(), 0.8)
            pair = both & hidden[:, here]
            assert within((pair & hidden[:, there]).sum(), pair.sum(), 0.8)


# A function of (seed, epoch, sample) and nothing else


@given(st.lists(st.lists(ORDINARY, min_size=1, max_size=30), min_size=2, max_size=6), st.data())
def test_mask_does_not_depend_on_the_batch(tiny_tokenizer, rows, data):
    masker = make_masker(tiny_tokenizer, seed=3, smoothing=0.7)
    samples = data.draw(
        st.lists(st.integers(0, 2**40), min_size=len(rows), max_size=len(rows), unique=True)
    )
    together = dict(zip(samples, split(rows, mask(masker, rows, samples, epoch=2)), strict=True))
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = [rows[i] for i in order]
    again = split(shuffled, mask(masker, shuffled, [samples[i] for i in order], epoch=2))
    for i, there in zip(order, again, strict=True):
        alone = split([rows[i]], mask(masker, [rows[i]], [samples[i]], epoch=2))[0]
        assert together[samples[i]] == there == alone


def split(rows, arrays) -> list[tuple[list[int], list[bool]]]:
    """(masked, chosen) of each row of a packed result."""
    ends = np.cumsum([len(row) for row in rows])[:-1]
    masked, chosen = (np.split(array, ends) for array in arrays)
    return [(one.tolist(), other.tolist()) for one, other in zip(masked, chosen, strict=True)]


def test_epoch_seed_and_sample_each_change_the_mask(tiny_tokenizer):
    rows = random_rows(20, 50)
    first = split(rows, mask(make_masker(tiny_tokenizer, seed=0), rows))
    same = split(rows, mask(make_masker(tiny_tokenizer, seed=0), rows))
    assert first == same
    for other in (
        mask(make_masker(tiny_tokenizer, seed=1), rows),
        mask(make_masker(tiny_tokenizer, seed=0), rows, epoch=1),
        mask(make_masker(tiny_tokenizer, seed=0), rows, range(100, 120)),
    ):
        assert all(one != two for one, two in zip(first, split(rows, other), strict=True))


def test_every_epoch_is_new_and_none_warns(tiny_tokenizer):
    """Products of 64-bit scalars would warn when they wrap around, from epoch 2 on."""
    masker, rows = make_masker(tiny_tokenizer, seed=2**32 - 1), random_rows(4, 50)
    masks = {mask(masker, rows, [0, 1, 2, 2**62], epoch)[1].tobytes() for epoch in range(20)}
    assert len(masks) == 20


def test_the_generator_is_the_same_for_ever(tiny_tokenizer):
    """A resumed run must see the masks of the run it continues, so these never change."""
    golden = masking._GOLDEN * np.array([1, 2, 3], np.uint64)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert masking._mix(golden).tolist() == published  # splitmix64, seed 0
    rows = [list(range(NUM_SPECIAL, VOCAB)), [5, 6, 7], [9] * 40]
    masker = make_masker(tiny_tokenizer, seed=42, smoothing=0.7)
    masked, chosen = mask(masker, rows, [0, 7, 123_456], epoch=1)
    content = masked.astype("<i4").tobytes() + chosen.tobytes()
    assert blake2b(content, digest_size=8).hexdigest() == "f331ae19f222e32d"


def test_uniform_draws_are_inside_the_unit_interval():
    ends = masking._uniform(np.array([0, 2**64 - 1], np.uint64))
    assert 0 < ends[0] < 1e-15
    assert 1 - 1e-15 < ends[1] < 1


# A random share of all tokens


def test_a_sample_is_its_share_and_knows_nothing_of_the_mask(tiny_tokenizer):
    masker = make_masker(tiny_tokenizer)
    rows, lengths = random_rows(600, 100), np.full(600, 100)
    _, chosen = mask(masker, rows)
    joins = masker.sample(lengths, np.arange(600), 0, 0.3)
    assert within(joins.sum(), 60_000, 0.3)
    assert within(joins[chosen].sum(), int(chosen.sum()), 0.3)
    assert masker.sample(lengths, np.arange(600), 0, 1.0).all()
    assert not masker.sample(lengths, np.arange(600), 0, 0.0).any()


def test_a_sample_is_a_function_of_seed_epoch_and_sequence(tiny_tokenizer):
    masker = make_masker(tiny_tokenizer)
    lengths = np.array([30, 40, 50])
    together = masker.sample(lengths, np.array([4, 5, 6]), 1, 0.5)
    alone = masker.sample(lengths[1:2], np.array([5]), 1, 0.5)
    assert (together[30:70] == alone).all()
    assert (masker.sample(lengths, np.array([4, 5, 6]), 2, 0.5) != together).any()
    other = make_masker(tiny_tokenizer, seed=1)
    assert (other.sample(lengths, np.array([4, 5, 6]), 1, 0.5) != together).any()
