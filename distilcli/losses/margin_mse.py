"""Margin MSE: the squared difference between the score margins of student and teacher."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from distilcli.losses.candidates import by_query
from distilcli.losses.terms import Counts, OutputTerm, Rows


def margin_mse(
    student: Float[Tensor, "queries candidates"],
    teacher: Float[Tensor, "queries candidates"],
    labels: Float[Tensor, "queries candidates"],
) -> Float[Tensor, ""]:
    """Sum over the pairs of each query of ((z_i - z_j) - (v_i - v_j))^2.

    The pairs are those of `compared_pairs`. Adding a number to all scores of a query changes
    nothing: a student need not have the teacher's scores, only its margins.

    Source: Hofstaetter et al. 2020, *Improving Efficient Neural Ranking Models with
    Cross-Architecture Knowledge Distillation*, sec. 3, with one relevant and one other document in
    each pair.
    """
    difference = student - teacher
    margins = difference[:, :, None] - difference[:, None, :]
    return margins.square().where(compared_pairs(labels), 0.0).sum()


def compared_pairs(
    labels: Float[Tensor, "queries candidates"],
) -> Bool[Tensor, "queries candidates candidates"]:
    """Which pairs (i, j) are compared: i is more relevant than j.

    In a query in which no candidate is more relevant than another, all pairs are, each once. A
    candidate without a label (NaN) counts as one that is not relevant.
    """
    relevance = labels.nan_to_num(0.0)
    ordered = relevance[:, :, None] > relevance[:, None, :]
    size = labels.shape[1]
    each_once = torch.ones(size, size, dtype=torch.bool, device=labels.device).triu(1)
    return ordered.where(ordered.any(dim=(1, 2), keepdim=True), each_once)


class MarginMSE(OutputTerm):
    """The squared difference of margins, over pairs of candidates of one query."""

    name = "margin_mse"
    metric = "loss/margin_mse"

    def count(self, counts: Counts) -> int:
        """Pairs."""
        return counts.pairs

    def sum_of_rows(self, rows: Rows) -> Float[Tensor, ""]:
        """The sum over pairs; of several teachers the margins are averaged."""
        total = rows.student.new_zeros(())
        teacher = rows.teacher_at(self.temperature)
        values = [rows.student[:, 0], teacher[:, 0], rows.targets]
        for student, taught, labels in by_query(values, rows.sizes):
            total = total + margin_mse(student, taught, labels)
        return total
