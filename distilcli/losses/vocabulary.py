"""The losses that need logits, for all tokens of a micro-batch, without full logits.

`fused_vocabulary_losses` goes through the tokens chunk by chunk, forward and backward in one pass,
so [tokens, vocabulary] never exists. The logits of a chunk lie as [vocabulary, tokens], cut into
blocks of the vocabulary: matrix products with a vocabulary's width run at half their speed on a
CPU, and what is done to a block is done while a cache holds it.

Notation as in `losses.py`: student logits z, teacher logits v, q = softmax(z/T), p = softmax(v/T).
What is made and kept of the logits are z/T and v/T.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from distilcli.losses.soft_targets import check_temperature

# Logits of a chunk: few enough for memory, enough to spend little time on adding up gradients.
_CHUNK_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 27}
_MIN_CHUNK_TOKENS = 64
# Rows of the vocabulary in a block. A GPU has no use for blocks: all rows are one.
_BLOCK_ROWS = {"cpu": 1024}


class Coefficients(NamedTuple):
    """What each sum is multiplied by in the total: alpha / global count, as 0-d tensors.

    None: the term is not wanted, is not computed, and its sum is given as 0.
    """

    ce: Float[Tensor, ""] | None
    mlm: Float[Tensor, ""] | None
    cos: Float[Tensor, ""] | None
    mse: Float[Tensor, ""] | None


class Projection(NamedTuple):
    """Features and the vocabulary projection that turns them into logits."""

    features: Float[Tensor, "tokens hidden"]
    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"]


class VocabularyLosses(NamedTuple):
    """The weighted total, which alone carries gradients, and the plain sums of its terms."""

    total: Float[Tensor, ""]
    ce: Float[Tensor, ""]
    mlm: Float[Tensor, ""]
    mse: Float[Tensor, ""]


def fused_vocabulary_losses(
    student: Projection,
    teacher: Projection | None,
    labels: Int[Tensor, " masked"],
    coefficients: Coefficients,
    temperature: float,
    chunk_tokens: int | None = None,
    block_rows: int | None = None,
) -> VocabularyLosses:
    """Soft targets, hard targets and logit MSE of the same tokens, without full logits.

    Args:
        student: features that carry gradients; its first len(labels) tokens are the masked ones.
        teacher: features of the same tokens; None: hard targets alone.
        labels: the original ids of the masked tokens.
        coefficients: `ce`, `mlm` and `mse` are used.
        temperature: T of the soft targets.
        chunk_tokens: tokens whose logits are held at once; None: by the vocabulary and device.
        block_rows: rows of the vocabulary whose logits are made at once; None: by the device.

    Returns:
        total = ce * sum(T^2 KL) + mlm * sum(cross-entropy) + mse * sum(squared error).

    Raises:
        ValueError: temperature is not positive.
    """
    check_temperature(temperature)
    vocab_size = student.weight.shape[0]
    device_type = student.features.device.type
    if chunk_tokens is None:
        elements = _CHUNK_ELEMENTS.get(device_type, _CHUNK_ELEMENTS["cuda"])
        chunk_tokens = max(_MIN_CHUNK_TOKENS, elements // vocab_size)
    if block_rows is None:
        block_rows = _BLOCK_ROWS.get(device_type, vocab_size)
    teacher_tensors = (None, None, None) if teacher is None else tuple(teacher)
    total, ce, mlm, mse = _FusedVocabularyLosses.apply(
        *student, *teacher_tensors, labels, coefficients, temperature, chunk_tokens, block_rows
    )
    return VocabularyLosses(total, ce, mlm, mse)


class _FusedVocabularyLosses(torch.autograd.Function):
    """Computes the gradient while the logits of a chunk are at hand, and keeps only that."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        teacher_features: Tensor | None,
        teacher_weight: Tensor | None,
        teacher_bias: Tensor | None,
        labels: Tensor,
        coefficients: Coefficients,
        temperature: float,
        chunk_tokens: int,
        block_rows: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        compute_dtype = _compute_dtype(features)
        # Softmax and sums need at least fp32, whatever the matrix products run in.
        sum_dtype = torch.promote_types(weight.dtype, torch.float32)
        sums = _Sums(temperature, coefficients, sum_dtype, features.device)
        gradients = None
        if any(ctx.needs_input_grad[:3]):
            gradients = tuple(
                torch.zeros_like(t, dtype=sum_dtype) for t in (features, weight, bias)
            )

        with torch.autocast(features.device.type, enabled=False):
            projection = _Projection(weight.to(compute_dtype), bias, sum_dtype)
            teacher_projection = None
            if teacher_features is not None:
                assert teacher_weight is not None
                assert teacher_bias is not None
                dtype = teacher_weight.dtype
                dtype = compute_dtype if dtype == torch.float32 else dtype
                teacher_projection = _Projection(teacher_weight.to(dtype), teacher_bias, sum_dtype)
            blocks = _slices(weight.shape[0], block_rows)
            for tokens in _slices(features.shape[0], chunk_tokens):
                inputs = features[tokens].to(compute_dtype)
                logits = projection.logits(inputs, blocks, temperature)
                teacher_logits = None
                if teacher_projection is not None:
                    assert teacher_features is not None
                    teacher_logits = teacher_projection.logits(
                        teacher_features[tokens], blocks, temperature
                    )
                chunk = sums.add(blocks, logits, teacher_logits, labels[tokens])
                for rows, gradient in zip(blocks, chunk, strict=True):
                    if gradients is None:
                        continue
                    of_features, of_weight, of_bias = gradients
                    of_bias[rows] += gradient.sum(dim=1)
                    gradient = gradient.to(compute_dtype)
                    _add_product(of_weight[rows], gradient, inputs)
                    _add_product(of_features[tokens], gradient.T, projection.weight[rows])
                del chunk, logits, teacher_logits  # before the next ones are made
        if gradients is not None:
            ctx.save_for_backward(*gradients)
            ctx.dtypes = features.dtype, weight.dtype, bias.dtype
        ce, mlm, mse = sums.values
        ctx.mark_non_differentiable(ce, mlm, mse)
        return sums.total(), ce, mlm, mse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *((gradient * grad_total).to(dtype) for gradient, dtype in gradients), *([None] * 8)


