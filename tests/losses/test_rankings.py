"""Losses on the candidates of queries, against their formulas written plainly, pair by pair."""

import math

import numpy as np
import pytest
import torch

from distilcli.losses.candidates import by_query, candidates_of, is_labelled, num_pairs
from distilcli.losses.labels import listwise_cross_entropy
from distilcli.losses.listwise import Listwise
from distilcli.losses.margin_mse import MarginMSE, compared_pairs, margin_mse
from distilcli.losses.terms import Counts, Rows
from distilcli.tasks.outputs import Relevance

NONE = float("nan")
SIZES = (3, 1, 2, 2, 4)
LABELS = [[1, 0, NONE], [1], [NONE, NONE], [0, 0], [2, 0, 1, 0]]
# Relevant ones with the others, an unlabelled one among these; where none is, all pairs once.
PAIRS = [
    {(0, 1), (0, 2)},
    set(),
    {(0, 1)},
    {(0, 1)},
    {(0, 1), (0, 2), (0, 3), (2, 1), (2, 3)},
]


def scores(seed: int, grad: bool = False) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(0, 2, (sum(SIZES), 1))
    return torch.tensor(drawn, requires_grad=grad)


def rows(student: torch.Tensor, *teachers: torch.Tensor, shares=(1.0,)) -> Rows:
    labels = torch.tensor([label for row in LABELS for label in row], dtype=torch.float64)
    return Rows(Relevance(), student, teachers, labels, shares, SIZES)


def queries(values: torch.Tensor) -> list[list[float]]:
    return [part[:, 0].tolist() for part in values.detach().split(SIZES)]


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def test_margin_mse_is_its_formula_pair_by_pair():
    student, teacher = scores(1), scores(2)
    expected = 0.0
    for z, v, pairs in zip(queries(student), queries(teacher), PAIRS, strict=True):
        expected += sum(((z[i] - z[j]) - (v[i] - v[j])) ** 2 for i, j in pairs)
    found = MarginMSE(1.0, 1.0).sum_of_rows(rows(student, teacher))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_pairs_are_counted_as_they_are_compared():
    for labels, pairs in zip(LABELS, PAIRS, strict=True):
        compared = compared_pairs(torch.tensor([labels], dtype=torch.float32))[0]
        assert set(map(tuple, compared.nonzero().tolist())) == pairs
        assert num_pairs(np.array(labels, dtype=np.float32)) == len(pairs)


@pytest.mark.parametrize("seed", range(20))
def test_pairs_of_any_labels_are_counted_as_they_are_compared(seed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, draw.integers(1, 8)).astype(np.float32)
    labels[draw.random(len(labels)) < 0.3] = NONE
    assert num_pairs(labels) == int(compared_pairs(torch.from_numpy(labels)[None]).sum())


def test_counts_of_a_micro_batch():
    labels = np.array([label for row in LABELS for label in row], dtype=np.float32)
    found = candidates_of(labels, SIZES)
    assert (found.sizes, found.lists, found.labelled, found.pairs) == (SIZES, 4, 2, 9)
    counts = Counts(99, 12, found.labelled, found.lists, found.pairs)
    assert [term(1.0, 1.0).count(counts) for term in (MarginMSE, Listwise)] == [9, 4]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 0], True), ([1], False), ([1, NONE], False), ([0, 0], False), ([2, 2], True)],
)
def test_a_query_counts_where_labels_say_something(labels, expected):
    assert is_labelled(np.array(labels, dtype=np.float32)) is expected


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_listwise_is_the_divergence_of_each_query(temperature):
    student, teacher = scores(1), scores(2)
    expected = 0.0
    for z, v in zip(queries(student), queries(teacher), strict=True):
        p, q = (softmax([value / temperature for value in one]) for one in (v, z))
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = Listwise(1.0, temperature).sum_of_rows(rows(student, teacher))
    assert found.item() == pytest.approx(temperature**2 * expected, rel=1e-12)


