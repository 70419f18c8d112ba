"""The squared error of one encoder's vectors to another's."""

from jaxtyping import Float
from torch import Tensor

from distilcli.losses.vectors import Vectors, VectorTerm


def vector_squared_error(
    student: Float[Tensor, "texts width"], teacher: Float[Tensor, "texts width"]
) -> Float[Tensor, ""]:
    """Sum over texts of the mean over the width of (student - teacher)^2.

    Source: Reimers, Gurevych 2020, *Making Monolingual Sentence Embeddings Multilingual using
    Knowledge Distillation*, sec. 2, with one language.
    """
    return (student - teacher).square().mean(dim=-1).sum()


class VectorMSE(VectorTerm):
    """The mean over a vector of its squared difference to the teacher's."""

    name = "mse"
    metric = "loss/mse"
    needs_one_width = True

    def sum_of_texts(self, vectors: Vectors) -> Float[Tensor, ""]:
        """`vector_squared_error`."""
        return vector_squared_error(vectors.student, vectors.teacher)
