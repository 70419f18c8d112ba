"""The terms on the logits of all ids at once, as a function that can be compiled.

A CPU in bf16 calls it for a few tokens at a time, whose logits a cache holds. A GPU has no such
cache, and is given a whole chunk. What counts there is how often logits go through memory. Run as
it is, every operation of every term reads and writes them once, in fp32. Compiled, as
`train.compile` has it, the logits are read a few times in the precision of the products, and only
their gradient is written.

The logits of a token lie side by side, so that what is summed over the vocabulary is summed along
memory. The vocabulary is filled up to a multiple of `_ALIGNED` with ids of no weight and no
probability, because products of bf16 with odd strides run at a fraction of their speed.
"""

import copy
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
# Nothing of the size of the logits is to be written but their gradient, however much is done to
# them: by itself, the compiler keeps what took it many operations.
_OPTIONS: dict[str, Any] = {
    "realize_opcount_threshold": 1000,
    "realize_reads_threshold": 100,
    "realize_acc_reads_threshold": 100,
}
# The logit of an id that fills up. Its probability is 0 at any temperature, and the difference of
# two of them is 0, which that of two infinities would not be.
_NEVER = -1e30


class ChunkLosses(NamedTuple):
    """What a chunk of tokens adds to the losses.

    Attributes:
        gradient: d total / d z in the precision of the products; 0 for ids that fill up.
        sums: of each term.
    """

    gradient: Float[Tensor, "tokens filled"]
    sums: Float[Tensor, " terms"]


def filled_weight(weight: Float[Tensor, "vocab hidden"]) -> Float[Tensor, "filled hidden"]:
    """With rows of zeros at the end, so many that products with it have even strides."""
    return F.pad(weight, (0, 0, 0, -weight.shape[0] % _ALIGNED))


def filled_bias(bias: Float[Tensor, " vocab"]) -> Float[Tensor, " filled"]:
    """The same of its bias, with which the ids that fill up have no probability."""
    return F.pad(bias, (0, -bias.shape[0] % _ALIGNED), value=_NEVER)


def chunk_losses(
    student: Float[Tensor, "tokens filled"],
    bias: Float[Tensor, " filled"],
    teacher: Float[Tensor, "tokens filled"] | None,
    teacher_bias: Float[Tensor, " filled"] | None,
    labels: Int[Tensor, " labelled"],
    vocab_size: int,
    terms: Sequence[VocabularyTerm],
    coefficients: Sequence[Float[Tensor, ""]],
) -> ChunkLosses:
    """Sums and gradient of one chunk.

    Args:
        student: the product of features and filled weight, in whatever precision.
        bias: of the student's logits, in the precision of the sums.
        teacher: of the same tokens; None: no term needs a teacher.
        teacher_bias: likewise.
        labels: the original ids of the first tokens.
        vocab_size: without the ids that fill up.
        terms: what is computed of the logits.
        coefficients: of each term.
    """
    logits = Logits([torch.add(bias, student).T])
    teacher_logits = None
    if teacher is not None:
        assert teacher_bias is not None
        teacher_logits = Logits([torch.add(teacher_bias, teacher).T])
    chunk = Chunk(logits, teacher_logits, vocab_size)
    block = Block(chunk, 0, slice(0, bias.shape[0]))
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
    return ChunkLosses(gradient.sum.T.to(student.dtype), torch.stack(sums))


def with_temperatures_as_tensors(
    terms: Sequence[VocabularyTerm], device: torch.device
) -> list[VocabularyTerm]:
    """Copies of the terms for a compiler, which takes numbers for constants of its graphs.

    A temperature that changes over a run would otherwise be compiled at every step.
    """
    tensors: dict[float, Tensor] = {}
    copies = []
    for term in terms:
        if term.softens and term.temperature not in tensors:
            # Not torch.tensor, whose copy to a device waits for it.
            tensors[term.temperature] = torch.full((), term.temperature, device=device)
        copied: Any = copy.copy(term)
        copied.temperature = tensors.get(term.temperature) if term.softens else 1.0
        copies.append(copied)
    return copies


@cache
def compiled_chunk_losses() -> Callable[..., ChunkLosses]:
    """`chunk_losses` in as few kernels as a compiler finds; as it is, where there is none.

    Numbers of tokens and labels are symbolic, the size of the vocabulary is not, and temperatures
    are tensors. A chunk without labels and one with some are two graphs; where every token has one,
    there may be a third.
    """
    # Besides the graphs of each set of terms there are those of the layers.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
    compiled = torch.compile(chunk_losses, dynamic=True, options=_OPTIONS)
    is_broken = False

    def run(
        student: Tensor,
        bias: Tensor,
        teacher: Tensor | None,
        teacher_bias: Tensor | None,
        labels: Tensor,
        vocab_size: int,
        terms: Sequence[VocabularyTerm],
        coefficients: Sequence[Tensor],
    ) -> ChunkLosses:
        nonlocal is_broken
        logits = student, bias, teacher, teacher_bias, labels, vocab_size
        if not is_broken:
            for of_vocabulary in (bias, teacher_bias):
                if of_vocabulary is not None:
                    torch._dynamo.mark_static(of_vocabulary, 0)
            for of_tokens in (student, teacher):
                if of_tokens is not None:
                    torch._dynamo.mark_static(of_tokens, 1)
            softened = with_temperatures_as_tensors(terms, bias.device)
            try:
                found: ChunkLosses = compiled(*logits, softened, coefficients)
                return found
            except Exception as error:
                # Whatever compilers raise. What is no fault of theirs comes again below.
                is_broken = True
                reason = str(error).strip().partition("\n")[0]
                _LOG.warning("the losses cannot be compiled, and run as they are: %s", reason)
        return chunk_losses(*logits, terms, coefficients)

    return run
