"""The terms on a whole chunk of logits at once, as a function that can be compiled: for a GPU.

A GPU has no cache to keep blocks of logits in. What counts there is how often logits go through
memory. Run as it is, every operation of every term reads and writes them once, in fp32; compiled
(`train.compile`), the logits are read in the precision of the products a few times, and only their
gradient is written. Tokens are laid at distances that are multiples of `_ALIGNED`, because products
of bf16 with odd strides run at a fraction of their speed.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.losses.logits import Block, BlockGradient, Chunk, Logits
from distilcli.losses.terms import VocabularyTerm

_LOG = logging.getLogger(__name__)
_ALIGNED = 64


class ChunkLosses(NamedTuple):
    """What a chunk of tokens adds to the losses.

    Attributes:
        gradient: d total / d z in the precision of the products; 0 for tokens that fill up.
        of_bias: the same summed over tokens, in the precision of the sums.
        sums: of each term.
    """

    gradient: Float[Tensor, "vocab padded"]
    of_bias: Float[Tensor, " vocab"]
    sums: Float[Tensor, " terms"]


def padded(features: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "padded hidden"]:
    """With tokens of zeros at the end: at least one, so that no graph is made for none."""
    return F.pad(features, (0, 0, 0, _ALIGNED - features.shape[0] % _ALIGNED))


def whole_chunk(tokens: int) -> int:
    """As many tokens, about, as `padded` makes no others of than a few."""
    return max(_ALIGNED, tokens // _ALIGNED * _ALIGNED) - _ALIGNED // 8


def chunk_losses(
    student: Float[Tensor, "vocab padded"],
    bias: Float[Tensor, " vocab"],
    teacher: Float[Tensor, "vocab padded"] | None,
    teacher_bias: Float[Tensor, " vocab"] | None,
    labels: Int[Tensor, " labelled"],
    tokens: Float[Tensor, " tokens"],
    terms: Sequence[VocabularyTerm],
    coefficients: Sequence[Float[Tensor, ""]],
) -> ChunkLosses:
    """Sums and gradient of one chunk.

    Args:
        student: the product of features and weight, in whatever precision.
        bias: of the student's logits, in the precision of the sums.
        teacher: of the same tokens; None: no term needs a teacher.
        teacher_bias: likewise.
        labels: the original ids of the first tokens.
        tokens: anything with as many elements as tokens are real.
        terms: what is computed of the logits.
        coefficients: of each term.
    """
    count = tokens.shape[0]
    logits = Logits([torch.add(bias[:, None], student[:, :count])])
    teacher_logits = None
    if teacher is not None:
        assert teacher_bias is not None
        teacher_logits = Logits([torch.add(teacher_bias[:, None], teacher[:, :count])])
    chunk = Chunk(logits, teacher_logits, student.shape[0])
    block = Block(chunk, 0, slice(0, student.shape[0]))
    gradient = BlockGradient(block.student)
    sums = [torch.zeros((), dtype=bias.dtype, device=bias.device) for _ in terms]
    for place, term in enumerate(terms):
        begun = term.begin(chunk, labels)
        if begun is None:
            continue
        if begun.sum is not None:
            sums[place] = sums[place] + begun.sum
        part = term.block(block, labels, begun, coefficients[place], gradient)
        if part is not None:
            sums[place] = sums[place] + part
    filled = F.pad(gradient.sum.to(student.dtype), (0, student.shape[1] - count))
    # Of what has been rounded, as the gradients of weight and features are: a compiler would
    # otherwise have to write the gradient in both precisions.
    return ChunkLosses(filled, filled.sum(dim=1, dtype=bias.dtype), torch.stack(sums))


@cache
def compiled_chunk_losses() -> Callable[..., ChunkLosses]:
    """`chunk_losses` in as few kernels as a compiler finds; as it is, where there is none.

    Numbers of tokens and labels are symbolic. A chunk without labels, one in which every token has
    one and one in which some have are three graphs.
    """
    # Besides the three graphs of each set of terms there are those of the layers.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
    compiled = torch.compile(chunk_losses, dynamic=True)
    is_broken = False

    def run(*arguments: Any) -> ChunkLosses:
        nonlocal is_broken
        if not is_broken:
            try:
                found: ChunkLosses = compiled(*arguments)
                return found
            except Exception as error:
                # Whatever compilers raise. What is no fault of theirs comes again below.
                is_broken = True
                reason = str(error).strip().partition("\n")[0]
                _LOG.warning("the losses cannot be compiled, and run as they are: %s", reason)
        return chunk_losses(*arguments)

    return run
