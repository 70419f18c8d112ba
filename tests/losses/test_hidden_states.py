"""The distances of hidden states: closed forms, gradients, and how they stand to one another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distilcli.losses.hidden_cosine import hidden_cosine_distance
from distilcli.losses.hidden_states import HiddenStates, hidden_squared_error


def states(tokens: int = 5, width: int = 7, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, width, generator=draw, dtype=torch.float64)


def test_the_squared_error_is_a_mean_over_the_width_and_a_sum_over_tokens():
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    teacher = torch.tensor([[0.0, 4.0], [3.0, 0.0]])
    assert hidden_squared_error(student, teacher) == (1 + 4) / 2 + 9 / 2


@pytest.mark.parametrize("distance", [hidden_squared_error, hidden_cosine_distance])
def test_gradients_by_finite_differences(distance):
    student, teacher = states().requires_grad_(), states(seed=1)
    torch.autograd.gradcheck(lambda one: distance(one, teacher), student)
    # And of the squared error in closed form.
    [gradient] = torch.autograd.grad(hidden_squared_error(student, teacher), student)
    torch.testing.assert_close(gradient, 2 * (student.detach() - teacher) / 7)


@given(st.integers(0, 1000), st.floats(0.1, 10.0))
def test_the_cosine_is_half_of_pkds_error_of_normalised_states(seed, factor):
    """L_PT of Sun et al. 2019: the squared distance of states divided by their norms."""
    student, teacher = factor * states(seed=seed), states(seed=seed + 1)
    divided = (one / one.square().sum(-1, keepdim=True).sqrt() for one in (student, teacher))
    one, other = divided
    error = (one - other).square().sum()
    torch.testing.assert_close(hidden_cosine_distance(student, teacher), error / 2)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_layers_are_added_up(distance):
    term = HiddenStates(1.0, 2.0, distance=distance)
    pairs = [(states(seed=i).float(), states(seed=i + 10).float()) for i in range(3)]
    alone = [term.sum([pair], [5]) for pair in pairs]
    torch.testing.assert_close(term.sum(pairs, [5]), sum(alone))
    assert term.sum([(pairs[0][0], pairs[0][0])], [5]) == pytest.approx(0.0, abs=1e-5)


def test_half_precision_is_compared_in_fp32():
    student, teacher = (states(seed=seed).bfloat16() for seed in (0, 1))
    term = HiddenStates(1.0, 2.0)
    found = term.sum([(student, teacher)], [5])
    assert found.dtype == torch.float32
    assert found == hidden_squared_error(student.float(), teacher.float())
