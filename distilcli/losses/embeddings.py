"""What the first layers of student and teacher are given: the output of the embeddings."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from distilcli.losses.hidden_states import hidden_squared_error
from distilcli.losses.inside import Compared, InnerTerm, Pair, Place, Shape


class Embeddings(InnerTerm):
    """The squared error of the embeddings' output, a mean over the width, computed in fp32.

    Source: Jiao et al. 2020 (TinyBERT), eq. 9.
    """

    name = "embeddings"
    metric = "loss/embeddings"
    needs_one_width = True

    def places(self, student: Shape, teacher: Shape) -> list[Pair]:
        """Before the first layer."""
        return [Pair(Place("hidden_states", 0), Place("hidden_states", 0))]

    def sum(self, compared: Sequence[Compared], lengths: Sequence[int]) -> Float[Tensor, ""]:
        """`hidden_squared_error`."""
        [(student, teacher)] = compared
        return hidden_squared_error(student.float(), teacher.float())