def test_several_teachers_are_averaged_in_both():
    student, one, other = scores(1), scores(2), scores(3)
    both = rows(student, one, other, shares=(0.25, 0.75))
    expected = 0.0
    for z, v, w in zip(*map(queries, (student, one, other)), strict=True):
        mean = [0.25 * a + 0.75 * b for a, b in zip(softmax(v), softmax(w), strict=True)]
        expected += sum(a * math.log(a / b) for a, b in zip(mean, softmax(z), strict=True))
    assert Listwise(1.0, 1.0).sum_of_rows(both).item() == pytest.approx(expected, rel=1e-9)
    margins = MarginMSE(1.0, 1.0)
    expected = margins.sum_of_rows(rows(student, 0.25 * one + 0.75 * other)).item()
    assert margins.sum_of_rows(both).item() == pytest.approx(expected, rel=1e-12)


def test_labels_are_a_distribution_over_the_candidates_that_have_one():
    student = scores(1)
    expected = 0.0
    for z, labels in zip(queries(student), LABELS, strict=True):
        known = [(value, label) for value, label in zip(z, labels, strict=True) if label == label]
        total = sum(label for _, label in known)
        if total:
            q = softmax([value for value, _ in known])
            expected -= sum(y / total * math.log(p) for (_, y), p in zip(known, q, strict=True))
    found = Relevance().hard(rows(student))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_labels_of_any_size_count_as_shares():
    z = torch.tensor([[0.5, -1.0, 2.0]])
    expected = listwise_cross_entropy(z, torch.tensor([[1.0, 0.0, 3.0]]))
    for factor in (1e-30, 1e38):
        labels = torch.tensor([[1.0, 0.0, 3.0]]) * factor
        assert listwise_cross_entropy(z, labels).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("loss", ["margin_mse", "listwise", "labels"])
def test_a_constant_added_to_a_query_changes_nothing(loss):
    student, teacher = scores(1), scores(2)
    shift = torch.repeat_interleave(torch.arange(5.0) * 7, torch.tensor(SIZES))[:, None]
    sums = {
        "margin_mse": MarginMSE(1.0, 1.0).sum_of_rows,
        "listwise": Listwise(1.0, 2.0).sum_of_rows,
        "labels": Relevance().hard,
    }
    expected = sums[loss](rows(student, teacher)).item()
    assert expected > 0.1
    assert sums[loss](rows(student + shift, teacher)).item() == pytest.approx(expected, rel=1e-9)


def test_gradients_are_those_of_finite_differences():
    teacher = scores(2)
    student = scores(1, grad=True)
    for sum_of in (
        lambda z: MarginMSE(1.0, 1.0).sum_of_rows(rows(z, teacher)),
        lambda z: Listwise(1.0, 2.0).sum_of_rows(rows(z, teacher)),
        lambda z: Relevance().hard(rows(z)),
    ):
        assert torch.autograd.gradcheck(sum_of, (student,))


def test_the_same_scores_have_no_loss_and_no_gradient():
    student = scores(1, grad=True)
    for term in (MarginMSE(1.0, 1.0), Listwise(1.0, 2.0)):
        total = term.sum_of_rows(rows(student, student.detach()))
        [gradient] = torch.autograd.grad(total, student)
        assert total.item() == pytest.approx(0, abs=1e-12)
        assert gradient.abs().max().item() < 1e-12


def test_a_lone_candidate_has_a_gradient_of_zero():
    """And not none at all, which would freeze the student."""
    z = torch.tensor([[0.3]], requires_grad=True)
    alone = Rows(Relevance(), z, [torch.tensor([[1.0]])], torch.tensor([NONE]), (1.0,), (1,))
    sums = [term.sum_of_rows(alone) for term in (MarginMSE(1.0, 1.0), Listwise(1.0, 1.0))]
    for total in (*sums, Relevance().hard(alone)):
        [gradient] = torch.autograd.grad(total, z)
        assert (total.item(), gradient.item()) == (0, 0)


def test_candidates_of_equally_large_queries_are_taken_together():
    values = torch.arange(8)
    blocks = [block.tolist() for [block] in by_query([values], (2, 2, 1, 3))]
    assert blocks == [[[0, 1], [2, 3]], [[4]], [[5, 6, 7]]]


def test_one_margin_by_hand():
    student, teacher = torch.tensor([[3.0, 1.0]]), torch.tensor([[10.0, 4.0]])
    assert margin_mse(student, teacher, torch.tensor([[0.0, 1.0]])).item() == 16.0
