"""The losses on vectors, against their formulas written out, and what they are in special cases."""

import math

import pytest
import torch
from torch import Tensor

from distilcli.losses.similarities import Similarities, similarity_kl
from distilcli.losses.vector_cosine import VectorCosine
from distilcli.losses.vector_mse import VectorMSE
from distilcli.losses.vectors import Vectors

T = 0.2


def vectors(seed: int, texts: int = 5, width: int = 6) -> Tensor:
    return torch.randn(texts, width, generator=torch.Generator().manual_seed(seed))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def plain_kl(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """The sum over texts of KL(p || q), number by number."""
    total = 0.0
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        shares = []
        for side in (teacher, student):
            powers = [math.exp(cosine(side[i], side[j]) / temperature) for j in others]
            shares.append([power / sum(powers) for power in powers])
        total += sum(p * math.log(p / q) for p, q in zip(*shares, strict=True))
    return total


def test_cosine_and_squared_error():
    student, teacher = vectors(1), vectors(2)
    both = Vectors(student, teacher, (5,))
    expected = sum(1 - cosine(s, t) for s, t in zip(student, teacher, strict=True))
    assert float(VectorCosine(1.0, 1.0).sum_of_texts(both)) == pytest.approx(expected, rel=1e-5)
    expected = sum(
        sum((float(a) - float(b)) ** 2 for a, b in zip(s, t, strict=True)) / len(s)
        for s, t in zip(student, teacher, strict=True)
    )
    assert float(VectorMSE(1.0, 1.0).sum_of_texts(both)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("width", [6, 4])
def test_similarities_are_the_kl_written_out(width):
    """Also where the teacher's vectors have another width."""
    student, teacher = vectors(1), vectors(2, width=width)
    found = float(similarity_kl(student, teacher, T))
    assert found == pytest.approx(plain_kl(student, teacher, T), rel=1e-5)


def test_groups_are_compared_each_by_itself():
    student, teacher = vectors(1, texts=9), vectors(2, texts=9)
    term = Similarities(1.0, T)
    found = float(term.sum_of_texts(Vectors(student, teacher, (4, 5))))
    parts = (slice(0, 4), slice(4, 9))
    expected = sum(plain_kl(student[part], teacher[part], T) for part in parts)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != pytest.approx(plain_kl(student, teacher, T), rel=1e-2)


def test_the_gradient_with_respect_to_a_cosine():
    """(q_ij - p_ij) / T, of vectors of length 1 whose products are the cosines."""
    student, teacher = vectors(1).double(), vectors(2).double()
    unit = torch.nn.functional.normalize(student, dim=-1).requires_grad_()
    similarity_kl(unit, teacher, T).backward()
    own = torch.eye(5, dtype=torch.bool)
    shares = [
        (torch.nn.functional.normalize(side.detach(), dim=-1) @ _turned(side) / T)
        .masked_fill(own, -torch.inf)
        .softmax(-1)
        for side in (unit, teacher)
    ]
    of_cosines = (shares[0] - shares[1]) / T
    of_vectors = (of_cosines + of_cosines.T) @ unit.detach()
    along = (of_vectors * unit.detach()).sum(-1, keepdim=True) * unit.detach()
    torch.testing.assert_close(unit.grad, of_vectors - along)


def _turned(side: Tensor) -> Tensor:
    return torch.nn.functional.normalize(side.detach(), dim=-1).T


def test_nothing_is_lost_where_neighbourhoods_are_the_same():
    """Vectors that are turned and stretched as a whole have the same cosines."""
    teacher = vectors(2)
    turn, _ = torch.linalg.qr(vectors(3, texts=6))
    assert float(similarity_kl(3 * teacher @ turn, teacher, T)) == pytest.approx(0.0, abs=1e-5)
    assert float(similarity_kl(vectors(1), teacher, T)) > 0.1


@pytest.mark.parametrize("groups", [(1,), (2,), (1, 2)])
def test_of_small_groups_nothing_is_compared_and_the_gradient_is_0(groups):
    """It is there: what shows which parameters are trained is one text alone."""
    student = vectors(1, texts=sum(groups)).requires_grad_()
    total = Similarities(1.0, T).sum_of_texts(Vectors(student, vectors(2, sum(groups)), groups))
    total.backward()
    assert float(total.detach()) == 0.0
    assert student.grad is not None
    assert not student.grad.any()


def test_the_first_numbers_are_vectors_of_their_own():
    student, teacher = vectors(1), vectors(2)
    found = Similarities(1.0, T, matryoshka=[4, 2]).sum_of_texts(Vectors(student, teacher, (5,)))
    each = [plain_kl(student[:, :width], teacher, T) for width in (6, 4, 2)]
    assert float(found) == pytest.approx(sum(each) / 3, rel=1e-5)
