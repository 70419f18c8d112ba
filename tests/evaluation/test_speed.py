"""Seconds of passes over inputs are those of the plain models, padded as a tokenizer does it."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_suites import regression_model
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from distilcli.evaluation import speed
from distilcli.models.attention import use_packed_attention
from distilcli.tasks.inputs import Inputs, join

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return regression_model(tmp_path_factory.mktemp("student"), 2, distilbert=True)


def inputs_of(lengths: list[int], typed: list[int]) -> Inputs:
    """Inputs whose tokens are all different; the last tokens of each are of a second text."""
    counter = itertools.count(5)
    ids = [[next(counter) for _ in range(length)] for length in lengths]
    types = [
        [0] * (length - min(length, ones)) + [1] * min(length, ones)
        for length, ones in zip(lengths, typed, strict=True)
    ]
    return join(ids, types, [[0]] * len(lengths), np.zeros(len(lengths), np.float32))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=8),
    st.data(),
    st.booleans(),
)
def test_padding_is_that_of_a_tokenizer(shapes, data, with_types):
    """Each row by itself, zeros to the right of it up to the longest that is chosen."""
    inputs = inputs_of(*(list(column) for column in zip(*shapes, strict=True)))
    samples = data.draw(st.lists(st.integers(0, len(shapes) - 1), min_size=1, max_size=6))
    batch = speed.padded(inputs, samples, with_types)
    width = max(shapes[sample][0] for sample in samples)
    first = np.cumsum([5, *(length for length, _ in shapes)])
    wanted: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
    types = []
    for sample in samples:
        length, ones = shapes[sample]
        empty = [0] * (width - length)
        wanted["input_ids"].append([*range(first[sample], first[sample] + length), *empty])
        wanted["attention_mask"].append([1] * length + empty)
        types.append([int(place >= length - ones) for place in range(length)] + empty)
    if with_types:
        wanted["token_type_ids"] = types
    assert {name: tensor.tolist() for name, tensor in batch.items()} == wanted
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


class Watched:
    """Models on whose passes a clock runs that only they move."""

    COSTS: ClassVar = {1: 1.0, 2: 1.5, 4: 2.0, 8: 2.5, 16: 90.0, 32: 90.0, 64: 90.0}

    def __init__(self, folders: dict[str, Path], late_call: int | None = None) -> None:
        load = AutoModelForSequenceClassification.from_pretrained
        self.models = {name: load(folder) for name, folder in folders.items()}
        self.now, self.late_call = 0.0, late_call
        self.calls: list[tuple[str, dict[str, Any]]] = []
        for name, model in self.models.items():
            model.train()
            model.bfloat16()
            use_packed_attention(model)  # as measuring scores leaves it
            model.register_forward_pre_hook(self._hook(name), with_kwargs=True)

    def _hook(self, name: str) -> Any:
        def hook(model: PreTrainedModel, positional: Any, named: dict[str, Any]) -> None:
            assert positional == ()
            assert not model.training
            assert not torch.is_grad_enabled()
            assert model.config._attn_implementation == "sdpa"
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
            self.calls.append((name, {key: tensor.tolist() for key, tensor in named.items()}))
            rows = len(named["input_ids"])
            size = next(size for size in self.COSTS if size >= rows)
            self.now += self.COSTS[size] * (1 if name == "slow" else 0.5)
            self.now += 1000.0 * (len(self.calls) == self.late_call)

        return hook


def test_passes_are_the_plain_models_and_their_medians(expert, student, monkeypatch):
    folders = {"slow": expert, "fast": student}
    # The 400th call is in a timed pass, one by one; one slow pass of three changes no median.
    watched = Watched(folders, late_call=400)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: watched.now))
    inputs = inputs_of([3 + index % 4 for index in range(64)], [index % 3 for index in range(64)])
    inputs.token_ids[:] = inputs.token_ids % 60
    notes: list[str] = []
    found = speed.measure_passes(watched.models, inputs, None, notes.append)
    assert len(watched.calls) > 2 * (3 * 64 + 3 * 8)
    for name, [one] in found.items():
        cost = 1.0 if name == "slow" else 0.5
        assert (one.device, one.inputs, one.best_batch_size) == ("cpu", 64, 8)
        assert one.single_seconds == pytest.approx(64 * cost)
        assert one.batched_seconds == pytest.approx(8 * 2.5 * cost)
    assert len(notes) == 1
    # BERT is told of second texts, DistilBERT knows none.
    assert all("token_type_ids" in batch for name, batch in watched.calls if name == "slow")
    assert all("token_type_ids" not in batch for name, batch in watched.calls if name == "fast")


@pytest.mark.parametrize(("wanted", "count"), [(None, 10), (4, 4), (10, 10), (99, 10)])
def test_fewer_inputs_are_spread_evenly(expert, monkeypatch, wanted, count):
    watched = Watched({"slow": expert})
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: watched.now))
    inputs = inputs_of([2] * 10, [0] * 10)
    [one] = speed.measure_passes(watched.models, inputs, wanted, lambda _: None)["slow"]
    assert one.inputs == count
    seen = {(row[0] - 5) // 2 for _, batch in watched.calls for row in batch["input_ids"]}
    assert seen == ({0, 2, 5, 7} if count == 4 else set(range(10)))
