"""The fused head against the formulas with full logits: every term, every way to cut it."""

import formulas
import pytest
import torch
from fused_terms import (
    ALONE,
    FORMULAS,
    TERMS,
    TOKENS,
    VOCAB,
    close,
    fused,
    gradients,
    labels_of,
    logits_of,
    plain,
    projections,
    randn,
)
from hypothesis import given
from hypothesis import strategies as st
from live_elements import LiveElements
from torch import Tensor

from distilcli.losses import fused_head
from distilcli.losses.logits import Logits
from distilcli.losses.masked_lm import MaskedLM
from distilcli.losses.projections import Projection
from distilcli.losses.soft_targets import SoftTargets, soft_target_kl
from distilcli.losses.terms import Divergence

each_term = pytest.mark.parametrize("name", TERMS)


def test_every_term_has_a_formula():
    assert set(FORMULAS) == set(TERMS)


@pytest.mark.parametrize("block_rows", [0, 1, 4, VOCAB, None])
@pytest.mark.parametrize("chunk_tokens", [1, 3, TOKENS, 100, None])
@pytest.mark.parametrize("num_masked", [0, 4, TOKENS])
@pytest.mark.parametrize("with_teacher", [True, False])
def test_fused_head_is_the_formulas(with_teacher, num_masked, chunk_tokens, block_rows):
    student, teacher = projections()
    names, teacher = (list(TERMS), teacher) if with_teacher else (ALONE, None)
    labels = labels_of(num_masked)
    found = fused(student, teacher, labels, names, 2.0, chunk_tokens, block_rows)
    expected = plain(student, teacher, labels, names, 2.0)
    for one, other in zip(found, expected, strict=True):
        close(one, other.detach())
    # The caller may scale the total, as gradient scalers and DDP do.
    for one, other in zip(
        gradients(1.7 * found.total, student), gradients(1.7 * expected[0], student), strict=True
    ):
        close(one, other)


@pytest.mark.parametrize("num_masked", [0, 4, TOKENS])
@pytest.mark.parametrize("chunk_tokens", [5, None])
def test_blocks_of_tokens_are_the_formulas(monkeypatch, num_masked, chunk_tokens):
    """Blocks of two tokens, of which one may have a label and the other none."""
    monkeypatch.setattr(fused_head, "_BLOCK_ELEMENTS", {"cpu": 128})
    student, teacher = projections()
    labels = labels_of(num_masked)
    found = fused(student, teacher, labels, list(TERMS), 2.0, chunk_tokens, block_rows=0)
    expected = plain(student, teacher, labels, list(TERMS), 2.0)
    for one, other in zip(found, expected, strict=True):
        close(one, other.detach())
    of_found, of_expected = gradients(found.total, student), gradients(expected[0], student)
    for one, other in zip(of_found, of_expected, strict=True):
        close(one, other)


@pytest.mark.parametrize("first", [None, 2])
def test_softmax_of_tokens_that_lie_side_by_side(first):
    """Whatever the logits are, and though the probabilities may be changed by who gets them."""
    values = torch.stack([randn(VOCAB), 1e3 * randn(VOCAB), randn(VOCAB)])
    values[0, 3:] = -1e30  # as ids that fill up have it
    logits = Logits([values.T])
    expected = values[:first].mul(0.5).softmax(dim=-1).T
    for _ in range(2):
        close(logits.log_sum(2.0, first), values[:first].mul(0.5).logsumexp(dim=-1))
        close(logits.probs(0, 2.0, first), expected)
        logits.probs(0, 2.0, first).zero_()


@each_term
@pytest.mark.parametrize("block_rows", [0, 3, None])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_each_term_alone(name, temperature, block_rows):
    """At any temperature, with nothing of the other terms in the gradient."""
    student, teacher = projections()
    labels = labels_of(3)
    found = fused(student, teacher, labels, [name], temperature, 2, block_rows)
    expected = plain(student, teacher, labels, [name], temperature)
    for one, other in zip(found, expected, strict=True):
        close(one, other.detach())
    for one, other in zip(
        gradients(found.total, student), gradients(expected[0], student), strict=True
    ):
        close(one, other)


