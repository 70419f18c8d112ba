"""Several teachers are the mean of their distributions, at the temperature of every term."""

import formulas
import pytest
import torch
from fused_terms import (
    TERMS,
    TOKENS,
    VOCAB,
    close,
    fused,
    gradients,
    labels_of,
    logits_of,
    projections,
    randn,
)
from live_elements import LiveElements
from torch import Tensor

from distilcli.losses.fused_head import fused_vocabulary_losses
from distilcli.losses.projections import Mixture, Projection
from distilcli.losses.soft_targets import SoftTargets
from distilcli.losses.terms import Divergence, Rows
from distilcli.tasks.outputs import AnyOf, Number, OneOf, Spans

SHARES = (0.5, 0.2, 0.3)
DIVERGENCES = [name for name, term in TERMS.items() if issubclass(term, Divergence)]
each_divergence = pytest.mark.parametrize("name", DIVERGENCES)
each_temperature = pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])


def teachers_of(number: int, tokens: int = TOKENS) -> list[Projection]:
    """Teachers of different widths."""
    return [
        Projection(randn(tokens, 4 + i), randn(VOCAB, 4 + i), randn(VOCAB)) for i in range(number)
    ]


def mean(teachers: list[Tensor], temperature: float) -> Tensor:
    """The mean of the softened distributions, plainly."""
    parts = zip(teachers, SHARES, strict=True)
    return sum(share * formulas.softmax(v / temperature) for v, share in parts)


@each_divergence
@each_temperature
@pytest.mark.parametrize(("chunk", "rows"), [(3, 4), (3, 0), (TOKENS, None)])
def test_a_divergence_is_that_from_the_mean(name, temperature, chunk, rows):
    student, _ = projections()
    teachers = teachers_of(3)
    found = fused(
        student, Mixture(teachers, SHARES), labels_of(0), [name], temperature, chunk, rows
    )
    # T * log p are logits of the mean, and the formula takes their softmax.
    v = temperature * mean([logits_of(one) for one in teachers], temperature).log()
    expected = formulas.DIVERGENCES[name](logits_of(student), v, temperature)
    close(found.sums[0], expected.detach())
    coefficient = 0.2 + 0.3 * list(TERMS).index(name)
    pairs = zip(
        gradients(found.total, student), gradients(coefficient * expected, student), strict=True
    )
    for one, other in pairs:
        close(one, other)


@each_temperature
def test_the_gradient_of_soft_targets_is_towards_the_mean_itself(temperature):
    student, _ = projections()
    teachers = teachers_of(3)
    found = fused(student, Mixture(teachers, SHARES), labels_of(0), ["soft_targets"], temperature)
    q = formulas.softmax(logits_of(student).detach() / temperature)
    p = mean([logits_of(one) for one in teachers], temperature)
    close(gradients(found.total, student)[2], 0.2 * temperature * (q - p).sum(dim=0))


@each_temperature
def test_a_teacher_with_itself_is_that_teacher(temperature):
    student, teacher = projections()
    labels, names = labels_of(4), [*DIVERGENCES, "masked_lm"]
    alone = fused(student, teacher, labels, names, temperature, 3, 4)
    of_alone = gradients(alone.total, student)
    twice = fused(student, Mixture([teacher] * 2, (0.7, 0.3)), labels, names, temperature, 3, 4)
    one = fused(student, Mixture([teacher], (1.0,)), labels, names, temperature, 3, 4)
    for found in (twice, one):
        close(found.sums, alone.sums)
        for mine, expected in zip(gradients(found.total, student), of_alone, strict=True):
            close(mine, expected)


def test_each_term_has_the_mean_at_its_own_temperature():
    student, _ = projections()
    teachers = Mixture(teachers_of(3), SHARES)
    temperatures = dict(zip(DIVERGENCES, (0.7, 2.0, 5.0), strict=True))
    terms = [TERMS[name](1.0, temperature) for name, temperature in temperatures.items()]
    ones = [torch.ones((), dtype=torch.float64)] * 3
    together = fused_vocabulary_losses(student, teachers, labels_of(0), terms, ones, 3, 4)
    for place, (name, temperature) in enumerate(temperatures.items()):
        alone = fused(student, teachers, labels_of(0), [name], temperature)
        close(together.sums[place], alone.sums[0])


def test_the_temperature_may_change_from_step_to_step():
    student, _ = projections()
    teachers, term = Mixture(teachers_of(3), SHARES), SoftTargets(1.0, 4.0)
    one = [torch.ones((), dtype=torch.float64)]
    for temperature in (4.0, 1.0):
        term.temperature = temperature
        found = fused_vocabulary_losses(student, teachers, labels_of(0), [term], one)
        expected = fused(student, teachers, labels_of(0), ["soft_targets"], temperature)
        close(found.sums, expected.sums)


def test_a_term_on_the_logits_themselves_is_refused():
    student, _ = projections()
    with pytest.raises(ValueError, match="no logits but those at a temperature"):
        fused(student, Mixture(teachers_of(3), SHARES), labels_of(0), ["logit_mse"])


