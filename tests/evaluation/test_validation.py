"""Held-out scores against a plain computation, and the fixed mask."""

import math
from copy import deepcopy
from types import SimpleNamespace

import formulas
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from packed_batches import MASK, NUM_SPECIAL, padded, random_split

from distilcli.batches.masked import held_out_batches
from distilcli.evaluation import held_out
from distilcli.evaluation.calibration import calibration_bins, expected_calibration_error
from distilcli.evaluation.held_out import HeldOutScores, held_out_masker, held_out_scores
from distilcli.models.attention import use_packed_attention
from distilcli.models.copying import copy_layers

LENGTHS = [20, 11, 3, 40, 17, 17, 17, 8]


@pytest.fixture(scope="module")
def accelerator():
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def store(tiny_tokenizer):
    counts = np.arange(len(tiny_tokenizer), dtype=np.int64) ** 3
    manifest = SimpleNamespace(vocab_size=len(tiny_tokenizer))
    return SimpleNamespace(manifest=manifest, token_counts=counts)


@pytest.fixture
def batches(store, tiny_tokenizer):
    masker = held_out_masker(store, tiny_tokenizer, 0.3)
    split = random_split(LENGTHS, tiny_tokenizer)
    return list(held_out_batches(split, masker, len(LENGTHS), tokens_per_micro_batch=50))


@pytest.fixture
def teacher(tiny_bert):
    return tiny_bert()


@pytest.fixture
def student(teacher):
    return copy_layers(teacher, [0, 2])


def packed(model):
    use_packed_attention(model)
    return model


def plain_logits(model, batches) -> torch.Tensor:
    """Logits at the masked positions, in float64."""
    model = deepcopy(model).double().eval()
    model.set_attn_implementation("eager")
    logits = []
    for batch in batches:
        ids, real = padded(batch)
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=real.long()).logits[real]
        logits.append(found[batch.labels != -100])
    return torch.cat(logits)


@pytest.mark.parametrize("elements", [1 << 24, 100])
def test_scores_are_the_plain_computation(
    student, teacher, batches, accelerator, monkeypatch, elements
):
    monkeypatch.setattr(held_out, "_LOGIT_ELEMENTS", elements)
    z, v = plain_logits(student, batches), plain_logits(teacher, batches)
    labels = torch.cat([batch.labels[batch.labels != -100] for batch in batches])
    found = held_out_scores(packed(student), packed(teacher), batches, accelerator)
    count = len(labels)
    assert len(batches) > 1
    assert found.num_masked == count == sum(batch.num_masked for batch in batches)
    assert found.loss == pytest.approx(formulas.cross_entropy(z, labels).item() / count, rel=1e-5)
    assert found.accuracy == (z.argmax(-1) == labels).sum().item() / count
    assert found.agreement == (z.argmax(-1) == v.argmax(-1)).sum().item() / count
    assert 0 < found.agreement < 1
    assert found.flips == pytest.approx(1 - found.agreement)
    lost = (v.argmax(-1) == labels) & (z.argmax(-1) != labels)
    assert found.right_to_wrong == lost.sum().item() / count
    probabilities, said = z.softmax(-1).max(-1)
    bins = calibration_bins(probabilities, said == labels)
    assert found.ece == pytest.approx(expected_calibration_error(bins), rel=1e-5)
    assert found.ece > 0
    assert found.kl == pytest.approx(formulas.soft_target_kl(z, v, 1.0).item() / count, rel=1e-4)
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_teacher_agrees_with_itself(teacher, batches, accelerator):
    model = packed(teacher)
    found = held_out_scores(model, model, batches, accelerator)
    assert found.agreement == 1.0
    assert found.kl == 0.0
    assert (found.flips, found.right_to_wrong) == (0.0, 0.0)


def test_without_a_teacher_there_is_no_agreement(student, teacher, batches, accelerator):
    alone = held_out_scores(packed(student), None, batches, accelerator)
    beside = held_out_scores(student, packed(teacher), batches, accelerator)
    assert (alone.agreement, alone.kl) == (None, None)
    assert (alone.flips, alone.right_to_wrong) == (None, None)
    assert (alone.loss, alone.accuracy, alone.ece) == (beside.loss, beside.accuracy, beside.ece)


def test_a_student_in_training_is_judged_without_dropout_and_left_in_training(
    tiny_bert, batches, accelerator
):
    model = packed(tiny_bert(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5))
    for training in (True, False):
        model.train(training)
        scores = [held_out_scores(model, None, batches, accelerator) for _ in range(2)]
        assert scores[0] == scores[1]
        assert model.training == training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_sums_of_all_processes_are_divided_once(student, batches):
    """Each process brings its own batches; the loss is a mean over tokens, not over processes."""
    model = packed(student)
    brought: list[torch.Tensor] = []

    class Process:
        device = torch.device("cpu")

        def reduce(self, sums: torch.Tensor, how: str) -> torch.Tensor:
            assert how == "sum"
            brought.append(sums)
            return sum(one for one in brought if one.shape == sums.shape)

    whole = held_out_scores(model, None, batches, Process())
    brought.clear()
    held_out_scores(model, None, batches[:1], Process())
    last = held_out_scores(model, None, batches[1:], Process())
    assert last.num_masked == whole.num_masked
    assert last.loss == pytest.approx(whole.loss, rel=1e-12)
    assert last.accuracy == whole.accuracy
    assert last.ece == pytest.approx(whole.ece, rel=1e-12)


def test_no_batch_is_no_division_by_zero(student, accelerator):
    found = held_out_scores(packed(student), None, [], accelerator)
    assert (found.num_masked, found.loss, found.accuracy) == (0, 0.0, 0.0)


def test_perplexity():
    """The exponential of the loss, and infinity where that overflows."""
    scores = HeldOutScores(loss=math.log(50), accuracy=0.0, num_masked=1)
    assert scores.perplexity == pytest.approx(50)
    assert HeldOutScores(loss=0.0, accuracy=1.0, num_masked=1).perplexity == 1
    assert HeldOutScores(loss=800.0, accuracy=0.0, num_masked=1).perplexity == math.inf


# The fixed mask


def test_held_out_mask_shows_only_the_mask_token(batches):
    for batch in batches:
        assert (batch.input_ids[0, batch.masked_positions] == MASK).all()
        hidden = (batch.input_ids[0] == MASK).sum()
        assert hidden == batch.num_masked
        ordinary = torch.tensor(batch.lengths) - 2
        assert batch.num_masked == sum(max(1, math.floor(0.3 * n + 0.5)) for n in ordinary.tolist())


def test_held_out_mask_does_not_depend_on_counts(store, tiny_tokenizer):
    row = np.arange(NUM_SPECIAL, len(tiny_tokenizer), dtype=np.int32)
    arguments = row, np.array([len(row)]), np.array([4]), 0
    first = held_out_masker(store, tiny_tokenizer, 0.15).mask(*arguments)
    store.token_counts = store.token_counts[::-1].copy()
    again = held_out_masker(store, tiny_tokenizer, 0.15).mask(*arguments)
    for one, two in zip(first, again, strict=True):
        assert (one == two).all()
