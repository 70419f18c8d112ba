"""Reverse KL against its formula, its gradient in closed form, and what follows from them."""

from itertools import pairwise

import formulas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distilcli.losses.reverse_kl import ReverseKL, reverse_kl
from distilcli.losses.soft_targets import soft_target_kl

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
    found, expected = reverse_kl(z, v, temperature), formulas.reverse_kl(z, v, temperature)
    close(found, expected)
    close(gradient(found, z), gradient(expected, z))


@each_temperature
def test_gradient_in_closed_form(temperature):
    """T q_i (log q_i - log p_i - KL(q || p)) of each token."""
    z, v = randn(TOKENS, VOCAB, grad=True), randn(TOKENS, VOCAB)
    q, p = (formulas.softmax(x.detach() / temperature) for x in (z, v))
    surplus = q.log() - p.log()
    divergence = (q * surplus).sum(dim=-1, keepdim=True)
    close(gradient(reverse_kl(z, v, temperature), z), temperature * q * (surplus - divergence))


def test_autograd_agrees_with_finite_differences():
    z, v = randn(3, 5, grad=True), randn(3, 5)
    assert torch.autograd.gradcheck(lambda z: reverse_kl(z, v, 2.0), (z,))
    of_each_class = ReverseKL(1.0, 2.0).of_each_class
    assert torch.autograd.gradcheck(lambda z: of_each_class(z, v), (z,))


def test_high_temperature_limit_is_that_of_soft_targets():
    """Half the squared difference of centred logits, a mean over the vocabulary."""
    z, v = (x - x.mean(dim=-1, keepdim=True) for x in (randn(TOKENS, VOCAB), randn(TOKENS, VOCAB)))
    limit = formulas.squared_error(z, v) / 2
    errors = [abs(reverse_kl(z, v, t) / limit - 1).item() for t in (10.0, 100.0, 1000.0)]
    assert all(later < 0.2 * earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-2


def test_it_is_not_the_forward_divergence():
    """Which is large where the student misses a mode, and this one where it makes one up."""
    two_modes = torch.tensor([[5.0, 5.0, -5.0]])
    one_mode = torch.tensor([[5.0, -5.0, -5.0]])
    missed = reverse_kl(one_mode, two_modes, 1.0), soft_target_kl(one_mode, two_modes, 1.0)
    assert missed[0] < 1 < missed[1]
    made_up = reverse_kl(two_modes, one_mode, 1.0), soft_target_kl(two_modes, one_mode, 1.0)
    assert made_up[0] > 1 > made_up[1]


@given(matrix, matrix, st.floats(0.5, 4.0), st.floats(-50, 50), st.floats(-50, 50))
def test_zero_only_where_distributions_match_and_shifts_change_nothing(z, v, t, one, other):
    assert reverse_kl(z, z + 1.0, t).abs() < 1e-12
    close(reverse_kl(z + one, v + other, t), reverse_kl(z, v, t), 1e-9)
    found = reverse_kl(z, v, t)
    assert found >= -1e-12
    centred = z - v - (z - v).mean(dim=-1, keepdim=True)
    if centred.abs().max() > 0.1:
        assert found > 1e-8


@given(matrix, matrix, st.floats(0.5, 4.0))
def test_each_class_is_a_softmax_of_its_logit_and_zero(z, v, temperature):
    term = ReverseKL(1.0, temperature)
    q, p = (1 / (1 + (-x / temperature).exp()) for x in (z, v))
    plain = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    close(term.of_each_class(z, v), temperature**2 * plain.sum() / z.shape[1], 1e-9)


def test_it_stays_finite_where_probabilities_are_not():
    """In fp32 a teacher's probability may be 0, of which the logarithm is minus infinity."""
    z = torch.tensor([[200.0, -200.0]], requires_grad=True)
    v = torch.tensor([[-200.0, 200.0]])
    found = reverse_kl(z, v, 1.0)
    assert found.item() == pytest.approx(400.0)
    assert gradient(found, z).isfinite().all()


def test_numbers_have_no_distribution():
    with pytest.raises(ValueError, match="reverse_kl compares distributions"):
        ReverseKL(1.0, 2.0).of_numbers(randn(3, 1), randn(3, 1))


def test_the_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature must be positive"):
        reverse_kl(randn(2, 3), randn(2, 3), 0.0)
