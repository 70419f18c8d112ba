"""Relations and attention distributions against the dense formulas, however they are cut."""

import pair_formulas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from live_elements import LiveElements
from torch import Tensor

from distilcli.losses.attention_distributions import (
    attention_kl,
    attention_score_mse,
    mse_of_rows,
)
from distilcli.losses.attention_relations import relation_kl
from distilcli.losses.token_pairs import Cutting, Vectors, kl_of_rows, pair_losses

LENGTHS = (1, 2, 5, 5, 1, 9, 0, 9, 9, 30)
LOSSES = {"kl": (attention_kl, pair_formulas.kl), "mse": (attention_score_mse, pair_formulas.mse)}
each_loss = pytest.mark.parametrize("name", LOSSES)
each_radius = pytest.mark.parametrize("radius", [None, 0, 3, 40])


def vectors(width: int, tokens: int = sum(LENGTHS), grad: bool = False) -> Tensor:
    return torch.randn(tokens, width, dtype=torch.float64).requires_grad_(grad)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def all_close(found: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """The values, and the gradients with respect to the inputs of what they are a part of."""
    close(found, expected)
    of_both = (torch.autograd.grad(2.5 * value, inputs) for value in (found, expected))
    for one, other in zip(*of_both, strict=True):
        close(one, other)


@pytest.mark.parametrize(
    ("width", "teacher_width", "num_heads"), [(12, 12, 4), (8, 24, 4), (6, 10, 2), (5, 3, 1)]
)
def test_relations_are_the_formula(width, teacher_width, num_heads):
    """Of models of different widths, in any number of parts that both can be cut into."""
    student, teacher = vectors(width, grad=True), vectors(teacher_width)
    found = relation_kl(student, teacher, LENGTHS, num_heads)
    expected = pair_formulas.loss(
        pair_formulas.kl, (student, student), (teacher, teacher), LENGTHS, num_heads
    )
    all_close(found, expected, student)


@each_loss
@each_radius
def test_attention_is_the_formula(name, radius):
    loss, formula = LOSSES[name]
    student = Vectors(vectors(8, grad=True), vectors(8, grad=True))
    teacher = Vectors(vectors(12), vectors(12))
    found = loss(student, teacher, LENGTHS, 4, radius)
    expected = pair_formulas.loss(formula, student, teacher, LENGTHS, 4, radius)
    all_close(found, expected, *student)


@each_loss
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any),
    num_heads=st.integers(1, 3),
    radius=st.none() | st.integers(0, 13),
    cutting=st.builds(Cutting, st.integers(1, 700), st.integers(0, 400)),
    seed=st.integers(0, 99),
)
def test_no_way_to_cut_it_changes_it(name, lengths, num_heads, radius, cutting, seed):
    torch.manual_seed(seed)
    distance = {"kl": kl_of_rows, "mse": mse_of_rows}[name]
    keys = vectors(2 * num_heads, sum(lengths), grad=True) if seed % 2 else None
    student = Vectors(vectors(2 * num_heads, sum(lengths), grad=True), keys)
    teacher_keys = None if keys is None else vectors(3 * num_heads, sum(lengths))
    teacher = Vectors(vectors(3 * num_heads, sum(lengths)), teacher_keys)
    found = pair_losses(student, teacher, lengths, num_heads, distance, radius, cutting)
    both = ((one.rows, one.rows if one.keys is None else one.keys) for one in (student, teacher))
    expected = pair_formulas.loss(LOSSES[name][1], *both, lengths, num_heads, radius)
    all_close(found, expected, *(x for x in student if x is not None))


def test_gradients_agree_with_finite_differences():
    lengths, tokens = (3, 1, 4, 4), 12
    teacher, keys = vectors(6, tokens), vectors(6, tokens)
    inputs = vectors(4, tokens, grad=True), vectors(4, tokens, grad=True)

    def relation(a: Tensor) -> Tensor:
        return relation_kl(a, teacher, lengths, 2)

    assert torch.autograd.gradcheck(relation, inputs[:1])
    for loss in (attention_kl, attention_score_mse):
        for radius in (None, 1):

            def attention(q: Tensor, k: Tensor, loss=loss, radius=radius) -> Tensor:
                return loss(Vectors(q, k), Vectors(teacher, keys), lengths, 2, radius)

            assert torch.autograd.gradcheck(attention, inputs)


def test_only_what_needs_a_gradient_gets_one():
    """As where the keys of a layer are frozen."""
    student = Vectors(vectors(4, grad=True), vectors(4))
    teacher = Vectors(vectors(4), vectors(4))
    attention_kl(student, teacher, LENGTHS, 2).backward()
    assert student.rows.grad.abs().sum() > 0
    assert student.keys.grad is None
    assert not attention_kl(teacher, student._replace(rows=vectors(4)), LENGTHS, 2).requires_grad


@given(st.integers(0, 999))
def test_equal_vectors_are_at_distance_zero_and_others_are_not(seed):
    torch.manual_seed(seed)
    same, other = vectors(6), vectors(6)
    assert relation_kl(same, same, LENGTHS, 3).abs() < 1e-12
    assert relation_kl(other, same, LENGTHS, 3) > 0.1
    both = Vectors(same, other)
    for loss, _ in LOSSES.values():
        assert loss(both, both, LENGTHS, 3).abs() < 1e-12
        assert loss(Vectors(other, same), both, LENGTHS, 3) > 0.1


