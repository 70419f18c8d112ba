"""Jensen-Shannon against its formula, its gradient in closed form, and what follows from them."""

import math
from itertools import pairwise

import formulas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distilcli.losses.jensen_shannon import JensenShannon, jensen_shannon

TOKENS, VOCAB = 7, 11
each_temperature = pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
matrix = st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64).view(2, 3)
)


def randn(*shape: int, scale: float = 2.0, grad: bool = False) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_(grad)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at)[0]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@each_temperature
def test_it_is_the_formula(temperature):
    z, v = randn(TOKENS, VOCAB, grad=True), randn(TOKENS, VOCAB)
    found = jensen_shannon(z, v, temperature)
    expected = formulas.jensen_shannon(z, v, temperature)
    close(found, expected)
    close(gradient(found, z), gradient(expected, z))


@each_temperature
def test_gradient_in_closed_form(temperature):
    """T/2 q_i (log q_i - log m_i - KL(q || m)) of each token."""
    z, v = randn(TOKENS, VOCAB, grad=True), randn(TOKENS, VOCAB)
    q, p = (formulas.softmax(x.detach() / temperature) for x in (z, v))
    surplus = q.log() - ((p + q) / 2).log()
    divergence = (q * surplus).sum(dim=-1, keepdim=True)
    expected = temperature / 2 * q * (surplus - divergence)
    close(gradient(jensen_shannon(z, v, temperature), z), expected)


def test_autograd_agrees_with_finite_differences():
    z, v = randn(3, 5, grad=True), randn(3, 5)
    assert torch.autograd.gradcheck(lambda z: jensen_shannon(z, v, 2.0), (z,))
    of_each_class = JensenShannon(1.0, 2.0).of_each_class
    assert torch.autograd.gradcheck(lambda z: of_each_class(z, v), (z,))


def test_high_temperature_limit_is_a_quarter_of_that_of_soft_targets():
    """An eighth of the squared difference of centred logits, a mean over the vocabulary."""
    z, v = (x - x.mean(dim=-1, keepdim=True) for x in (randn(TOKENS, VOCAB), randn(TOKENS, VOCAB)))
    limit = formulas.squared_error(z, v) / 8
    errors = [abs(jensen_shannon(z, v, t) / limit - 1).item() for t in (1e2, 1e3, 1e4)]
    assert all(later < 0.2 * earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-4


@given(matrix, matrix, st.floats(0.5, 4.0))
def test_it_is_symmetric_and_bounded(z, v, temperature):
    found = jensen_shannon(z, v, temperature)
    close(jensen_shannon(v, z, temperature), found, 1e-10)
    assert -1e-12 <= found <= temperature**2 * math.log(2) * len(z) + 1e-12


def test_it_reaches_its_bound_and_stays_finite():
    """In fp32 each model gives a probability of 0 to what the other one is sure of."""
    z = torch.tensor([[200.0, -200.0]], requires_grad=True)
    found = jensen_shannon(z, torch.tensor([[-200.0, 200.0]]), 1.0)
    assert found.item() == pytest.approx(math.log(2))
    assert gradient(found, z).isfinite().all()


@given(matrix, matrix, st.floats(0.5, 4.0), st.floats(-50, 50), st.floats(-50, 50))
def test_zero_only_where_distributions_match_and_shifts_change_nothing(z, v, t, one, other):
    assert jensen_shannon(z, z + 1.0, t).abs() < 1e-12
    found = jensen_shannon(z, v, t)
    close(jensen_shannon(z + one, v + other, t), found, 1e-9)
    centred = z - v - (z - v).mean(dim=-1, keepdim=True)
    if centred.abs().max() > 0.1:
        assert found > 1e-8


@given(matrix, matrix, st.floats(0.5, 4.0))
def test_each_class_is_a_softmax_of_its_logit_and_zero(z, v, temperature):
    term = JensenShannon(1.0, temperature)
    q, p = (1 / (1 + (-x / temperature).exp()) for x in (z, v))
    plain = torch.zeros_like(z)
    for one in (q, p):
        plain += one * (2 * one / (p + q)).log() + (1 - one) * (2 * (1 - one) / (2 - p - q)).log()
    close(term.of_each_class(z, v), temperature**2 / 2 * plain.sum() / z.shape[1], 1e-9)


def test_numbers_have_no_distribution():
    with pytest.raises(ValueError, match="jensen_shannon compares distributions"):
        JensenShannon(1.0, 2.0).of_numbers(randn(3, 1), randn(3, 1))


def test_the_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature must be positive"):
        jensen_shannon(randn(2, 3), randn(2, 3), 0.0)
