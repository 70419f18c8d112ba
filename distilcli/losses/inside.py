"""Terms that look inside both models: at hidden states between layers, queries, keys and values.

A term is told how deep and how wide both models are, says which places of each it compares, and
gets what was there. Nothing else is kept of the models.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from distilcli.losses.terms import Counts, Term

What = Literal["hidden_states", "query", "key", "value", "attention_query", "attention_key"]


class Place(NamedTuple):
    """A place in a model.

    Attributes:
        what: hidden states; the projection to queries, keys or values; or the queries and keys that
            attention multiplies, which are rotated where the model does that.
        layer: of hidden states, after how many layers: 0 is what the first layer is given, and
            the number of layers is the last hidden states, with a norm after the last layer if
            the model has one. Of queries, keys and values, in which layer, from 0.
    """

    what: What
    layer: int


class Shape(NamedTuple):
    """What a term must know of a model to say where it looks.

    Attributes:
        num_layers: depth.
        width: of hidden states, and of the queries, keys and values of all heads of a layer.
        num_heads: attention heads of a layer.
        radii: of each layer, places to either side that a token sees; None: its whole sequence.
    """

    num_layers: int
    width: int
    num_heads: int
    radii: tuple[int | None, ...]


class Pair(NamedTuple):
    """Places whose values are compared: one of the student, one of the teacher."""

    student: Place
    teacher: Place


class CannotCompare(ValueError):
    """Two models do not have what a term compares.

    Args:
        message: what does not fit, with the key below the section of the term: "layers: ...".
        hint: what to do.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


Compared = tuple[Float[Tensor, "tokens width"], Float[Tensor, "tokens teacher_width"]]


class InnerTerm(Term):
    """A term on what is inside both models, in both kinds of training."""

    def count(self, counts: Counts) -> int:
        """Tokens that both models read."""
        return counts.tokens

    @abstractmethod
    def places(self, student: Shape, teacher: Shape) -> Sequence[Pair]:
        """The places that it compares, given the shapes of both models.

        Raises:
            CannotCompare: they have no such places, or what is there cannot be compared.
        """

    @abstractmethod
    def sum(self, compared: Sequence[Compared], lengths: Sequence[int]) -> Float[Tensor, ""]:
        """The sum over tokens, with its gradient.

        Args:
            compared: for each of its `places`, what is there in the student and in the teacher,
                of the tokens that both read, all sequences end to end. The heads of queries,
                keys and values are side by side.
            lengths: tokens of each sequence, in order; 0 where the models have none in common.
        """
