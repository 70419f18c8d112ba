"""The cross-entropy of masked tokens (L_mlm): the hard targets of masked-LM training."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.logits import Block, BlockGradient, Chunk, sum_of_products
from distilcli.losses.terms import Begun, Counts, VocabularyTerm


def masked_lm_cross_entropy(
    student_logits: Float[Tensor, "masked vocab"], labels: Int[Tensor, " masked"]
) -> Float[Tensor, ""]:
    """Sum over masked positions of -log q(label), in nats, at temperature 1.

    Gradient with respect to the student's logits: q, less 1 at the label.

    Source: Devlin et al. 2019, sec. 3.1.
    """
    return F.cross_entropy(student_logits, labels, reduction="sum")


class MaskedLM(VocabularyTerm):
    """-log q(label) at the masked positions, at temperature 1."""

    name = "masked_lm"
    metric = "loss/mlm"
    needs_teacher = False

    def count(self, counts: Counts) -> int:
        """Masked positions."""
        return counts.labelled

    def begin(self, chunk: Chunk, labels: Int[Tensor, " labelled"]) -> Begun | None:
        """The log-sums of the masked tokens."""
        if len(labels) == 0:
            return None
        if torch.compiler.is_compiling():
            return Begun(chunk.student.log_sum()[: len(labels)].sum())
        return Begun(chunk.student.log_sum(first=len(labels)).sum())

    def block(
        self,
        block: Block,
        labels: Int[Tensor, " labelled"],
        begun: Begun,
        coefficient: Float[Tensor, ""],
        gradient: BlockGradient,
    ) -> Float[Tensor, ""]:
        """-z(label) of the labels that lie in this block, and the gradient of the whole."""
        if torch.compiler.is_compiling():
            return _block_in_one_pass(block, labels, coefficient, gradient)
        num_labels, rows = len(labels), block.rows
        masked = gradient.sum[:, :num_labels]
        masked.addcmul_(block.chunk.student.probs(block.index, first=num_labels), coefficient)
        # Each label lies in one block; in the others it counts for nothing.
        here = (labels >= rows.start) & (labels < rows.stop)
        row = (labels - rows.start).clamp(0, rows.stop - rows.start - 1)[None]
        logits = block.student[:, :num_labels]
        masked.scatter_add_(0, row, -(coefficient * here)[None].to(logits.dtype))
        found: Tensor = (logits.gather(0, row) * here).sum()
        return -found


def _block_in_one_pass(
    block: Block,
    labels: Int[Tensor, " labelled"],
    coefficient: Float[Tensor, ""],
    gradient: BlockGradient,
) -> Float[Tensor, ""]:
    """`MaskedLM.block` for a compiler, of all tokens: those without a label count for nothing.

    Changing a part of the gradient, or scattering into it, would be a pass of its own.
    """
    rows, tokens = block.rows, block.student.shape[1]
    # No row of the vocabulary is that of a token without a label.
    row_of = F.pad(labels, (0, tokens - len(labels)), value=-1)
    here = torch.arange(rows.start, rows.stop, device=labels.device)[:, None] == row_of
    counted = torch.where(row_of >= 0, coefficient, 0.0)
    gradient.add((block.chunk.student.probs(block.index) - here.float()) * counted)
    return -sum_of_products(block.student, here)
