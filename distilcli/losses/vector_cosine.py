"""The cosine distance of two encoders' vectors."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distilcli.losses.vectors import Vectors, VectorTerm


def vector_cosine_distance(
    student: Float[Tensor, "texts width"], teacher: Float[Tensor, "texts width"]
) -> Float[Tensor, ""]:
    """Sum over texts of 1 - cos(student, teacher), between 0 and 2 for each text."""
    return (1.0 - F.cosine_similarity(student, teacher, dim=-1)).sum()


class VectorCosine(VectorTerm):
    """1 - cos of the vectors of student and teacher."""

    name = "cosine"
    metric = "loss/cos"
    needs_one_width = True

    def sum_of_texts(self, vectors: Vectors) -> Float[Tensor, ""]:
        """`vector_cosine_distance`."""
        return vector_cosine_distance(vectors.student, vectors.teacher)
