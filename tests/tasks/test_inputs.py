"""Inputs of tasks laid end to end: as batches, on their way to other processes, as fingerprints."""

import pickle
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from input_rows import positions_of, rows_of

from distilcli.tasks.inputs import join, pack_inputs


@st.composite
def lists(draw):
    """Ids, types and output positions of a few inputs, and whether targets are of outputs."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=7))
    ids = [[draw(st.integers(0, 2**31 - 1)) for _ in range(size)] for size in sizes]
    types = [[draw(st.integers(0, 1)) for _ in range(size)] for size in sizes]
    of_rows = draw(st.booleans())
    if of_rows:
        positions = [sorted(draw(st.sets(st.integers(0, size - 1)))) for size in sizes]
    else:
        positions = [list(range(size)) for size in sizes]
    return ids, types, positions, of_rows


def joined(ids, types, positions, of_rows):
    """Inputs of which each target is a different pair of numbers."""
    number = sum(map(len, positions)) if of_rows else len(ids)
    return join(ids, types, positions, np.arange(number * 2, dtype=np.int64).reshape(number, 2))


@given(lists())
def test_joined_inputs_are_the_lists(given_lists):
    ids, types, positions, of_rows = given_lists
    inputs = joined(*given_lists)
    assert len(inputs) == len(ids)
    assert rows_of(inputs) == ids
    assert rows_of(inputs, "token_types") == types
    assert positions_of(inputs) == positions
    assert inputs.lengths.tolist() == [len(row) for row in ids]
    assert inputs.num_outputs_of.tolist() == [len(row) for row in positions]
    assert inputs.offsets[0] == inputs.output_offsets[0] == 0
    if of_rows or max(inputs.lengths) > 1:  # of inputs of one token each it is the same
        assert inputs.targets_are_of_rows == of_rows


def test_no_inputs_are_joined_too():
    inputs = join([], [], [], np.zeros(0, np.int64))
    assert len(inputs) == len(inputs.token_ids) == len(inputs.output_positions) == 0


@given(lists(), st.data())
def test_a_packed_batch_is_that_of_a_naive_loop(given_lists, data):
    ids, types, positions, of_rows = given_lists
    inputs = joined(*given_lists)
    # In any order, also twice.
    samples = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=9))
    first_row = [sum(len(row) for row in positions[:sample]) for sample in range(len(ids))]
    expected = {"ids": [], "types": [], "positions": [], "outputs": [], "targets": []}
    boundaries = [0]
    for sample in samples:
        begin = boundaries[-1]
        for index, token in enumerate(ids[sample]):
            expected["ids"].append(token)
            expected["types"].append(types[sample][index])
            expected["positions"].append(index)
        for index, position in enumerate(positions[sample]):
            expected["outputs"].append(begin + position)
            if of_rows:
                row = first_row[sample] + index
                expected["targets"].append([2 * row, 2 * row + 1])
        if not of_rows:
            expected["targets"].append([2 * sample, 2 * sample + 1])
        boundaries.append(begin + len(ids[sample]))
    batch = pack_inputs(inputs, samples)
    assert batch.input_ids.tolist() == [expected["ids"]]
    assert batch.token_type_ids.tolist() == [expected["types"]]
    assert batch.position_ids.tolist() == [expected["positions"]]
    assert batch.output_positions.tolist() == expected["outputs"]
    assert batch.targets.tolist() == expected["targets"]
    assert batch.boundaries.tolist() == boundaries
    assert batch.lengths == tuple(len(ids[sample]) for sample in samples)
    assert batch.sample_ids == tuple(samples)
    assert batch.num_tokens == len(expected["ids"])
    assert batch.num_outputs == len(expected["outputs"])
    # What embeddings and indices must be.
    whole = (batch.input_ids, batch.token_type_ids, batch.position_ids, batch.output_positions)
    assert {tensor.dtype for tensor in whole} == {torch.int64}


@pytest.fixture
def some_inputs():
    ids = [[2, 7, 8, 3], [2, 9, 3], [2, 5, 6, 7, 3]]
    types = [[0, 0, 1, 1], [0, 0, 0], [0, 0, 0, 1, 1]]
    targets = np.array([[0.5, 1], [0, 0], [1, 0]], np.float32)
    return join(ids, types, [[0]] * 3, targets)


@pytest.mark.parametrize("hidden", [None, np.full((7, 4), 0.5, np.float16)])
def test_a_batch_brings_what_is_known_of_the_teacher(some_inputs, hidden):
    outputs = np.array([[1, 2], [3, 4]], np.float32)
    batch = pack_inputs(some_inputs, [1, 0], (outputs, hidden))
    assert batch.teacher_outputs.tolist() == [[1, 2], [3, 4]]
    assert (batch.teacher_hidden is None) == (hidden is None)
    assert hidden is None or batch.teacher_hidden.shape == (7, 4)
    assert pack_inputs(some_inputs, [1, 0]).teacher_outputs is None


@pytest.mark.parametrize("with_teacher", [False, True])
def test_a_batch_travels_between_processes_by_value(some_inputs, with_teacher):
    """Tensors among processes hold a file descriptor each, and would run out of them."""
    known = (np.ones((2, 2), np.float32), np.ones((9, 4), np.float16)) if with_teacher else None
    batch = pack_inputs(some_inputs, [0, 2], known)
    sent = bytes(ForkingPickler.dumps(batch))
    arrived = ForkingPickler.loads(sent)
    tensors = {key: value for key, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert len(sent) > sum(tensor.nbytes for tensor in tensors.values())
    assert vars(arrived).keys() == vars(batch).keys()
    for key, value in vars(batch).items():
        found = vars(arrived)[key]
        if key in tensors:
            assert found.dtype == value.dtype
            assert torch.equal(found, value)
        else:
            assert found == value
    assert ("teacher_hidden" in tensors) == with_teacher


def test_inputs_go_to_the_workers_unchanged(some_inputs):
    arrived = pickle.loads(pickle.dumps(some_inputs))
    assert vars(arrived).keys() == vars(some_inputs).keys()
    for name, value in vars(some_inputs).items():
        if isinstance(value, np.ndarray):
            assert vars(arrived)[name].dtype == value.dtype
        assert np.array_equal(vars(arrived)[name], value)
    assert arrived.fingerprint() == some_inputs.fingerprint()


def test_the_fingerprint_is_of_what_a_model_is_shown_and_where_it_is_read():
    ids, types, positions = [[2, 7, 3], [2, 8, 3]], [[0, 0, 0], [0, 0, 1]], [[1, 2], [1]]
    targets = np.array([0, 1, 1])
    inputs = join(ids, types, positions, targets)
    others = [
        join([[2, 9, 3], ids[1]], types, positions, targets),
        join(ids, [types[0], [0, 0, 0]], positions, targets),
        join([[2, 7], [3, 2, 8, 3]], [[0, 0], [0, 0, 0, 1]], positions, targets),
        join(ids, types, [[0, 2], [1]], targets),
    ]
    assert len({one.fingerprint() for one in [inputs, *others]}) == 5
    again = join(ids, types, positions, targets)
    assert again.fingerprint() == inputs.fingerprint()
    assert replace(inputs, targets=targets + 1).fingerprint() == inputs.fingerprint()


def test_the_fingerprint_tells_of_which_input_an_output_is():
    ids, types = [[2, 7, 3], [2, 8, 3]], [[0, 0, 0], [0, 0, 0]]
    first, second = (
        join(ids, types, positions, np.array([0, 1, 1]))
        for positions in ([[1, 2], [1]], [[1], [2, 1]])
    )
    assert first.fingerprint() != second.fingerprint()
