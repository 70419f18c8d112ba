"""The losses: pure functions of tensors that return sums, never means.

The caller divides once, by counts over all micro-batches and ranks, so no result depends on how a
batch is cut. `fused_vocabulary_losses` computes the terms that need logits chunk by chunk, forward
and backward in one pass, without ever holding [tokens, vocabulary].

Notation (Hinton, Vinyals, Dean 2015): student logits z, teacher logits v, q = softmax(z/T),
p = softmax(v/T).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits held at once: small enough for a CPU's caches, large enough to fill a GPU.
_CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}
_MIN_CHUNK_TOKENS = 64


def soft_target_kl(
    student_logits: Float[Tensor, "tokens vocab"],
    teacher_logits: Float[Tensor, "tokens vocab"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over tokens of T^2 * KL(p || q), in nats; zero where the logits match.

    Gradient with respect to the student's logits: T * (q - p).

    Raises:
        ValueError: temperature is not positive.
    Source: Hinton et al. 2015, eq. 1-2 and sec. 2 (T^2); Sanh et al. 2019, sec. 2.
    """
    _check_temperature(temperature)
    student_log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    teacher_log_probs = F.log_softmax(teacher_logits / temperature, dim=-1)
    difference = teacher_log_probs - student_log_probs
    return temperature**2 * (teacher_log_probs.exp() * difference).sum()


def masked_lm_cross_entropy(
    student_logits: Float[Tensor, "masked vocab"], labels: Int[Tensor, " masked"]
) -> Float[Tensor, ""]:
    """Sum over masked positions of -log q(label), in nats, at temperature 1.

    Source: Devlin et al. 2019, sec. 3.1.
    """
    return F.cross_entropy(student_logits, labels, reduction="sum")


