"""The losses against their formulas, their closed-form gradients and the 2019 definitions."""

import weakref
from itertools import pairwise

import formulas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distilcli.losses.hidden import hidden_cosine_distance
from distilcli.losses.labels import masked_lm_cross_entropy
from distilcli.losses.soft_targets import logit_squared_error, soft_target_kl
from distilcli.losses.vocabulary import Coefficients, Projection, fused_vocabulary_losses

TOKENS, VOCAB, HIDDEN, TEACHER_HIDDEN = 7, 11, 6, 5
TEMPERATURES = [0.5, 1.0, 2.0, 10.0]


def randn(*shape: int, scale: float = 2.0, grad: bool = False) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_(grad)


def coefficients(
    ce: float = 0.7, mlm: float = 0.3, mse: float = 0.2, dtype: torch.dtype = torch.float64
) -> Coefficients:
    return Coefficients(*(torch.tensor(value, dtype=dtype) for value in (ce, mlm, 1.3, mse)))


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


# The fused head


def projections(tokens: int = TOKENS) -> tuple[Projection, Projection]:
    """A student's, with gradients, and a teacher's of another width."""
    student = Projection(
        randn(tokens, HIDDEN, grad=True),
        randn(VOCAB, HIDDEN, scale=0.7, grad=True),
        randn(VOCAB, grad=True),
    )
    teacher = Projection(
        randn(tokens, TEACHER_HIDDEN), randn(VOCAB, TEACHER_HIDDEN, scale=0.7), randn(VOCAB)
    )
    return student, teacher


def logits_of(projection: Projection) -> Tensor:
    features, weight, bias = projection
    return features @ weight.T + bias


def plain(student, teacher, labels, weights, temperature):
    """Total and sums of the fused head by the formulas, with full logits."""
    z = logits_of(student)
    zero = z.new_zeros(())
    mlm = formulas.cross_entropy(z[: len(labels)], labels)
    ce, mse = zero, zero
    if teacher is not None:
        v = logits_of(teacher)
        ce, mse = formulas.soft_target_kl(z, v, temperature), formulas.squared_error(z, v)
    return weights.ce * ce + weights.mlm * mlm + weights.mse * mse, ce, mlm, mse


@pytest.mark.parametrize("block_rows", [1, 4, VOCAB, None])
@pytest.mark.parametrize("chunk_tokens", [1, 3, TOKENS, 100, None])
@pytest.mark.parametrize("num_masked", [0, 4, TOKENS])
@pytest.mark.parametrize("with_teacher", [True, False])
def test_fused_head_is_the_formulas(with_teacher, num_masked, chunk_tokens, block_rows):
    student, teacher = projections()
    teacher = teacher if with_teacher else None
    labels, weights, temperature = labels_of(num_masked), coefficients(), 2.0
    found = fused_vocabulary_losses(
        student, teacher, labels, weights, temperature, chunk_tokens, block_rows
    )
    expected = plain(student, teacher, labels, weights, temperature)
    for one, other in zip(found, expected, strict=True):
        close(one, other.detach())
    # The caller may scale the total, as gradient scalers and DDP do.
    gradients = torch.autograd.grad(1.7 * found.total, student)
    if with_teacher or num_masked:
        wanted = torch.autograd.grad(1.7 * expected[0], student)
    else:
        wanted = [torch.zeros_like(tensor) for tensor in student]
    for one, other in zip(gradients, wanted, strict=True):
        close(one, other)


@pytest.mark.parametrize("weights", [(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)])
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_each_term_of_the_fused_head_alone(weights, temperature):
    student, teacher = projections()
    labels, weights = labels_of(3), coefficients(*weights)
    found = fused_vocabulary_losses(student, teacher, labels, weights, temperature, 2)
    expected = plain(student, teacher, labels, weights, temperature)
    for one, other in zip(found, expected, strict=True):
        close(one, other.detach())
    for one, other in zip(
        torch.autograd.grad(found.total, student),
        torch.autograd.grad(expected[0], student),
        strict=True,
    ):
        close(one, other)


@pytest.mark.parametrize("term", ["ce", "mlm", "mse"])
def test_an_unwanted_term_is_not_computed(term):
    """None is a weight of 0, and its sum is not made."""
    student, teacher = projections()
    labels, weights = labels_of(3), coefficients()
    unwanted = weights._replace(**{term: None})
    weightless = weights._replace(**{term: torch.zeros((), dtype=torch.float64)})
    found = fused_vocabulary_losses(student, teacher, labels, unwanted, 2.0, 4)
    expected = fused_vocabulary_losses(student, teacher, labels, weightless, 2.0, 4)
    close(found.total, expected.total.detach())
    assert found._asdict()[term] == 0 < expected._asdict()[term]
    gradients = (torch.autograd.grad(losses.total, student) for losses in (found, expected))
    for one, other in zip(*gradients, strict=True):
        close(one, other)


@pytest.mark.parametrize("num_masked", [0, 2, 4])
def test_gradcheck_of_the_fused_head(num_masked):
    student, teacher = projections(4)
    labels = labels_of(num_masked)

    def total(*tensors: Tensor) -> Tensor:
        head = Projection(*tensors)
        return fused_vocabulary_losses(head, teacher, labels, coefficients(), 1.5, 3).total

    assert torch.autograd.gradcheck(total, tuple(student))


def test_only_the_total_carries_a_gradient():
    student, teacher = projections()
    found = fused_vocabulary_losses(student, teacher, labels_of(2), coefficients(), 2.0)
    assert [tensor.requires_grad for tensor in found] == [True, False, False, False]
    with torch.no_grad():
        again = fused_vocabulary_losses(student, teacher, labels_of(0), coefficients(), 2.0)
    assert not again.total.requires_grad
    close(again.ce, found.ce)