class _Projection(NamedTuple):
    """A projection in the precision of its products; its logits come in that of the sums."""

    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"]
    sum_dtype: torch.dtype

    def logits(
        self, features: Float[Tensor, "tokens hidden"], blocks: list[slice], temperature: float
    ) -> list[Tensor]:
        """Logits / T of each block: [rows, tokens]."""
        inputs = features.to(self.weight.dtype).T
        bias = (self.bias.to(self.sum_dtype) / temperature)[:, None]
        return [
            torch.add(bias[rows], self.weight[rows] @ inputs, alpha=1.0 / temperature)
            for rows in blocks
        ]


class _Sums:
    """Adds up the losses of chunks of tokens and gives the gradient of their weighted total."""

    def __init__(
        self,
        temperature: float,
        coefficients: Coefficients,
        sum_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.temperature = temperature
        self.coefficients = coefficients
        self.values = list(torch.zeros(3, dtype=sum_dtype, device=device))

    def total(self) -> Float[Tensor, ""]:
        """The weighted total so far."""
        weights = self.coefficients
        total = torch.zeros_like(self.values[0])
        for weight, value in zip((weights.ce, weights.mlm, weights.mse), self.values, strict=True):
            if weight is not None:
                total = total + weight * value
        return total

    def add(
        self,
        blocks: list[slice],
        logits: list[Float[Tensor, "rows tokens"]],
        teacher_logits: list[Float[Tensor, "rows tokens"]] | None,
        labels: Int[Tensor, " masked"],
    ) -> Iterator[Float[Tensor, "rows tokens"]]:
        """Add one chunk, whose first len(labels) tokens are masked.

        In here z and v stand for z/T and v/T; gradients are those of the logits themselves.

        Args:
            blocks: rows of the vocabulary.
            logits: z/T of each block.
            teacher_logits: v/T of each block.
            labels: of the masked tokens.

        Yields:
            d total / d logits of each block.
        """
        temperature = self.temperature
        ce, mlm, _, mse = self.coefficients
        masked = slice(0, len(labels))
        if len(labels) == 0:
            mlm = None
        if ce is not None and teacher_logits is not None:
            log_sum = _log_sum_exp(logits)
            teacher_log_sum = _log_sum_exp(teacher_logits)
            # sum p (log p - log q) = sum p (v/T - z/T) + log_sum - teacher_log_sum
            self.values[0] += temperature**2 * (log_sum - teacher_log_sum).sum()
        if mlm is not None:
            hard_log_sum = _log_sum_exp(z[:, masked] * temperature for z in logits)
            self.values[1] += hard_log_sum.sum()
        vocab_size = blocks[-1].stop
        for index, (rows, z) in enumerate(zip(blocks, logits, strict=True)):
            gradient = None
            if teacher_logits is not None:
                v = teacher_logits[index]
                difference = v - z
                if ce is not None:
                    q = _softmax(z, log_sum)
                    p = _softmax(v, teacher_log_sum)
                    self.values[0] += temperature**2 * torch.dot(p.view(-1), difference.view(-1))
                    gradient = q.sub_(p).mul_(ce * temperature)
                if mse is not None:
                    self.values[2] += temperature**2 * difference.square().sum() / vocab_size
                    gradient = torch.zeros_like(z) if gradient is None else gradient
                    gradient.addcmul_(difference, mse * (-2.0 * temperature / vocab_size))
            gradient = torch.zeros_like(z) if gradient is None else gradient
            if mlm is not None:
                hard = z[:, masked] * temperature
                gradient[:, masked].addcmul_(_softmax(hard, hard_log_sum), mlm)
                # Each label lies in one block; in the others it counts for nothing.
                here = (labels >= rows.start) & (labels < rows.stop)
                row = (labels - rows.start).clamp(0, len(z) - 1)[None]
                self.values[1] -= (hard.gather(0, row) * here).sum()
                gradient[:, masked].scatter_add_(0, row, -(mlm * here)[None].to(z.dtype))
            yield gradient


def _slices(total: int, size: int) -> list[slice]:
    """From 0 to the total, in steps of that size."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _log_sum_exp(logits: Iterable[Float[Tensor, "rows tokens"]]) -> Float[Tensor, " tokens"]:
    """Over the whole vocabulary."""
    blocks = [torch.logsumexp(block, dim=0) for block in logits]
    return torch.logsumexp(torch.stack(blocks), dim=0)


def _softmax(
    logits: Float[Tensor, "rows tokens"], log_sum: Float[Tensor, " tokens"]
) -> Float[Tensor, "rows tokens"]:
    """Of one block, given the logarithm of the sum over the whole vocabulary."""
    return (logits - log_sum).exp_()


def _add_product(
    target: Float[Tensor, "a b"], one: Float[Tensor, "a c"], other: Float[Tensor, "c b"]
) -> None:
    """Add one @ other in place, in the target's precision."""
    if one.dtype == target.dtype:
        target.addmm_(one, other)
    else:
        target += one @ other


def _compute_dtype(features: Tensor) -> torch.dtype:
    device_type = features.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return features.dtype
