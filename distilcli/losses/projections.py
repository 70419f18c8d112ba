"""Vocabulary projections: from the features of a student, and of one teacher or several, to logits.

The fused head (`fused_head.py`) asks for the logits of one chunk of tokens after another, block by
block of the vocabulary or all at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.logits import Logits, Mixing
from distilcli.losses.one_pass import filled_bias, filled_weight
from distilcli.losses.terms import VocabularyTerm


class Projection(NamedTuple):
    """Features and the vocabulary projection that turns them into logits."""

    features: Float[Tensor, "tokens hidden"]
    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"]

    def of_rows(self, rows: Int[Tensor, " rows"]) -> "Projection":
        """The projection to some ids alone: a softmax over its logits is renormalised over them."""
        return Projection(self.features, self.weight[rows], self.bias[rows])


class Mixture(NamedTuple):
    """Several models of one vocabulary, as one whose distribution is the mean of theirs.

    Attributes:
        projections: of each, for the same tokens; their widths may differ.
        shares: of each in the mean; they add up to 1.
    """

    projections: Sequence[Projection]
    shares: Sequence[float]


class CastProjection(NamedTuple):
    """A projection in the precision of its products; its logits come in that of the sums."""

    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"]
    sum_dtype: torch.dtype

    def filled(self) -> "CastProjection":
        """With ids that nothing predicts, so many that products have even strides."""
        bias = filled_bias(self.bias.to(self.sum_dtype))
        return CastProjection(filled_weight(self.weight), bias, self.sum_dtype)

    def product(self, features: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocab"]:
        """All logits, without the bias and in the precision of the product."""
        return features.to(self.weight.dtype) @ self.weight.T

    def logits(self, features: Float[Tensor, "tokens hidden"], blocks: list[slice]) -> Logits:
        """The logits of each block."""
        inputs = features.to(self.weight.dtype).T
        bias = self.bias.to(self.sum_dtype)[:, None]
        return Logits([torch.add(bias[rows], self.weight[rows] @ inputs) for rows in blocks])


class TeacherLogits:
    """Makes the logits that the student is compared with, of one teacher or of several.

    Args:
        teacher: their features and projections.
        terms: say at which temperatures a mixture is asked for in this step.
        compute_dtype: of the products of what is in fp32; what is in less is left so.
        sum_dtype: of the logits.
    """

    def __init__(
        self,
        teacher: Projection | Mixture,
        terms: Sequence[VocabularyTerm],
        compute_dtype: torch.dtype,
        sum_dtype: torch.dtype,
    ) -> None:
        self._shares = teacher.shares if isinstance(teacher, Mixture) else None
        self._temperatures = {term.temperature for term in terms if term.needs_teacher}
        self._members = []
        projections = teacher.projections if isinstance(teacher, Mixture) else [teacher]
        for features, weight, bias in projections:
            dtype = compute_dtype if weight.dtype == torch.float32 else weight.dtype
            self._members.append((features, CastProjection(weight.to(dtype), bias, sum_dtype)))

    def fill(self) -> None:
        """See `CastProjection.filled`."""
        self._members = [(features, of.filled()) for features, of in self._members]

    def product(
        self, tokens: slice
    ) -> tuple[Float[Tensor, "tokens vocab"], Float[Tensor, " vocab"]]:
        """Of a single teacher all logits without the bias, and the bias."""
        ((features, projection),) = self._members
        return projection.product(features[tokens]), projection.bias

    def logits(self, tokens: slice, blocks: list[slice]) -> Logits:
        """Of a chunk of tokens; beside a mixture lie the logits of one teacher at a time."""
        if self._shares is None:
            ((features, projection),) = self._members
            return projection.logits(features[tokens], blocks)
        mixing = Mixing(self._temperatures)
        for (features, projection), share in zip(self._members, self._shares, strict=True):
            mixing.add(projection.logits(features[tokens], blocks), share)
        return mixing.result()
