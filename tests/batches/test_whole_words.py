"""Masks of whole words: which words, how many tokens, and what stands in their place."""

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pytest
from every_tokenizer import AWKWARD, tokenizer_of
from hypothesis import given
from hypothesis import strategies as st
from packed_batches import CLS, MASK, NUM_SPECIAL, SEP, UNK, make_masker

from distilcli.batches.masking import Masker
from distilcli.config.data import MaskingConfig

VOCAB, INSIDE = 27, range(15, 25)  # of the tiny tokenizer: ##a to ##j
LETTER = 5  # a token that is a word


def whole(tokenizer, **config) -> Masker:
    return make_masker(tokenizer, whole_words=True, **config)


def mask(masker, rows: Sequence[Sequence[int]], samples=None, epoch=0):
    """Masks rows as one packed batch; samples are numbered from 0 unless said."""
    samples = range(len(rows)) if samples is None else samples
    return masker.mask(
        np.concatenate([np.array(row, np.int32) for row in rows]),
        np.array([len(row) for row in rows], np.int64),
        np.array(list(samples), np.int64),
        epoch,
    )


def words_of(row: Sequence[int]) -> list[list[int]]:
    """Places of the tokens of each word, written without numpy."""
    words: list[list[int]] = []
    before = CLS
    for place, token in enumerate(row):
        if token >= NUM_SPECIAL:
            if token not in INSIDE or before < NUM_SPECIAL:
                words.append([])
            words[-1].append(place)
        before = token
    return words


def rows_of_words(number: int, length: int, seed: int = 0) -> list[list[int]]:
    """Half of the tokens go on with a word."""
    draw = np.random.default_rng(seed)
    starts = draw.integers(NUM_SPECIAL, 15, (number, length))
    return np.where(draw.random((number, length)) < 0.5, starts + 10, starts).tolist()


def chosen_rows(chosen: np.ndarray, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return np.split(chosen, np.cumsum([len(row) for row in rows])[:-1])


@given(
    st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=50), min_size=1, max_size=6),
    st.floats(0.01, 0.99),
)
def test_words_are_whole_and_come_nearest_to_the_share(tiny_tokenizer, rows, probability):
    _, chosen = mask(whole(tiny_tokenizer, mlm_probability=probability), rows)
    for row, here in zip(rows, chosen_rows(chosen, rows), strict=True):
        words = words_of(row)
        taken = [word for word in words if here[word[0]]]
        assert here.sum() == sum(map(len, taken))  # nothing but whole words
        assert all(here[word].all() for word in taken)
        ordinary = sum(map(len, words))
        quota = max(1, math.floor(probability * ordinary + 0.5))
        if not words:
            continue
        assert taken
        # One word less, or one more, is no nearer.
        number, longest = sum(map(len, taken)), max(map(len, words))
        assert number - quota <= longest / 2 or len(taken) == 1
        assert quota - number < longest / 2 or len(taken) == len(words)


def test_the_number_of_tokens_is_the_share_on_average(tiny_tokenizer):
    rows = rows_of_words(2_000, 100)
    _, chosen = mask(whole(tiny_tokenizer), rows)
    # A little more, since of two numbers that are as near the larger is taken.
    assert 15 < chosen.sum() / 2_000 < 15.5


@pytest.mark.parametrize(
    ("sizes", "probability", "number"),
    [
        ([3, 3, 3, 3], 0.25, 3),  # of 12 tokens 3: one word
        ([3, 3, 3, 3], 0.35, 3),  # 4: one word is nearer than two
        ([2, 2, 2, 2], 0.375, 4),  # 3: as near to 2 as to 4, so the larger
        ([8], 0.15, 8),  # at least one word
        ([1] * 20, 0.15, 3),
    ],
)
def test_the_nearest_number_of_whole_words_is_chosen(tiny_tokenizer, sizes, probability, number):
    row = [CLS, *(token for size in sizes for token in [LETTER, *[15] * (size - 1)]), SEP]
    _, chosen = mask(whole(tiny_tokenizer, mlm_probability=probability), [row] * 50)
    assert chosen.reshape(50, len(row)).sum(axis=1).tolist() == [number] * 50