def test_sequences_know_nothing_of_each_other():
    student, teacher = vectors(8), vectors(8)
    parts = zip(student.split(LENGTHS), teacher.split(LENGTHS), LENGTHS, strict=True)
    alone = [relation_kl(s, t, (length,), 4) for s, t, length in parts]
    close(relation_kl(student, teacher, LENGTHS, 4), torch.stack(alone).sum())


def test_vectors_may_lie_in_any_way():
    """As parts of one projection do, or as the columns of another tensor."""
    whole = vectors(24, grad=True)
    teacher = vectors(8)
    for part in (whole.chunk(3, dim=1)[1], vectors(sum(LENGTHS), 8, grad=True).T):
        expected = relation_kl(part.contiguous(), teacher, LENGTHS, 2)
        all_close(relation_kl(part, teacher, LENGTHS, 2), expected, part)


@pytest.mark.parametrize("radius", [None, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_padding_changes_nothing(name, radius):
    """Neighbours of other lengths are one group on a GPU, padded to the longest."""
    distance = {"kl": kl_of_rows, "mse": mse_of_rows}[name]
    lengths = (9, 8, 8, 5, 1, 3, 3, 2)
    student = Vectors(vectors(6, 39, grad=True), vectors(6, 39, grad=True))
    teacher = Vectors(vectors(6, 39), vectors(6, 39))
    found, padded = (
        pair_losses(student, teacher, lengths, 3, distance, radius, Cutting(10_000, spare))
        for spare in (0, 10_000)
    )
    all_close(padded, found, *student)


def test_a_token_alone_costs_nothing():
    """Its relation is to itself and always 1."""
    student = vectors(4, 3, grad=True)
    found = relation_kl(student, vectors(4, 3), (1, 1, 1), 2)
    found.backward()
    assert found == 0
    assert not student.grad.any()


def test_a_relation_turns_with_its_vectors():
    """A rotation of a part, as a change of basis of what a model learnt, changes nothing."""
    student, teacher = vectors(6), vectors(6)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    turned = torch.cat([part @ turn for part in student.chunk(2, dim=1)], dim=1)
    close(relation_kl(turned, teacher, LENGTHS, 2), relation_kl(student, teacher, LENGTHS, 2))


def test_heads_must_divide_both_widths():
    with pytest.raises(ValueError, match="a width of 10 cannot be cut into 4 equal heads"):
        relation_kl(vectors(8), vectors(10), LENGTHS, 4)
    with pytest.raises(ValueError, match="a width of 6 cannot be cut into 4 equal heads"):
        relation_kl(vectors(6), vectors(8), LENGTHS, 4)


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_its_inputs_alone(dtype):
    """Scores, softmax and sums are in fp32, in autocast as well; only gradients are rounded."""
    student, teacher = (vectors(8).to(dtype) for _ in range(2))
    exact = student.double().requires_grad_()
    student.requires_grad_()
    expected = relation_kl(exact, teacher.double(), LENGTHS, 2)
    expected.backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = relation_kl(student, teacher, LENGTHS, 2)
    assert found.dtype == torch.float32
    close(found.double(), expected, 1e-6)
    found.backward()
    assert student.grad.dtype == dtype
    close(student.grad.double(), exact.grad, 2 * torch.finfo(dtype).eps)


def test_it_stays_finite_where_probabilities_are_not():
    """A token that is much longer than the others leaves them no probability in fp32."""
    student = (100 * torch.randn(6, 4)).requires_grad_()
    teacher = 100 * torch.randn(6, 4)
    found = relation_kl(student, teacher, (6,), 2)
    found.backward()
    assert found.isfinite()
    assert found > 100
    assert student.grad.isfinite().all()
    near = attention_kl(Vectors(student, student), Vectors(teacher, teacher), (6,), 2, 1)
    near.backward()
    assert near.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("radius", [None, 5])
def test_on_cuda_it_is_what_it_is_on_a_cpu(name, radius):
    """There, sequences of other lengths are padded to one group."""
    loss, _ = LOSSES[name]
    student = Vectors(vectors(32, grad=True), vectors(32, grad=True))
    teacher = Vectors(vectors(64), vectors(64))
    expected = loss(student, teacher, LENGTHS, 4, radius)
    wanted = torch.autograd.grad(expected, student)
    moved = [
        Vectors(*(x.detach().to("cuda", torch.float32) for x in v)) for v in (student, teacher)
    ]
    for one in moved[0]:
        one.requires_grad_()
    found = loss(*moved, LENGTHS, 4, radius)
    gradients = torch.autograd.grad(found, moved[0])
    close(found.double().cpu(), expected, 1e-3)
    for one, other in zip(gradients, wanted, strict=True):
        close(one.double().cpu(), other, 1e-3)


# Memory


@pytest.mark.parametrize("radius", [None, 64])
@pytest.mark.parametrize("num_tokens", [1_024, 2_048])
def test_scores_of_a_chunk_alone_exist(num_tokens, radius):
    """Six chunks at most, and what is as long as the vectors; the scores of all are far more."""
    width, num_heads, chunk_scores = 16, 4, 1 << 15
    student = torch.randn(num_tokens, width, requires_grad=True)
    teacher = torch.randn(num_tokens, width)
    with LiveElements() as elements:
        pair_losses(
            Vectors(student),
            Vectors(teacher),
            (num_tokens // 2, num_tokens // 2),
            num_heads,
            kl_of_rows,
            radius,
            Cutting(chunk_scores, 0),
        ).backward()
    assert chunk_scores < elements.peak < 6 * chunk_scores + 4 * num_tokens * width
    assert elements.peak < num_heads * num_tokens**2 // 4
