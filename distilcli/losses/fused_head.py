"""The terms on logits over the vocabulary, for all tokens of a micro-batch, without full logits.

`fused_vocabulary_losses` goes through the tokens chunk by chunk, forward and backward in one pass,
so [tokens, vocabulary] never exists.

The logits of a chunk lie side by side for each token (`one_pass.py`). On a CPU, what is done to
them is done to a block of tokens at a time, while a cache holds it. Its products in fp32 run at
half their speed with a vocabulary's width, so there logits lie as [vocabulary, tokens], cut into
blocks of the vocabulary.

What is computed of the logits is a matter of the terms (`terms.py`), which are shown every chunk,
and then every block of it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from distilcli.losses.logits import Block, BlockGradient, Chunk
from distilcli.losses.one_pass import chunk_losses, compiled_chunk_losses
from distilcli.losses.projections import CastProjection, Mixture, Projection, TeacherLogits
from distilcli.losses.terms import VocabularyTerm

# Bytes of a model's logits of a chunk: few enough for memory, enough to spend little time on adding
# up gradients.
_CHUNK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 28}
_MIN_CHUNK_TOKENS = 64
# Rows of the vocabulary in a block, and logits in a block of tokens. A GPU has no use for blocks.
_BLOCK_ROWS = 1024
_BLOCK_ELEMENTS = {"cpu": 1 << 19}


class VocabularyLosses(NamedTuple):
    """The weighted total, which alone carries gradients, and the plain sum of each term."""

    total: Float[Tensor, ""]
    sums: Float[Tensor, " terms"]


def fused_vocabulary_losses(
    student: Projection,
    teacher: Projection | Mixture | None,
    labels: Int[Tensor, " labelled"],
    terms: Sequence[VocabularyTerm],
    coefficients: Sequence[Float[Tensor, ""]],
    chunk_tokens: int | None = None,
    block_rows: int | None = None,
    *,
    compiled: bool = False,
) -> VocabularyLosses:
    """Terms on the logits of the same tokens, without full logits.

    Args:
        student: features that carry gradients; its first len(labels) tokens are the masked ones.
        teacher: features of the same tokens, of one teacher or of several; None: no term needs one.
        labels: the original ids of the masked tokens.
        terms: what is computed of the logits.
        coefficients: of each term, weight over global count.
        chunk_tokens: tokens whose logits are held at once; None: by the vocabulary and device.
        block_rows: rows of the vocabulary whose logits are made at once; None: by the device and
            precision, 0: all of them (`one_pass.py`).
        compiled: whether what is done to logits is compiled, where all rows are made at once.

    Returns:
        total = sum over terms of coefficient * sum, and the sums.
    """
    device_type = student.features.device.type
    logit_bytes = _compute_dtype(student.features).itemsize
    if block_rows is None:
        in_rows = isinstance(teacher, Mixture) or logit_bytes > 2
        block_rows = _BLOCK_ROWS if in_rows and device_type == "cpu" else 0
    if chunk_tokens is None:
        token_bytes = logit_bytes * student.weight.shape[0]
        of_chunk = _CHUNK_BYTES.get(device_type, _CHUNK_BYTES["cuda"])
        chunk_tokens = max(_MIN_CHUNK_TOKENS, of_chunk // token_bytes)
    total, sums = _FusedVocabularyLosses.apply(
        *student, teacher, labels, terms, coefficients, chunk_tokens, block_rows, compiled
    )
    return VocabularyLosses(total, sums)


# Of features, weight and bias.
_Gradients = tuple[Tensor, Tensor, Tensor]


class _FusedVocabularyLosses(torch.autograd.Function):
    """Computes the gradient while the logits of a chunk are at hand, and keeps only that."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        teacher: Projection | Mixture | None,
        labels: Tensor,
        terms: Sequence[VocabularyTerm],
        coefficients: Sequence[Tensor],
        chunk_tokens: int,
        block_rows: int,
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        compute_dtype = _compute_dtype(features)
        # Softmax and sums need at least fp32, whatever the matrix products run in.
        sum_dtype = torch.promote_types(weight.dtype, torch.float32)
        sums = torch.zeros(len(terms), dtype=sum_dtype, device=features.device)
        gradients: _Gradients | None = None
        if any(ctx.needs_input_grad[:3]):
            # What the first chunk writes need not be zeros.
            new = torch.empty_like if len(features) else torch.zeros_like
            gradients = (
                new(features, dtype=sum_dtype),
                new(weight, dtype=sum_dtype),
                torch.zeros_like(bias, dtype=sum_dtype),
            )

        with torch.autocast(features.device.type, enabled=False):
            projection = CastProjection(weight.to(compute_dtype), bias, sum_dtype)
            taught = (
                None if teacher is None else TeacherLogits(teacher, terms, compute_dtype, sum_dtype)
            )
            head = _Head(projection, taught, terms, coefficients)
            at_once = not block_rows and not isinstance(teacher, Mixture)
            if at_once:
                head = head.filled()
            for tokens in _slices(features.shape[0], chunk_tokens):
                of_chunk = labels[tokens]
                if at_once:
                    size = weight.shape[0]
                    head.at_once(features, tokens, of_chunk, size, sums, gradients, compiled)
                else:
                    rows = block_rows or weight.shape[0]
                    head.by_block(features, tokens, of_chunk, rows, sums, gradients)
        if gradients is not None:
            ctx.save_for_backward(*gradients)
            ctx.dtypes = features.dtype, weight.dtype, bias.dtype
        total = torch.zeros_like(sums[0])
        for coefficient, value in zip(coefficients, sums, strict=True):
            total = total + coefficient * value
        ctx.mark_non_differentiable(sums)
        return total, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *((gradient * grad_total).to(dtype) for gradient, dtype in gradients), *([None] * 7)


