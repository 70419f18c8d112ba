"""The loss on the labels of a task: its hard targets, cross-entropy or squared error."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.terms import Counts, OutputTerm, Rows


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


class Labels(OutputTerm):
    """What the kind of outputs has for a loss on labels."""

    name = "labels"
    metric = "loss/hard"
    needs_teacher = False

    def count(self, counts: Counts) -> int:
        """Rows with a label."""
        return counts.labelled

    def sum_of_rows(self, rows: Rows) -> Float[Tensor, ""]:
        """The sum over rows with a label."""
        return rows.kind.hard(rows.student, rows.targets)
