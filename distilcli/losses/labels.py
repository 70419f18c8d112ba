"""Losses on labels: cross-entropy of masked tokens and of classes, squared error of numbers."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def binary_cross_entropy(
    student_logits: Float[Tensor, "rows classes"], targets: Float[Tensor, "rows classes"]
) -> Float[Tensor, ""]:
    """Sum over rows of the mean over classes of the cross-entropy with targets 0 or 1, in nats.

    A target of NaN counts for nothing.
    """
    known = ~targets.isnan()
    entropies = F.binary_cross_entropy_with_logits(
        student_logits, targets.where(known, 0.0), reduction="none"
    )
    return entropies.where(known, 0.0).mean(dim=-1).sum()


def squared_error(
    found: Float[Tensor, " rows"], targets: Float[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """Sum over rows of (found - target)^2; a target of NaN counts for nothing."""
    known = ~targets.isnan()
    return (found - targets.where(known, 0.0)).where(known, 0.0).square().sum()


def masked_lm_cross_entropy(
    student_logits: Float[Tensor, "masked vocab"], labels: Int[Tensor, " masked"]
) -> Float[Tensor, ""]:
    """Sum over masked positions of -log q(label), in nats, at temperature 1.

    Source: Devlin et al. 2019, sec. 3.1.
    """
    return F.cross_entropy(student_logits, labels, reduction="sum")
