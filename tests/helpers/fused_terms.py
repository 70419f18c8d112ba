"""The fused head and its terms as tests call them, beside the formulas with full logits."""

from collections.abc import Callable

import formulas
import torch
from torch import Tensor

from distilcli.losses.fused_head import VocabularyLosses, fused_vocabulary_losses
from distilcli.losses.projections import Mixture, Projection
from distilcli.losses.table import MASKED_LM_TERMS
from distilcli.losses.terms import VocabularyTerm

TOKENS, VOCAB, HIDDEN, TEACHER_HIDDEN = 7, 11, 6, 5
# Of each term, from the logits of all tokens, the labels of the first of them, and T.
FORMULAS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    name: lambda z, v, labels, t, formula=formula: formula(z, v, t)
    for name, formula in formulas.DIVERGENCES.items()
} | {
    "logit_mse": lambda z, v, labels, t: formulas.squared_error(z, v),
    "masked_lm": lambda z, v, labels, t: formulas.cross_entropy(z[: len(labels)], labels),
}
TERMS = {term.name: term for term in MASKED_LM_TERMS if issubclass(term, VocabularyTerm)}
ALONE = [name for name, term in TERMS.items() if not term.needs_teacher]


def randn(*shape: int, scale: float = 2.0, grad: bool = False) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_(grad)


def labels_of(number: int) -> Tensor:
    return torch.randint(0, VOCAB, (number,))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def coefficients(names: list[str], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Another one for each term."""
    return [torch.tensor(0.2 + 0.3 * list(TERMS).index(name), dtype=dtype) for name in names]


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


def fused(
    student: Projection,
    teacher: Projection | Mixture | None,
    labels: Tensor,
    names: list[str],
    temperature: float = 2.0,
    chunk_tokens: int | None = None,
    block_rows: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> VocabularyLosses:
    """The terms of these names."""
    terms = [TERMS[name](1.0, temperature) for name in names]
    weights = coefficients(names, dtype)
    return fused_vocabulary_losses(
        student, teacher, labels, terms, weights, chunk_tokens, block_rows
    )


def plain(
    student: Projection, teacher: Projection | None, labels: Tensor, names: list[str], t: float
) -> tuple[Tensor, Tensor]:
    """Total and sums by the formulas, with full logits."""
    z = logits_of(student)
    v = z if teacher is None else logits_of(teacher)
    sums = torch.stack([FORMULAS[name](z, v, labels, t) for name in names])
    # Without labels and teacher there is nothing but a gradient of zeros.
    return (torch.stack(coefficients(names)) * sums).sum() + 0.0 * z.sum(), sums


def gradients(total: Tensor, student: Projection) -> tuple[Tensor, ...]:
    return torch.autograd.grad(total, list(student))
