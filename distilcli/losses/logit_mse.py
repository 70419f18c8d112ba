"""The squared difference of logits (L_mse of the DistilBERT release)."""

from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.logits import Block, BlockGradient, Chunk, sum_of_products
from distilcli.losses.terms import Begun, Counts, VocabularyTerm


def logit_squared_error(
    student_logits: Float[Tensor, "tokens vocab"], teacher_logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over the vocabulary of (z - v)^2.

    Gradient with respect to the student's logits: 2 (z - v) / N, for a vocabulary of N.

    Source: Ba and Caruana 2014, sec. 2.2; the high-temperature limit of Hinton et al. 2015, eq. 4.
    """
    return (student_logits - teacher_logits).square().mean(dim=-1).sum()


class LogitMSE(VocabularyTerm):
    """The mean over the vocabulary of (z - v)^2."""

    name = "logit_mse"
    metric = "loss/mse"

    def count(self, counts: Counts) -> int:
        """Positions that are compared."""
        return counts.compared

    def begin(self, chunk: Chunk, labels: Int[Tensor, " labelled"]) -> Begun:
        """Nothing is known before the blocks."""
        return Begun()

    def block(
        self,
        block: Block,
        labels: Int[Tensor, " labelled"],
        begun: Begun,
        coefficient: Float[Tensor, ""],
        gradient: BlockGradient,
    ) -> Float[Tensor, ""]:
        """Sum of (v - z)^2 / N, and its gradient -2 (v - z) / N."""
        vocab_size = block.chunk.vocab_size
        gradient.sum.addcmul_(block.difference, coefficient * (-2.0 / vocab_size))
        return sum_of_products(block.difference, block.difference) / vocab_size