def test_a_frozen_weight_gets_no_gradient():
    student, teacher = projections()
    frozen = student._replace(weight=student.weight.detach())
    fused_vocabulary_losses(frozen, teacher, labels_of(2), coefficients(), 2.0).total.backward()
    assert frozen.weight.grad is None
    assert student.features.grad.any()
    assert student.bias.grad.any()


@given(st.integers(0, TOKENS), st.integers(1, TOKENS + 1), st.booleans())
def test_tokens_without_a_label_get_nothing_from_hard_targets(num_masked, chunk, with_teacher):
    student, teacher = projections()
    found = fused_vocabulary_losses(
        student,
        teacher if with_teacher else None,
        labels_of(num_masked),
        coefficients(ce=0.0, mse=0.0),
        2.0,
        chunk,
    )
    rows = gradient(found.total, student.features)
    assert not rows[num_masked:].any()
    assert rows[:num_masked].any(dim=-1).all()


@given(st.integers(1, TOKENS - 1), st.integers(1, TOKENS))
def test_sums_of_two_batches_add_up(cut, chunk):
    student, teacher = projections()
    labels, weights = labels_of(TOKENS), coefficients()
    whole = fused_vocabulary_losses(student, teacher, labels, weights, 2.0, chunk)
    parts = [
        fused_vocabulary_losses(
            student._replace(features=student.features[rows]),
            teacher._replace(features=teacher.features[rows]),
            labels[rows],
            weights,
            2.0,
            chunk,
        )
        for rows in (slice(0, cut), slice(cut, None))
    ]
    for one, first, second in zip(whole, *parts, strict=True):
        close(one, first + second)


def float32(projection: Projection, grad: bool) -> Projection:
    return Projection(*(tensor.detach().float().requires_grad_(grad) for tensor in projection))


@pytest.mark.parametrize("temperature", [2.0, 3.0])
@pytest.mark.parametrize(
    ("autocast", "tolerance"), [(False, 2e-6), (True, 2.0**-7)], ids=["fp32", "bf16"]
)
def test_lower_precision_is_the_formulas_within_its_rounding(autocast, tolerance, temperature):
    """bf16 keeps 8 bits, so a product is off by up to 2^-9 of its factors' size, twice."""
    student, teacher = projections(64)
    labels, weights = labels_of(20), coefficients()
    small, small_teacher = float32(student, True), float32(teacher, False)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = fused_vocabulary_losses(
            small, small_teacher, labels, coefficients(dtype=torch.float32), temperature, 16
        )
    expected = plain(student, teacher, labels, weights, temperature)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is torch.float32
        assert one.item() == pytest.approx(other.item(), rel=tolerance)
    for one, other in zip(
        torch.autograd.grad(found.total, small),
        torch.autograd.grad(expected[0], student),
        strict=True,
    ):
        assert one.dtype is torch.float32
        assert (one - other).norm() < tolerance * other.norm()


def test_a_teacher_in_bf16_is_left_so():
    student, teacher = projections(64)
    small = float32(student, True)
    rounded = Projection(*(tensor.bfloat16() for tensor in teacher))
    found = fused_vocabulary_losses(
        small, rounded, labels_of(5), coefficients(dtype=torch.float32), 2.0
    )
    v = logits_of(Projection(*(tensor.double() for tensor in rounded)))
    expected = formulas.soft_target_kl(logits_of(student), v, 2.0)
    assert found.ce.item() == pytest.approx(expected.item(), rel=2.0**-7)


class LiveElements(TorchDispatchMode):
    """The most elements that lived at once, of all that operations have made."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[int, int]] = {}  # storage: elements, tensors on it
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and function.namespace == "aten":
                storage = tensor.untyped_storage()
                _, tensors = self.live.get(storage.data_ptr(), (0, 0))
                elements = storage.nbytes() // tensor.element_size()
                self.live[storage.data_ptr()] = elements, tensors + 1
                weakref.finalize(tensor, self.forget, storage.data_ptr())
        self.peak = max(self.peak, sum(elements for elements, _ in self.live.values()))
        return output

    def forget(self, storage: int) -> None:
        elements, tensors = self.live.pop(storage)
        if tensors > 1:
            self.live[storage] = elements, tensors - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "vocab", "chunk_tokens"),
    [(512, 1_000, 32), (1_024, 30_522, 32), (1_500, 30_522, None), (500, 300_000, None)],
)
def test_full_logits_are_never_made(tokens, vocab, chunk_tokens):
    """Alive are the logits of student and teacher, of one chunk, and a few blocks."""
    student, teacher = (
        Projection(torch.randn(tokens, 4), torch.randn(vocab, 4), torch.randn(vocab))
        for _ in range(2)
    )
    for tensor in student:
        tensor.requires_grad_()
    labels = torch.randint(0, vocab, (tokens // 7,))
    with LiveElements() as elements:
        fused_vocabulary_losses(
            student, teacher, labels, coefficients(dtype=torch.float32), 2.0, chunk_tokens
        ).total.backward()
    in_chunk = chunk_tokens or max(64, (1 << 23) // vocab)
    logits = 2 * in_chunk * vocab
    assert logits < elements.peak < logits + 8 * 1_024 * in_chunk + 4 * 4 * (tokens + vocab)
    assert elements.peak < 2 * tokens * vocab


def test_the_memory_check_would_notice():
    z, v = randn(20, 30), randn(20, 30)
    with LiveElements() as elements:
        soft_target_kl(z, v, 2.0)
    assert 4 * 600 <= elements.peak <= 8 * 600
