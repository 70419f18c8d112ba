"""A teacher's outputs on disk: they are what it gives, and whatever changes it is another entry."""

import threading
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kept_outputs import LENGTHS, NUM_PARTS, compute, key_of, names
from task_models import HEADS, make_inputs, make_model, run_padded
from transformers import PreTrainedModel

from distilcli.distillation import teacher_outputs
from distilcli.distillation.teacher_outputs import TeacherOutputs, weights_fingerprint
from distilcli.tasks.inputs import join

# Hidden states are kept in half precision, with 11 bits: each is off by up to 2^-11 of itself.
HALF = 2.0**-11


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("with_hidden", [False, True])
def test_what_is_kept_is_what_the_teacher_gives(head, with_hidden, small_parts, tmp_path):
    teacher, inputs = make_model("bert", head), make_inputs(LENGTHS, head)
    cached = TeacherOutputs(tmp_path, teacher, inputs, with_hidden)
    assert not cached.is_complete
    assert compute(cached, teacher) == [(1, 3), (2, 3), (3, 3)]
    assert cached.is_complete
    assert cached.num_parts == NUM_PARTS
    assert names(tmp_path) == [cached.key]
    assert names(tmp_path / cached.key) == [f"part-0000{i}.safetensors" for i in range(3)]
    again = TeacherOutputs(tmp_path, teacher, inputs, with_hidden)
    assert again.is_complete
    assert compute(again, teacher) == []
    for samples in ([0], [10, 3, 4], [7, 0, 7, 9], list(range(len(LENGTHS)))):
        outputs, hidden = again.of(samples)
        with torch.no_grad():
            expected = run_padded(teacher, inputs, samples)
        assert outputs.dtype == np.float32
        torch.testing.assert_close(
            torch.from_numpy(outputs), expected.outputs, rtol=1e-5, atol=1e-5
        )
        assert (hidden is not None) == with_hidden
        if hidden is not None:
            found = torch.from_numpy(hidden).float()
            torch.testing.assert_close(found, expected.hidden, rtol=2 * HALF, atol=1e-5)


@given(st.data())
def test_inputs_are_cut_where_parts_end(data):
    """Whatever the sizes: also where an input has no output, or a part a single input."""
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=9))
    rows = [data.draw(st.integers(0, length)) for length in lengths]
    part = data.draw(st.integers(1, 4))
    inputs = join(
        [[7] * length for length in lengths],
        [[0] * length for length in lengths],
        [list(range(number)) for number in rows],
        np.zeros(sum(rows), np.int64),
    )
    # In the place of files: each output says which input and which row of it it is.
    whole = [
        np.array([[sample, row] for row in range(number)], np.float32).reshape(-1, 2)
        for sample, number in enumerate(rows)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_outputs, "PART", part)
        cached = TeacherOutputs(Path("none"), make_model("bert", "token"), inputs, False)
        assert cached.num_parts == -(-len(lengths) // part)
        for index in range(cached.num_parts):
            values = np.concatenate(whole[index * part : (index + 1) * part])
            cached._parts[index] = {"outputs": values}
        samples = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
        outputs, _ = cached.of(samples)
    expected = np.concatenate([whole[sample] for sample in samples])
    assert outputs.tolist() == expected.tolist()


def test_processes_share_the_parts(small_parts, tmp_path, monkeypatch):
    """Each computes its own ones, after the first has looked what is missing."""
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    barrier = threading.Barrier(2, timeout=600)
    said: dict[int, list] = {}
    missing: list[int] = []

    def broadcast(values: list) -> None:
        missing.extend(values[0])  # the other process has nothing to say
        barrier.wait()
        values[0] = missing

    def work(rank: int) -> None:
        accelerator = SimpleNamespace(
            process_index=rank,
            num_processes=2,
            device=torch.device("cpu"),
            wait_for_everyone=barrier.wait,
        )
        own = TeacherOutputs(tmp_path, teacher, inputs, True)
        said[rank] = compute(own, teacher, accelerator)
        assert own.is_complete

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr("distilcli.distillation.teacher_outputs.broadcast_object_list", broadcast)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert said == {0: [(1, 2), (2, 2)], 1: [(1, 1)]}
    assert missing == [0, 1, 2]
    alone = TeacherOutputs(tmp_path / "alone", teacher, inputs, True)
    compute(alone, teacher)
    everything = list(range(len(LENGTHS)))
    together = TeacherOutputs(tmp_path, teacher, inputs, True)
    for one, other in zip(together.of(everything), alone.of(everything), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.1.output.LayerNorm.bias",
        "classifier.weight",
        "classifier.bias",
    ],
)
def test_another_weight_is_another_entry(name):
    """By as little as fp32 can tell."""
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    before = key_of(teacher, inputs)
    with torch.no_grad():
        flat = teacher.get_parameter(name).view(-1)
        flat[-1] = torch.nextafter(flat[-1], torch.tensor(torch.inf))
    assert key_of(teacher, inputs) != before


