"""The loss on the labels of a task: its hard targets, cross-entropy or squared error."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.terms import Counts, OutputTerm, Rows

_LEFT_OUT = -1e30  # instead of minus infinity, which times 0 would be NaN


def cross_entropy(
    student_logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """Sum over rows of the cross-entropy with the class of each, in nats.

    A target of -100 counts for nothing.
    """
    return F.cross_entropy(student_logits, targets, reduction="sum", ignore_index=-100)


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


def listwise_cross_entropy(
    scores: Float[Tensor, "queries candidates"], labels: Float[Tensor, "queries candidates"]
) -> Float[Tensor, ""]:
    """Sum over queries of - sum_i y_i / (sum_j y_j) log softmax(z)_i, in nats.

    Candidates whose label is NaN are left out, of the softmax too. A query without a relevant
    candidate counts for nothing.

    Args:
        scores: z.
        labels: y, how relevant a candidate is, 0 or more.
    Source: Cao et al. 2007 (ListNet, top one), where y is in the place of exp(y), so that what is
    not relevant has the probability 0; Bruch et al. 2019, *An Analysis of the Softmax Cross Entropy
    Loss for Learning-to-Rank with Binary Relevance*, eq. 3.
    """
    known = ~labels.isnan()
    relevance = labels.where(known, 0.0)
    smallest = torch.finfo(relevance.dtype).tiny
    # Divided by the largest first: a sum of large labels would be infinite.
    shares = relevance / relevance.amax(dim=1, keepdim=True).clamp(min=smallest)
    shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=smallest)
    log_probs = F.log_softmax(scores.where(known, _LEFT_OUT), dim=1)
    return -(shares * log_probs).sum()


class Labels(OutputTerm):
    """What the kind of outputs has for a loss on labels."""

    name = "labels"
    metric = "loss/hard"
    needs_teacher = False

    def count(self, counts: Counts) -> int:
        """Rows with a label; of rankings, queries."""
        return counts.labelled

    def sum_of_rows(self, rows: Rows) -> Float[Tensor, ""]:
        """The sum over rows with a label."""
        return rows.kind.hard(rows)