def test_terms_may_come_in_any_order():
    """None relies on what another one has left in the gradient."""
    student, teacher = projections()
    labels = labels_of(3)
    one = fused(student, teacher, labels, list(TERMS), 2.0, 4, 5)
    other = fused(student, teacher, labels, list(reversed(TERMS)), 2.0, 4, 5)
    close(one.sums, other.sums.flip(0))
    for first, second in zip(
        gradients(one.total, student), gradients(other.total, student), strict=True
    ):
        close(first, second)


@each_term
@pytest.mark.parametrize("num_masked", [0, 2, 4])
def test_gradcheck_of_the_fused_head(name, num_masked):
    student, teacher = projections(4)
    labels = labels_of(num_masked)

    def total(*tensors: Tensor) -> Tensor:
        return fused(Projection(*tensors), teacher, labels, [name], 1.5, 3, 4).total

    assert torch.autograd.gradcheck(total, tuple(student))


@each_term
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_logits_may_be_shifted(name, temperature):
    """A bias that all of the vocabulary has changes no distribution."""
    if not issubclass(TERMS[name], (Divergence, MaskedLM)):
        return  # it compares logits, not distributions
    student, teacher = projections()
    labels = labels_of(4)
    moved = student._replace(bias=student.bias + 3.0), teacher._replace(bias=teacher.bias - 5.0)
    one = fused(student, teacher, labels, [name], temperature, 3, 4)
    other = fused(*moved, labels, [name], temperature, 3, 4)
    close(other.sums, one.sums, 1e-10)


@each_term
def test_terms_with_a_teacher_are_zero_where_models_are_alike(name):
    if not TERMS[name].needs_teacher:
        return
    student, teacher = projections()
    same = Projection(*(tensor.detach() for tensor in student))
    found = fused(student, same, labels_of(4), [name], 2.0, 3, 4)
    assert found.sums.abs().max() < 1e-12
    assert max(one.abs().max() for one in gradients(found.total, student)) < 1e-12
    assert fused(student, teacher, labels_of(4), [name], 2.0, 3, 4).sums > 0.1


def test_only_the_total_carries_a_gradient():
    student, teacher = projections()
    found = fused(student, teacher, labels_of(2), list(TERMS))
    assert [tensor.requires_grad for tensor in found] == [True, False]
    with torch.no_grad():
        again = fused(student, teacher, labels_of(0), list(TERMS))
    assert not again.total.requires_grad
    close(again.sums[0], found.sums[0])


def test_a_frozen_weight_gets_no_gradient():
    student, teacher = projections()
    frozen = student._replace(weight=student.weight.detach())
    fused(frozen, teacher, labels_of(2), list(TERMS)).total.backward()
    assert frozen.weight.grad is None
    assert student.features.grad.any()
    assert student.bias.grad.any()


@given(st.integers(0, TOKENS), st.integers(1, TOKENS + 1), st.booleans())
def test_tokens_without_a_label_get_nothing_from_hard_targets(num_masked, chunk, with_teacher):
    student, teacher = projections()
    taught = teacher if with_teacher else None
    found = fused(student, taught, labels_of(num_masked), ["masked_lm"], 2.0, chunk)
    rows = torch.autograd.grad(found.total, student.features)[0]
    assert not rows[num_masked:].any()
    assert rows[:num_masked].any(dim=-1).all()


@given(st.integers(1, TOKENS - 1), st.integers(1, TOKENS))
def test_sums_of_two_batches_add_up(cut, chunk):
    student, teacher = projections()
    labels, names = labels_of(TOKENS), list(TERMS)
    whole = fused(student, teacher, labels, names, 2.0, chunk)
    parts = [
        fused(
            student._replace(features=student.features[rows]),
            teacher._replace(features=teacher.features[rows]),
            labels[rows],
            names,
            2.0,
            chunk,
        )
        for rows in (slice(0, cut), slice(cut, None))
    ]
    for one, first, second in zip(whole, *parts, strict=True):
        close(one, first + second)