def change_norm(teacher: PreTrainedModel) -> None:
    teacher.config.layer_norm_eps = 1e-3


def change_activation(teacher: PreTrainedModel) -> None:
    teacher.config.hidden_act = "relu"


@pytest.mark.parametrize("change", [change_norm, change_activation])
def test_the_same_weights_put_to_another_use_are_another_entry(change):
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    before = key_of(teacher, inputs)
    change(teacher)
    assert key_of(teacher, inputs) != before


def test_another_precision_is_another_entry_where_it_rounds_nothing_too():
    inputs = make_inputs(LENGTHS, "token")
    exact = make_model("bert", "token").bfloat16().float()
    rounded = deepcopy(exact).bfloat16()
    assert all(
        torch.equal(one, other.float())
        for one, other in zip(exact.parameters(), rounded.parameters(), strict=True)
    )
    assert key_of(exact, inputs) != key_of(rounded, inputs)


ROWS = {
    "token_ids": [[2, 7, 8, 3], [2, 9, 3]],
    "token_types": [[0, 0, 1, 1], [0, 0, 1]],
    "output_positions": [[1, 2], [1]],
}


@pytest.mark.parametrize(
    "changed",
    [
        {"token_ids": [[2, 7, 9, 3], [2, 9, 3]]},
        {"token_ids": [[2, 9, 8, 3], [2, 7, 3]]},
        {"token_ids": [[2, 7, 8], [3, 2, 9, 3]], "token_types": [[0, 0, 1], [1, 0, 0, 1]]},
        {"token_types": [[0, 1, 1, 1], [0, 0, 1]]},
        {"output_positions": [[1, 3], [1]]},
        {"output_positions": [[1], [2, 1]]},
        {name: rows[:1] for name, rows in ROWS.items()},
        {name: rows[::-1] for name, rows in ROWS.items()},
        {name: [*rows, rows[0]] for name, rows in ROWS.items()},
    ],
    ids=[
        *("another token", "exchanged tokens", "cut elsewhere", "another type"),
        *("read elsewhere", "read by another input", "one less", "another order", "one more"),
    ],
)
def test_other_inputs_are_another_entry(changed):
    """Also where the same numbers, end to end, are only cut in another place."""
    teacher = make_model("bert", "token")
    targets = np.zeros(3, np.int64)
    entries = {key_of(teacher, join(**(ROWS | rows), targets=targets)) for rows in ({}, changed)}
    assert len(entries) == 2


def test_hidden_states_are_another_entry():
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    assert key_of(teacher, inputs, True) != key_of(teacher, inputs, False)


def test_what_does_not_matter_is_the_same_entry(tmp_path):
    """Else the teacher would run again for nothing: for other labels, or where it was moved to."""
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    before = key_of(teacher, inputs)
    assert key_of(teacher, replace(inputs, targets=inputs.targets + 1)) == before
    loaded = []
    for name in ("here", "there"):
        teacher.save_pretrained(tmp_path / name)
        loaded.append(type(teacher).from_pretrained(tmp_path / name))
    assert key_of(loaded[0], inputs) == key_of(loaded[1], inputs)
    assert weights_fingerprint(loaded[0]) == weights_fingerprint(loaded[1])
    # Nor that it has run.
    compute(TeacherOutputs(tmp_path / "cache", loaded[0], inputs, False), loaded[0])
    assert key_of(loaded[0], inputs) == key_of(loaded[1], inputs)