def logit_squared_error(
    student_logits: Float[Tensor, "tokens vocab"], teacher_logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over the vocabulary of (z - v)^2.

    Source: Ba and Caruana 2014, sec. 2.2; the high-temperature limit of Hinton et al. 2015, eq. 4.
    """
    return (student_logits - teacher_logits).square().mean(dim=-1).sum()


def hidden_cosine_distance(
    student_hidden: Float[Tensor, "tokens hidden"], teacher_hidden: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, ""]:
    """Sum over tokens of 1 - cos(student, teacher), between 0 and 2 per token.

    Source: Sanh et al. 2019, sec. 3 (cosine embedding loss of hidden states).
    """
    return (1.0 - F.cosine_similarity(student_hidden, teacher_hidden, dim=-1)).sum()


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
) -> VocabularyLosses:
    """Soft targets, hard targets and logit MSE of the same tokens, without full logits.

    Args:
        student: features that carry gradients; its first len(labels) tokens are the masked ones.
        teacher: features of the same tokens; None: hard targets alone.
        labels: the original ids of the masked tokens.
        coefficients: `ce`, `mlm` and `mse` are used.
        temperature: T of the soft targets.
        chunk_tokens: tokens whose logits are held at once; None: by the vocabulary and device.

    Returns:
        total = ce * sum(T^2 KL) + mlm * sum(cross-entropy) + mse * sum(squared error).

    Raises:
        ValueError: temperature is not positive.
    """
    _check_temperature(temperature)
    vocab_size = student.weight.shape[0]
    if chunk_tokens is None:
        elements = _CHUNK_ELEMENTS.get(student.features.device.type, _CHUNK_ELEMENTS["cuda"])
        chunk_tokens = max(_MIN_CHUNK_TOKENS, elements // vocab_size)
    teacher_tensors = (None, None, None) if teacher is None else tuple(teacher)
    total, ce, mlm, mse = _FusedVocabularyLosses.apply(
        *student, *teacher_tensors, labels, coefficients, temperature, chunk_tokens
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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        compute_dtype = _compute_dtype(features)
        # Softmax and sums need at least fp32, whatever the matrix products run in.
        sum_dtype = torch.promote_types(weight.dtype, torch.float32)
        chunk = _Chunk(temperature, coefficients, sum_dtype, features.device)
        needs_gradient = any(ctx.needs_input_grad[:3])
        features_gradient = torch.empty_like(features) if needs_gradient else None
        weight_gradient = torch.zeros_like(weight, dtype=sum_dtype) if needs_gradient else None
        bias_gradient = torch.zeros_like(bias, dtype=sum_dtype) if needs_gradient else None

        with torch.autocast(features.device.type, enabled=False):
            projection = weight.to(compute_dtype)
            if teacher_features is not None:
                assert teacher_weight is not None
                assert teacher_bias is not None
                teacher_dtype = teacher_weight.dtype
                if teacher_dtype == torch.float32:
                    teacher_dtype = compute_dtype
                teacher_projection = teacher_weight.to(teacher_dtype)
            for start in range(0, features.shape[0], chunk_tokens):
                rows = slice(start, min(start + chunk_tokens, features.shape[0]))
                inputs = features[rows].to(compute_dtype)
                logits = (inputs @ projection.T).to(sum_dtype).add_(bias)
                teacher_logits = None
                if teacher_features is not None and teacher_bias is not None:
                    teacher_inputs = teacher_features[rows].to(teacher_dtype)
                    teacher_logits = (teacher_inputs @ teacher_projection.T).to(sum_dtype)
                    teacher_logits.add_(teacher_bias)
                gradient = chunk.add(logits, teacher_logits, labels[rows])
                if features_gradient is not None:
                    assert weight_gradient is not None
                    assert bias_gradient is not None
                    bias_gradient += gradient.sum(dim=0)
                    gradient = gradient.to(compute_dtype)
                    features_gradient[rows] = gradient @ projection
                    weight_gradient += gradient.T @ inputs
        if features_gradient is not None:
            ctx.save_for_backward(features_gradient, weight_gradient, bias_gradient)
            ctx.weight_dtypes = weight.dtype, bias.dtype
        ce, mlm, mse = chunk.sums
        ctx.mark_non_differentiable(ce, mlm, mse)
        return chunk.total(), ce, mlm, mse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        features_gradient, weight_gradient, bias_gradient = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.weight_dtypes
        return (
            features_gradient * grad_total.to(features_gradient.dtype),
            (weight_gradient * grad_total).to(weight_dtype),
            (bias_gradient * grad_total).to(bias_dtype),
            *([None] * 7),
        )


class _Chunk:
    """Adds up the losses of chunks of logits and gives the gradient of their weighted total."""

    def __init__(
        self,
        temperature: float,
        coefficients: Coefficients,
        sum_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.temperature = temperature
        self.coefficients = coefficients
        self.sums = list(torch.zeros(3, dtype=sum_dtype, device=device))

    def total(self) -> Float[Tensor, ""]:
        """The weighted total so far."""
        weights = self.coefficients
        total = torch.zeros_like(self.sums[0])
        for weight, value in zip((weights.ce, weights.mlm, weights.mse), self.sums, strict=True):
            if weight is not None:
                total = total + weight * value
        return total

    def add(
        self,
        logits: Float[Tensor, "tokens vocab"],
        teacher_logits: Float[Tensor, "tokens vocab"] | None,
        labels: Int[Tensor, " masked"],
    ) -> Float[Tensor, "tokens vocab"]:
        """Add one chunk, whose first len(labels) tokens are masked; returns d total / d logits."""
        weights = self.coefficients
        if teacher_logits is None or weights.ce is None:
            gradient = torch.zeros_like(logits)
        else:
            gradient = self._soft_targets(logits, teacher_logits, weights.ce)
        if teacher_logits is not None and weights.mse is not None:
            difference = logits - teacher_logits
            self.sums[2] += difference.square().mean(dim=-1).sum()
            gradient.addcmul_(difference, weights.mse * (2.0 / logits.shape[1]))
        num_masked = labels.shape[0]
        if num_masked and weights.mlm is not None:
            self._hard_targets(logits[:num_masked], labels, gradient[:num_masked], weights.mlm)
        return gradient

    def _soft_targets(self, logits: Tensor, teacher_logits: Tensor, weight: Tensor) -> Tensor:
        temperature = self.temperature
        log_q = torch.log_softmax(logits / temperature, dim=-1)
        log_p = torch.log_softmax(teacher_logits / temperature, dim=-1)
        p = log_p.exp()
        # sum p (log p - log q): both logarithms are at hand, so no xlogy.
        self.sums[0] += temperature**2 * torch.dot(p.view(-1), log_p.sub_(log_q).view(-1))
        return log_q.exp_().sub_(p).mul_(weight * temperature)

    def _hard_targets(
        self, logits: Tensor, labels: Tensor, gradient: Tensor, weight: Tensor
    ) -> None:
        log_q = torch.log_softmax(logits, dim=-1)
        self.sums[1] -= log_q.gather(1, labels[:, None]).sum()
        gradient.addcmul_(log_q.exp_(), weight)
        gradient.scatter_add_(1, labels[:, None], -weight.expand(len(labels), 1).to(gradient.dtype))


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")


def _compute_dtype(features: Tensor) -> torch.dtype:
    device_type = features.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return features.dtype
