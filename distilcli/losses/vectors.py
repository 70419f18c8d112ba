"""What losses on vectors of texts have in common: embeddings of student and teacher."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from distilcli.losses.terms import Counts, Term


class Vectors(NamedTuple):
    """The vectors of a micro-batch's texts, group by group.

    Attributes:
        student: in fp32; projected to the teacher's width for a term with `needs_one_width`.
        teacher: in fp32.
        groups: how many texts each group has, in the order of the vectors.
    """

    student: Float[Tensor, "texts student_width"]
    teacher: Float[Tensor, "texts teacher_width"]
    groups: Sequence[int]


class VectorTerm(Term):
    """A term on the vectors of texts."""

    def count(self, counts: Counts) -> int:
        """Texts."""
        return counts.compared

    @abstractmethod
    def sum_of_texts(self, vectors: Vectors) -> Float[Tensor, ""]:
        """The sum over texts, with its gradient."""
