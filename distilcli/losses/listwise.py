"""List-wise distillation of rankers: the KL divergence over the candidates of a query."""

from jaxtyping import Float
from torch import Tensor

from distilcli.losses.candidates import by_query
from distilcli.losses.mixture import mixed_logits
from distilcli.losses.soft_targets import soft_target_kl
from distilcli.losses.terms import Counts, OutputTerm, Rows


class Listwise(OutputTerm):
    """T^2 * KL(teacher || student) of the softmax over the scores of a query's candidates.

    A score divided by T and its softmax over the candidates is the probability to be ranked first.

    Source: Cao et al. 2007, *Learning to Rank: From Pairwise Approach to Listwise Approach*
    (ListNet, top one), whose cross-entropy has the same gradient, with a teacher's scores in place
    of judgments; T as Hinton et al. 2015.
    """

    name = "listwise"
    metric = "loss/listwise"
    softens = True

    def count(self, counts: Counts) -> int:
        """Queries with two candidates or more."""
        return counts.lists

    def sum_of_rows(self, rows: Rows) -> Float[Tensor, ""]:
        """The sum over queries; of several teachers the distributions are averaged."""
        total = rows.student.new_zeros(())
        values = [rows.student[:, 0], *(teacher[:, 0] for teacher in rows.teachers)]
        for student, *teachers in by_query(values, rows.sizes):
            taught = teachers[0]
            if len(teachers) > 1:
                taught = mixed_logits(teachers, rows.shares, self.temperature)
            total = total + soft_target_kl(student, taught, self.temperature)
        return total
