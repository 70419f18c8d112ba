"""Batches of two vocabularies: what the teacher reads, and where it is compared."""

import pickle

import numpy as np
import pytest
import torch
from packed_batches import CLS, MASK, SEP, make_masker, random_split
from paired_batches import KEPT, PairedRow, PairedSplit, paired_split, same_split

from distilcli.batches.masked import PackedBatch, pack_masked

LENGTHS = [6, 1, 14, 9, 2]


@pytest.fixture
def masker(tiny_tokenizer):
    return make_masker(tiny_tokenizer, vocab_size=len(KEPT))


@pytest.fixture
def split():
    return paired_split(LENGTHS)


@pytest.fixture
def batch(split, masker) -> PackedBatch:
    return pack_masked(split, range(len(LENGTHS)), masker, 2, 0.5, KEPT)


def test_with_one_vocabulary_the_teacher_reads_what_the_student_reads(tiny_tokenizer):
    one = random_split([9, 20, 5], tiny_tokenizer)
    masker = make_masker(tiny_tokenizer)
    plain = pack_masked(one, range(3), masker, 1, 0.5)
    ids = np.arange(len(tiny_tokenizer))
    found = pack_masked(same_split(one, 3), range(3), masker, 1, 0.5, ids)
    row = found.teacher_row
    assert plain.teacher_row is None
    assert torch.equal(row.input_ids, plain.input_ids)
    assert torch.equal(row.position_ids, plain.position_ids)
    assert torch.equal(row.boundaries, plain.boundaries)
    assert row.lengths == plain.lengths
    for name in ("input_ids", "labels", "masked_positions", "soft_positions", "lone_positions"):
        assert torch.equal(getattr(found, name), getattr(plain, name)), name
    assert torch.equal(row.soft_positions, plain.soft_positions)
    assert torch.equal(row.pairs, row.student_pairs)
    assert found.num_compared == plain.num_compared == plain.num_tokens
    assert found.num_soft_masked == plain.num_soft_masked == plain.num_masked


def test_a_pair_is_one_piece_at_both_places(split, batch):
    """Before anything is masked; ids of the student and of the teacher name the same piece."""
    student = np.concatenate([row.student for row in split.rows])
    teacher = np.concatenate([row.teacher for row in split.rows])
    row = batch.teacher_row
    assert np.array_equal(KEPT[student[row.student_pairs]], teacher[row.pairs])
    num_pairs = sum(place >= 0 for one in split.rows for place in one.places)
    assert row.pairs.shape[0] == num_pairs == batch.num_compared < len(student)
    assert torch.equal(row.boundaries.diff(), torch.tensor([len(r.teacher) for r in split.rows]))


def test_what_is_compared_is_a_pair_and_the_masked_ones_come_first(batch):
    row = batch.teacher_row
    pairs = dict(zip(row.student_pairs.tolist(), row.pairs.tolist(), strict=True))
    soft = batch.soft_positions.tolist()
    assert [pairs[position] for position in soft] == row.soft_positions.tolist()
    masked = set(batch.masked_positions.tolist())
    assert soft[: batch.num_soft_masked] == sorted(masked & set(pairs))
    assert not masked & set(soft[batch.num_soft_masked :])
    lone = batch.lone_positions.tolist()
    assert lone == sorted(masked - set(pairs))
    assert lone, "a case that shows nothing"


def test_both_have_the_same_thing_in_the_place_of_a_hidden_pair(batch):
    """[MASK], the same random piece, or what was there."""
    row = batch.teacher_row
    read = batch.input_ids[0][row.student_pairs].numpy()
    assert np.array_equal(KEPT[read], row.input_ids[0][row.pairs].numpy())


@pytest.mark.parametrize("part", [2, 3])
def test_a_piece_is_hidden_as_soon_as_a_part_of_it_is(part, tiny_tokenizer):
    """The student reads piece 6 as 7, 8; the teacher then reads [MASK], and the rest as it is."""
    [place_of_10] = np.flatnonzero(KEPT == 11)
    row = PairedRow([CLS, int(place_of_10), 7, 8, SEP], [CLS, 11, 6, SEP], [0, 1, -3, -3, 3])
    masker = make_masker(tiny_tokenizer, vocab_size=len(KEPT), mask_share=1.0, random_share=0.0)
    for epoch in range(60):
        batch = pack_masked(PairedSplit([row]), [0], masker, epoch, 1.0, KEPT)
        if batch.masked_positions.tolist() == [part]:
            assert batch.teacher_row.input_ids.tolist() == [[CLS, 11, MASK, SEP]]
            assert batch.lone_positions.tolist() == [part]
            return
    raise AssertionError("the part was never hidden")


def test_a_token_that_begins_in_none_of_the_teachers_hides_nothing(tiny_tokenizer):
    row = PairedRow([CLS, 9, SEP], [CLS, SEP], [0, -1, 1])
    masker = make_masker(tiny_tokenizer, vocab_size=len(KEPT), mask_share=1.0, random_share=0.0)
    batch = pack_masked(PairedSplit([row]), [0], masker, 0, 1.0, KEPT)
    assert batch.masked_positions.tolist() == [1]
    assert batch.teacher_row.input_ids.tolist() == [[CLS, SEP]]


def test_a_batch_travels_with_its_row(batch):
    """Between processes, and to another device."""
    for other in (pickle.loads(pickle.dumps(batch)), batch.to(torch.device("meta"))):
        assert other.teacher_row.lengths == batch.teacher_row.lengths
        assert other.teacher_row.pairs.shape == batch.teacher_row.pairs.shape
    assert other.teacher_row.input_ids.device.type == "meta"
    copied = pickle.loads(pickle.dumps(batch)).teacher_row
    assert torch.equal(copied.input_ids, batch.teacher_row.input_ids)


def test_a_sample_is_the_same_in_every_batch(split, masker, batch):
    alone = pack_masked(split, [2], masker, 2, 0.5, KEPT)
    start, end = batch.teacher_row.boundaries[2:4].tolist()
    assert torch.equal(alone.teacher_row.input_ids[0], batch.teacher_row.input_ids[0, start:end])