def test_special_tokens_and_ends_of_sequences_end_words(tiny_tokenizer):
    """A ## token after one of them is a word of its own, whatever came before."""
    rows = [[LETTER, 15], [16, 15], [LETTER, UNK, 15, MASK, 15]]
    masker = whole(tiny_tokenizer, mlm_probability=0.5)
    found = {tuple(mask(masker, rows, range(start, start + 3))[1]) for start in range(60)}
    assert {row[:2] for row in found} == {(True, True)}
    assert {row[2:4] for row in found} == {(True, True)}
    pairs = {row[4:] for row in found}
    assert len(pairs) == 3  # two of the three words, any two
    assert all(sum(row) == 2 and not row[1] and not row[3] for row in pairs)


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
def test_a_word_has_the_weight_of_its_rarest_token(tiny_tokenizer, smoothing):
    counts = np.ones(VOCAB, np.int64)
    counts[[5, 15, 6, 16]] = [1000, 10, 100, 100]
    masker = whole(tiny_tokenizer, counts=counts, smoothing=smoothing, mlm_probability=0.5)
    trials = 20_000
    _, chosen = mask(masker, [[5, 15, 6, 16]] * trials)
    first = chosen.reshape(trials, 4)[:, 0].sum()
    weights = np.array([10.0, 100.0]) ** -smoothing
    share = weights[0] / weights.sum()
    assert abs(first - trials * share) < 5 * math.sqrt(trials * share * (1 - share))


def test_each_token_of_a_word_is_replaced_by_itself(tiny_tokenizer):
    """80 / 10 / 10 for tokens, not for words, as in the BERT release."""
    rows = [[LETTER, 15] * 10] * 3_000
    masked, chosen = mask(whole(tiny_tokenizer, mask_share=0.6, random_share=0.0), rows)
    hidden = (masked == MASK)[chosen].reshape(-1, 2)
    trials = len(hidden)
    assert trials == 3_000 * 2  # two words: 3 tokens are as near to 2 as to 4
    for share, count in ((0.36, hidden.all(axis=1)), (0.16, (~hidden).all(axis=1))):
        assert abs(count.sum() - trials * share) < 5 * math.sqrt(trials * share * (1 - share))


def test_a_mask_is_a_function_of_seed_epoch_and_sample(tiny_tokenizer):
    rows = rows_of_words(3, 60)
    masker = whole(tiny_tokenizer)
    together = mask(masker, rows, [4, 5, 6], epoch=1)
    alone = mask(masker, rows[1:2], [5], epoch=1)
    for one, other in zip(together, alone, strict=True):
        assert (one[60:120] == other).all()
    for changed in (
        mask(masker, rows, [4, 5, 6], epoch=2),
        mask(masker, rows, [7, 8, 9], epoch=1),
        mask(whole(tiny_tokenizer, seed=1), rows, [4, 5, 6], epoch=1),
    ):
        assert (changed[1] != together[1]).any()


def test_masks_of_whole_words_are_the_same_for_ever(tiny_tokenizer):
    """A resumed run must see the masks of the run it continues, so these never change."""
    masker = whole(tiny_tokenizer, seed=42, smoothing=0.7)
    masked, chosen = mask(masker, [*rows_of_words(2, 40), [9] * 40], [0, 7, 123_456], epoch=1)
    content = masked.astype("<i4").tobytes() + chosen.tobytes()
    assert blake2b(content, digest_size=8).hexdigest() == "eaa235e53da00f76"


def test_without_inner_pieces_it_is_the_mask_of_tokens(tiny_tokenizer):
    """Also with a word-level tokenizer, whose every token is a word."""
    rows = np.random.default_rng(0).integers(0, 15, (20, 50)).tolist()
    tokenizer = tokenizer_of("word level")
    for one in (tiny_tokenizer, tokenizer):
        for smoothing in (0.0, 0.7):
            plain = mask(make_masker(one, smoothing=smoothing), rows)
            words = mask(whole(one, smoothing=smoothing), rows)
            assert (plain[0] == words[0]).all()
            assert (plain[1] == words[1]).all()


def test_a_row_of_special_tokens_stays_as_it_is(tiny_tokenizer):
    masked, chosen = mask(whole(tiny_tokenizer), [[CLS, SEP], [CLS, UNK, SEP]])
    assert masked.tolist() == [CLS, SEP, CLS, UNK, SEP]
    assert not chosen.any()


@pytest.mark.parametrize("kind", ["RoBERTa", "ModernBERT", "XLM-RoBERTa", "mmBERT"])
def test_every_kind_of_tokenizer(kind):
    """A chosen word ends where the next begins, and special tokens are never chosen."""
    tokenizer = tokenizer_of(kind)
    counts = np.ones(len(tokenizer), np.int64)
    masker = Masker(MaskingConfig(whole_words=True), tokenizer, len(tokenizer), counts, 0)
    around = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in AWKWARD[:12]]
    rows = [[*around[0], *text, *around[1]] for text in texts]
    _, chosen = mask(masker, rows)
    ids = np.concatenate(rows)
    assert masker._joints is not None
    begins = masker._joints.begins(ids)
    inside = ~begins[1:] & ~np.isin(ids[1:], tokenizer.all_special_ids)
    inside &= ~np.isin(ids[:-1], tokenizer.all_special_ids)
    assert (chosen[1:] == chosen[:-1])[inside].all()
    assert (chosen[1:] & inside).any()
    assert not chosen[np.isin(ids, tokenizer.all_special_ids)].any()