class _Head(NamedTuple):
    """Both models' projections, and what is computed of their logits."""

    student: CastProjection
    teacher: TeacherLogits | None
    terms: Sequence[VocabularyTerm]
    coefficients: Sequence[Tensor]

    def filled(self) -> "_Head":
        """For `at_once`; see `CastProjection.filled`."""
        if self.teacher is not None:
            self.teacher.fill()
        return self._replace(student=self.student.filled())

    def by_block(
        self,
        features: Float[Tensor, "all hidden"],
        tokens: slice,
        labels: Int[Tensor, " labelled"],
        block_rows: int,
        sums: Float[Tensor, " terms"],
        gradients: _Gradients | None,
    ) -> None:
        """Add one chunk of tokens to sums and gradients, block by block of the vocabulary."""
        blocks = _slices(self.student.weight.shape[0], block_rows)
        inputs = features[tokens].to(self.student.weight.dtype)
        logits = self.student.logits(inputs, blocks)
        teacher_logits = None if self.teacher is None else self.teacher.logits(tokens, blocks)
        chunk = Chunk(logits, teacher_logits, self.student.weight.shape[0])
        of_blocks = _losses_of(chunk, blocks, labels, self.terms, self.coefficients, sums)
        for rows, gradient in zip(blocks, of_blocks, strict=True):
            if gradients is None:
                continue
            of_features, of_weight, of_bias = gradients
            of_bias[rows] += gradient.sum(dim=1)
            gradient = gradient.to(inputs.dtype)
            _put_product(of_weight[rows], gradient, inputs, tokens.start == 0)
            weight = self.student.weight[rows]
            _put_product(of_features[tokens], gradient.T, weight, rows.start == 0)

    def at_once(
        self,
        features: Float[Tensor, "all hidden"],
        tokens: slice,
        labels: Int[Tensor, " labelled"],
        vocab_size: int,
        sums: Float[Tensor, " terms"],
        gradients: _Gradients | None,
        compiled: bool,
    ) -> None:
        """The same of the whole vocabulary at once, which has been filled up."""
        inputs = features[tokens].to(self.student.weight.dtype)
        logits = self.student.product(inputs)
        teacher = None if self.teacher is None else self.teacher.product(tokens)
        of_bias = None if gradients is None else gradients[2][:vocab_size]
        of_logits = self._by_tokens(logits, teacher, labels, vocab_size, sums, of_bias, compiled)
        if gradients is not None:
            of_features, of_weight, _ = gradients
            # Filled as it is, for the sake of strides: the products with what fills up are 0.
            of_filled = of_logits.T @ inputs
            _put(of_weight, of_filled[:vocab_size], tokens.start == 0)
            _put_product(of_features[tokens], of_logits, self.student.weight, True)

    def _by_tokens(
        self,
        logits: Float[Tensor, "tokens filled"],
        teacher: tuple[Float[Tensor, "tokens filled"], Float[Tensor, " filled"]] | None,
        labels: Int[Tensor, " labelled"],
        vocab_size: int,
        sums: Float[Tensor, " terms"],
        of_bias: Float[Tensor, " vocab"] | None,
        compiled: bool,
    ) -> Float[Tensor, "tokens filled"]:
        """The gradient of the logits of a chunk, which may take their place.

        Of both models they come without the bias. Added to are the sums of the terms and the
        gradient of the bias.
        """
        compute = compiled_chunk_losses() if compiled else chunk_losses
        elements = _BLOCK_ELEMENTS.get(logits.device.type, logits.numel())
        blocks = _slices(len(logits), max(1, elements // logits.shape[1]))
        for some in blocks:
            found = compute(
                logits[some],
                self.student.bias,
                None if teacher is None else teacher[0][some],
                None if teacher is None else teacher[1],
                labels[some],
                vocab_size,
                self.terms,
                self.coefficients,
            )
            sums += found.sums
            if of_bias is not None:
                # Of what has been rounded, as the gradients of weight and features are.
                of_bias += found.gradient.sum(dim=0, dtype=of_bias.dtype)[: len(of_bias)]
            if len(blocks) == 1:
                return found.gradient
            logits[some] = found.gradient
        return logits


def _losses_of(
    chunk: Chunk,
    blocks: list[slice],
    labels: Int[Tensor, " labelled"],
    terms: Sequence[VocabularyTerm],
    coefficients: Sequence[Float[Tensor, ""]],
    sums: Float[Tensor, " terms"],
) -> Iterator[Float[Tensor, "rows tokens"]]:
    """Add one chunk, whose first len(labels) tokens have a label, to the sums of the terms.

    Yields:
        d total / d z of each block of the vocabulary.
    """
    begun = [term.begin(chunk, labels) for term in terms]
    for place, of_term in enumerate(begun):
        if of_term is not None and of_term.sum is not None:
            sums[place] += of_term.sum
    for index, rows in enumerate(blocks):
        block = Block(chunk, index, rows)
        gradient = BlockGradient(block.student)
        for place, (term, of_term) in enumerate(zip(terms, begun, strict=True)):
            if of_term is not None:
                part = term.block(block, labels, of_term, coefficients[place], gradient)
                if part is not None:
                    sums[place] += part
        yield gradient.sum


def _slices(total: int, size: int) -> list[slice]:
    """From 0 to the total, in steps of that size."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _put_product(
    target: Float[Tensor, "a b"],
    one: Float[Tensor, "a c"],
    other: Float[Tensor, "c b"],
    is_first: bool,
) -> None:
    """Write one @ other, or add it to what was written first, in the target's precision."""
    if one.dtype == target.dtype:
        target.addmm_(one, other, beta=0 if is_first else 1)
    else:
        _put(target, one @ other, is_first)


def _put(target: Tensor, part: Tensor, is_first: bool) -> None:
    """Write a part, or add it to what was written first."""
    if is_first:
        target.copy_(part)
    else:
        target.add_(part)


def _compute_dtype(features: Tensor) -> torch.dtype:
    device_type = features.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return features.dtype
