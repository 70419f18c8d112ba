"""The losses against their formulas, their closed-form gradients and the 2019 definitions."""

from itertools import pairwise

import formulas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from distilcli.losses.hidden_cosine import hidden_cosine_distance
from distilcli.losses.logit_mse import logit_squared_error
from distilcli.losses.masked_lm import masked_lm_cross_entropy
from distilcli.losses.soft_targets import soft_target_kl

TOKENS, VOCAB = 7, 11
TEMPERATURES = [0.5, 1.0, 2.0, 10.0]


def randn(*shape: int, scale: float = 2.0, grad: bool = False) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_(grad)


def labels_of(number: int) -> Tensor:
    return torch.randint(0, VOCAB, (number,))


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(dim=-1, keepdim=True)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at)[0]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# Each loss alone


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_targets_are_the_formula(temperature):
    z, v = randn(TOKENS, VOCAB, grad=True), randn(TOKENS, VOCAB)
    found, expected = (f(z, v, temperature) for f in (soft_target_kl, formulas.soft_target_kl))
    close(found, expected)
    close(gradient(found, z), gradient(expected, z))


def test_hard_targets_are_the_formula():
    z, labels = randn(TOKENS, VOCAB, grad=True), labels_of(TOKENS)
    found, expected = masked_lm_cross_entropy(z, labels), formulas.cross_entropy(z, labels)
    close(found, expected)
    close(gradient(found, z), gradient(expected, z))
    one_hot = torch.eye(VOCAB, dtype=torch.float64)[labels]
    close(gradient(masked_lm_cross_entropy(z, labels), z), formulas.softmax(z) - one_hot)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (logit_squared_error, formulas.squared_error),
        (hidden_cosine_distance, formulas.cosine_distance),
    ],
)
def test_distances_are_the_formulas(loss, formula):
    student, teacher = randn(TOKENS, VOCAB, grad=True), randn(TOKENS, VOCAB)
    found, expected = loss(student, teacher), formula(student, teacher)
    close(found, expected)
    close(gradient(found, student), gradient(expected, student))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_of_soft_targets_in_closed_form(temperature):
    """Of T^2 KL it is T (q - p); of the cross-entropy with soft targets (q - p) / T."""
    z, v = randn(TOKENS, VOCAB, grad=True), randn(TOKENS, VOCAB)
    q, p = formulas.softmax(z / temperature).detach(), formulas.softmax(v / temperature)
    close(gradient(soft_target_kl(z, v, temperature), z), temperature * (q - p))
    cross_entropy = -(p * torch.log_softmax(z / temperature, dim=-1)).sum()
    close(gradient(cross_entropy, z), (q - p) / temperature)
    # The two differ by T^2 and by the entropy of p, which does not depend on z.
    entropy = -(p * p.log()).sum()
    close(soft_target_kl(z, v, temperature), temperature**2 * (cross_entropy - entropy))


