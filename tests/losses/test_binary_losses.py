"""Losses of classes that are each right or not, against their formulas."""

import formulas
import pytest
import torch
from binary_formulas import logistic, plain_binary_cross_entropy, plain_binary_kl
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from distilcli.losses.labels import binary_cross_entropy
from distilcli.losses.soft_targets import binary_soft_target_kl, soft_target_kl

ROWS, CLASSES = 5, 4
TEMPERATURES = [0.5, 1.0, 2.0, 10.0]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


def randn(*shape: int, scale: float = 2.0, grad: bool = False) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_(grad)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at)[0]


def targets_of(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape).double()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_binary_soft_targets_are_the_formula(temperature):
    z, v = randn(ROWS, CLASSES, grad=True), randn(ROWS, CLASSES)
    found, expected = (f(z, v, temperature) for f in (binary_soft_target_kl, plain_binary_kl))
    close(found, expected)
    close(gradient(found, z), gradient(expected, z))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_of_binary_soft_targets_in_closed_form(temperature):
    z, v = randn(ROWS, CLASSES, grad=True), randn(ROWS, CLASSES)
    q, p = logistic(z / temperature).detach(), logistic(v / temperature)
    found = gradient(binary_soft_target_kl(z, v, temperature), z)
    close(found, temperature * (q - p) / CLASSES)


def test_binary_hard_targets_are_the_formula():
    z, targets = randn(ROWS, CLASSES, grad=True), targets_of(ROWS, CLASSES)
    found, expected = (f(z, targets) for f in (binary_cross_entropy, plain_binary_cross_entropy))
    close(found, expected)
    close(gradient(found, z), (logistic(z.detach()) - targets) / CLASSES)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_each_class_is_a_softmax_of_its_logit_and_zero(temperature):
    z, v = randn(ROWS, CLASSES), randn(ROWS, CLASSES)
    pairs = [torch.stack([x.flatten(), torch.zeros(ROWS * CLASSES)], dim=1) for x in (z, v)]
    expected = soft_target_kl(*pairs, temperature) / CLASSES
    close(binary_soft_target_kl(z, v, temperature), expected)
    targets = targets_of(ROWS, CLASSES)
    chosen = formulas.cross_entropy(pairs[0], 1 - targets.flatten().long())
    close(binary_cross_entropy(z, targets), chosen / CLASSES)


def test_gradcheck_of_binary_losses():
    z, v, targets = randn(3, 4, grad=True), randn(3, 4), targets_of(3, 4)
    assert torch.autograd.gradcheck(lambda z: binary_soft_target_kl(z, v, 2.0), (z,))
    assert torch.autograd.gradcheck(lambda z: binary_cross_entropy(z, targets), (z,))


matrix = st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6).map(
    lambda x: torch.tensor(x, dtype=torch.float64).view(2, 3)
)


@given(matrix, matrix, st.floats(0.5, 4.0))
def test_binary_soft_targets_are_zero_only_where_probabilities_match(z, v, temperature):
    assert binary_soft_target_kl(z, z.clone(), temperature) == 0
    found = binary_soft_target_kl(z, v, temperature)
    assert found >= -1e-12
    if (z - v).abs().max() > 0.1:
        assert found > 1e-7


@given(matrix, matrix, st.floats(0.5, 4.0))
def test_binary_losses_are_symmetric_in_right_and_wrong(z, v, temperature):
    """No class is worth more for being right than another for being wrong."""
    close(
        binary_soft_target_kl(-z, -v, temperature), binary_soft_target_kl(z, v, temperature), 1e-10
    )
    targets = (v > 0).double()
    close(binary_cross_entropy(-z, 1 - targets), binary_cross_entropy(z, targets), 1e-10)
    assert binary_cross_entropy(z, targets) >= 0


def test_binary_losses_stay_finite_where_probabilities_are_not():
    """In fp32 a logistic of 200 is 1, of which the logarithm of the rest is minus infinity."""
    z = torch.tensor([[200.0, -200.0, 30.0]], requires_grad=True)
    v = torch.tensor([[-200.0, 200.0, 30.0]])
    found = binary_soft_target_kl(z, v, 1.0)
    assert found.item() == pytest.approx(400 / 3)
    close(gradient(found, z), torch.tensor([[1 / 3, -1 / 3, 0.0]]), 1e-6)
    hard = binary_cross_entropy(z, torch.tensor([[0.0, 1.0, 1.0]]))
    assert hard.item() == pytest.approx(400 / 3)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_the_temperature_of_binary_soft_targets_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        binary_soft_target_kl(randn(2, 3), randn(2, 3), temperature)


def test_shapes_of_binary_losses_are_checked():
    with pytest.raises(TypeCheckError):
        binary_soft_target_kl(randn(2, 3), randn(2, 1), 2.0)
    with pytest.raises(TypeCheckError):
        binary_cross_entropy(randn(2, 3), randn(2))