@pytest.mark.parametrize(
    ("autocast", "tolerance"), [(False, 2e-6), (True, 2.0**-7)], ids=["fp32", "bf16"]
)
def test_lower_precision_is_the_formula_within_its_rounding(autocast, tolerance):
    student, _ = projections(64)
    teachers = teachers_of(3, 64)
    small = Projection(*(tensor.detach().float().requires_grad_() for tensor in student))
    low = [Projection(*(tensor.float() for tensor in one)) for one in teachers]
    if autocast:
        low[1] = low[1]._replace(weight=low[1].weight.bfloat16())  # each is left as it is held
    rounded = [Projection(*(tensor.double() for tensor in one)) for one in low]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = fused(
            small, Mixture(low, SHARES), labels_of(0), ["soft_targets"], 2.0, dtype=torch.float32
        )
    v = 2.0 * mean([logits_of(one) for one in rounded], 2.0).log()
    expected = formulas.soft_target_kl(logits_of(student), v, 2.0)
    assert found.sums.item() == pytest.approx(expected.item(), rel=tolerance)


def test_what_all_teachers_find_impossible_is_not_lost():
    """Probabilities below the smallest number still have a logarithm."""
    bias = torch.tensor([0.0, -500.0, -900.0])
    nothing = torch.zeros(2, 1), torch.zeros(3, 1)
    student = Projection(torch.zeros(2, 1, requires_grad=True), nothing[1], torch.zeros(3))
    teachers = [Projection(*nothing, bias), Projection(*nothing, bias)]
    one = [torch.ones(())]
    term = [TERMS["reverse_kl"](1.0, 1.0)]
    mixed = fused_vocabulary_losses(
        student, Mixture(teachers, (0.5, 0.5)), labels_of(0), term, one, 1, 2
    )
    alone = fused_vocabulary_losses(student, teachers[0], labels_of(0), term, one, 1, 2)
    assert mixed.sums.item() == pytest.approx(alone.sums.item(), rel=1e-6)
    assert mixed.sums.item() > 900


@pytest.mark.slow
def test_beside_the_mixture_lie_the_logits_of_one_teacher():
    tokens, vocab, chunk = 256, 30_522, 32
    student, *teachers = (
        Projection(torch.randn(tokens, 4), torch.randn(vocab, 4), torch.randn(vocab))
        for _ in range(5)
    )
    for tensor in student:
        tensor.requires_grad_()
    with LiveElements() as elements:
        fused(
            student,
            Mixture(teachers, (0.1, 0.2, 0.3, 0.4)),
            labels_of(9),
            ["soft_targets", "masked_lm"],
            2.0,
            chunk,
            dtype=torch.float32,
        ).total.backward()
    logits = 3 * chunk * vocab  # of the student, of one teacher, of the mixture
    assert logits < elements.peak < logits + 8 * 1_024 * chunk + 4 * 4 * (tokens + vocab)


# Outputs of a task


@each_temperature
@pytest.mark.parametrize("kind", [OneOf(), Spans()], ids=["classes", "spans"])
def test_of_classes_it_is_the_mean_of_distributions(kind, temperature):
    teachers = [randn(5, 4, scale=3.0) for _ in SHARES]
    mixed = kind.mixed(teachers, SHARES, temperature)
    close(formulas.softmax(mixed / temperature), mean(teachers, temperature))


@each_temperature
def test_of_each_class_it_is_the_mean_of_probabilities(temperature):
    teachers = [randn(5, 4, scale=3.0) for _ in SHARES]
    mixed = AnyOf().mixed(teachers, SHARES, temperature)
    parts = zip(teachers, SHARES, strict=True)
    expected = sum(share / (1 + (-v / temperature).exp()) for v, share in parts)
    close(1 / (1 + (-mixed / temperature).exp()), expected)


def test_numbers_are_averaged_by_their_shares():
    teachers = [torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [0.0]]), torch.zeros(2, 1)]
    close(Number().mixed(teachers, SHARES, 2.0), torch.tensor([[0.9], [2.0]]), 1e-6)


def test_places_beyond_an_input_stay_without_a_share():
    """Starts and ends of shorter inputs are filled up; a mean of that is no NaN."""
    filled = torch.tensor([[1.0, -1e30, -1e30], [2.0, 1.0, 0.0]])
    for temperature in (0.01, 2.0, 1000.0):
        mixed = Spans().mixed([filled, filled + 1.0], (0.5, 0.5), temperature)
        assert torch.softmax(mixed / temperature, dim=-1)[0].tolist() == [1.0, 0.0, 0.0]


@each_divergence
@pytest.mark.parametrize("kind", [OneOf(), AnyOf()], ids=["one of", "any of"])
def test_a_term_is_shown_the_mean_at_its_temperature(name, kind):
    teachers, term = [randn(5, 4) for _ in SHARES], TERMS[name](1.0, 3.0)
    student = randn(5, 4, grad=True)
    found = term.sum_of_rows(Rows(kind, student, teachers, torch.zeros(5), SHARES))
    expected = kind.soft(term, student, kind.mixed(teachers, SHARES, 3.0))
    close(found, expected)
    alone = term.sum_of_rows(Rows(kind, student, [teachers[0]], torch.zeros(5)))
    close(alone, kind.soft(term, student, teachers[0]))
    assert (alone - found).abs() > 1e-3