def test_high_temperature_matches_logits():
    """Hinton et al. 2015, eq. 4: d CE / d z_i -> (z_i - v_i) / (N T^2) for centred logits."""
    z, v = (centred(randn(TOKENS, VOCAB)) for _ in range(2))
    z.requires_grad_()
    errors = []
    for temperature in (10.0, 100.0, 1_000.0, 10_000.0):
        found = gradient(soft_target_kl(z, v, temperature), z) / temperature**2
        limit = (z.detach() - v) / (VOCAB * temperature**2)
        errors.append(((found - limit).norm() / limit.norm()).item())
    assert all(later < 0.15 * earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-3


def test_squared_error_is_twice_the_high_temperature_limit():
    z, v = (centred(randn(TOKENS, VOCAB)) for _ in range(2))
    assert logit_squared_error(z, v).item() == pytest.approx(
        2 * soft_target_kl(z, v, 1e4).item(), rel=1e-3
    )


def test_gradcheck_of_each_loss():
    z, v, labels = randn(3, 5, grad=True), randn(3, 5), torch.tensor([0, 4, 2])
    for loss in (
        lambda z: soft_target_kl(z, v, 2.0),
        lambda z: masked_lm_cross_entropy(z, labels),
        lambda z: logit_squared_error(z, v),
        lambda z: hidden_cosine_distance(z, v),
    ):
        assert torch.autograd.gradcheck(loss, (z,))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        soft_target_kl(randn(2, 3), randn(2, 3), temperature)


def test_losses_are_those_of_2019_up_to_the_count():
    """The reference averaged each term: over tokens, masked tokens, tokens, and all logits."""
    temperature, masked = 2.0, 3
    z, v, labels = randn(TOKENS, VOCAB), randn(TOKENS, VOCAB), labels_of(masked)
    kl = nn.KLDivLoss(reduction="batchmean")(
        torch.log_softmax(z / temperature, dim=-1), torch.softmax(v / temperature, dim=-1)
    )
    close(soft_target_kl(z, v, temperature) / TOKENS, kl * temperature**2)
    all_labels = torch.full((TOKENS,), -100)
    all_labels[:masked] = labels
    mlm = nn.CrossEntropyLoss(ignore_index=-100)(z, all_labels)
    close(masked_lm_cross_entropy(z[:masked], labels) / masked, mlm)
    cosine = nn.CosineEmbeddingLoss(reduction="mean")(z, v, z.new_ones(TOKENS))
    close(hidden_cosine_distance(z, v) / TOKENS, cosine)
    close(logit_squared_error(z, v) / TOKENS, nn.MSELoss()(z, v))


def test_shapes_are_checked_while_tests_run():
    """Else the import hook of conftest.py came too late."""
    with pytest.raises(TypeCheckError):
        soft_target_kl(randn(2, 3), randn(1, 3), 2.0)
    with pytest.raises(TypeCheckError):
        masked_lm_cross_entropy(randn(2, 3), randn(2))


# Properties


def matrices(bound: float) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Two float64 matrices of equal shape, entries within the bound."""

    def pair(shape: tuple[int, int]) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
        size = shape[0] * shape[1]
        entries = st.lists(st.floats(-bound, bound, width=32), min_size=size, max_size=size)
        matrix = entries.map(lambda x: torch.tensor(x, dtype=torch.float64).view(shape))
        return st.tuples(matrix, matrix)

    return st.tuples(st.integers(1, 3), st.integers(2, 6)).flatmap(pair)


@given(matrices(20.0), st.floats(0.5, 8.0), st.floats(-50, 50), st.floats(-50, 50))
def test_logits_may_be_shifted(pair, temperature, student_shift, teacher_shift):
    z, v = pair
    shifts = torch.linspace(0.5, 1.5, len(z), dtype=torch.float64)[:, None]
    shifted = soft_target_kl(z + student_shift * shifts, v + teacher_shift * shifts, temperature)
    close(shifted, soft_target_kl(z, v, temperature), 1e-9)
    labels = z.argmin(dim=-1)
    moved = masked_lm_cross_entropy(z + student_shift * shifts, labels)
    close(moved, masked_lm_cross_entropy(z, labels), 1e-9)


@given(matrices(20.0), st.floats(0.5, 8.0))
def test_no_loss_is_negative(pair, temperature):
    z, v = pair
    rounding = 1e-11
    assert soft_target_kl(z, v, temperature) >= -rounding
    assert masked_lm_cross_entropy(z, v.argmax(dim=-1)) >= 0
    assert logit_squared_error(z, v) >= 0
    assert -rounding <= hidden_cosine_distance(z, v) <= 2 * len(z) + rounding


@given(matrices(3.0), st.floats(0.5, 4.0))
def test_soft_targets_are_zero_only_where_distributions_match(pair, temperature):
    z, v = pair
    assert soft_target_kl(z, z + 1.0, temperature).abs() < 1e-12
    z.requires_grad_()
    assert gradient(soft_target_kl(z, z.detach(), temperature), z).abs().max() < 1e-12
    if centred(z.detach() - v).abs().max() > 0.1:
        assert soft_target_kl(z, v, temperature) > 1e-7


@given(matrices(3.0), st.floats(0.1, 10.0))
def test_cosine_distance_ignores_length(pair, scale):
    student, teacher = pair
    if min(student.norm(dim=-1).min(), teacher.norm(dim=-1).min()) < 1e-3:
        return  # the cosine of a zero vector is no angle
    close(
        hidden_cosine_distance(scale * student, teacher),
        hidden_cosine_distance(student, teacher),
        1e-9,
    )
    assert hidden_cosine_distance(student, scale * student).abs() < 1e-12
    close(hidden_cosine_distance(student, -student), torch.tensor(2.0).double() * len(student))