# Lower precision


def float32(projection: Projection, grad: bool) -> Projection:
    return Projection(*(tensor.detach().float().requires_grad_(grad) for tensor in projection))


@pytest.mark.parametrize("temperature", [2.0, 3.0])
@pytest.mark.parametrize(
    ("autocast", "tolerance"), [(False, 2e-6), (True, 2.0**-7)], ids=["fp32", "bf16"]
)
def test_lower_precision_is_the_formulas_within_its_rounding(autocast, tolerance, temperature):
    """bf16 keeps 8 bits, so a product is off by up to 2^-9 of its factors' size, twice."""
    student, teacher = projections(64)
    labels, names = labels_of(20), list(TERMS)
    small, small_teacher = float32(student, True), float32(teacher, False)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = fused(small, small_teacher, labels, names, temperature, 16, dtype=torch.float32)
    total, sums = plain(student, teacher, labels, names, temperature)
    assert found.total.dtype is found.sums.dtype is torch.float32
    assert found.total.item() == pytest.approx(total.item(), rel=tolerance)
    assert found.sums.tolist() == pytest.approx(sums.tolist(), rel=tolerance)
    for one, other in zip(gradients(found.total, small), gradients(total, student), strict=True):
        assert one.dtype is torch.float32
        assert (one - other).norm() < tolerance * other.norm()


def test_a_teacher_in_bf16_is_left_so():
    student, teacher = projections(64)
    small = float32(student, True)
    rounded = Projection(*(tensor.bfloat16() for tensor in teacher))
    found = fused(small, rounded, labels_of(5), ["soft_targets"], dtype=torch.float32)
    v = logits_of(Projection(*(tensor.double() for tensor in rounded)))
    expected = formulas.soft_target_kl(logits_of(student), v, 2.0)
    assert found.sums.item() == pytest.approx(expected.item(), rel=2.0**-7)


def test_the_temperature_must_be_positive():
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="temperature must be positive"):
            SoftTargets(1.0, temperature)


# Memory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "vocab", "chunk_tokens"),
    [(512, 1_000, 32), (1_024, 30_522, 32), (1_500, 30_522, None), (500, 300_000, None)],
)
def test_full_logits_are_never_made(tokens, vocab, chunk_tokens):
    """Alive are the logits of student and teacher, of one chunk, and a few blocks."""
    alive = most_alive(tokens, vocab, chunk_tokens)
    in_chunk = chunk_tokens or max(64, (1 << 23) // vocab)
    logits = 2 * in_chunk * vocab
    assert logits < alive < logits + 8 * 1_024 * in_chunk + 4 * 4 * (tokens + vocab)
    assert alive < 2 * tokens * vocab


@pytest.mark.slow
def test_full_logits_are_never_made_in_bf16():
    """Alive are the logits of student and teacher, of one chunk, and some blocks."""
    tokens, vocab = 1_500, 30_522
    with torch.autocast("cpu", torch.bfloat16):
        alive = most_alive(tokens, vocab, None)
    of_chunk = 2 * (1 << 24)
    assert 0.95 * of_chunk < alive < of_chunk + 12 * (1 << 19) + 12 * 4 * (tokens + vocab)


def most_alive(tokens: int, vocab: int, chunk_tokens: int | None) -> int:
    """Elements that are alive at most while all terms are computed, forward and backward."""
    student, teacher = (
        Projection(torch.randn(tokens, 4), torch.randn(vocab, 4), torch.randn(vocab))
        for _ in range(2)
    )
    for tensor in student:
        tensor.requires_grad_()
    labels = torch.randint(0, vocab, (tokens // 7,))
    with LiveElements() as elements:
        fused(
            student, teacher, labels, list(TERMS), 2.0, chunk_tokens, dtype=torch.float32
        ).total.backward()
    return elements.peak


def test_the_memory_check_would_notice():
    z, v = randn(20, 30), randn(20, 30)
    with LiveElements() as elements:
        soft_target_kl(z, v, 2.0)
    assert 4 * 600 <= elements.peak <= 8 * 600
