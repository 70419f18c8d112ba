"""The losses: pure functions of tensors that return sums, never means.

The caller divides once, by counts over all micro-batches and ranks, so no result depends on how a
batch is cut. Training takes the terms that need logits from `fused_head.py`, which computes the
same without ever holding [tokens, vocabulary].

Notation (Hinton, Vinyals, Dean 2015): student logits z, teacher logits v, q = softmax(z/T),
p = softmax(v/T).
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


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
    check_temperature(temperature)
    student_log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    teacher_log_probs = F.log_softmax(teacher_logits / temperature, dim=-1)
    difference = teacher_log_probs - student_log_probs
    return temperature**2 * (teacher_log_probs.exp() * difference).sum()


def binary_soft_target_kl(
    student_logits: Float[Tensor, "rows classes"],
    teacher_logits: Float[Tensor, "rows classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over rows of the mean over classes of T^2 * KL(p || q), where each class is right or not.

    p and q are the sigmoids of v/T and z/T. Gradient with respect to the student's logits:
    T * (q - p) / classes.

    Raises:
        ValueError: temperature is not positive.
    Source: Hinton et al. 2015, eq. 1-2 and sec. 2, for two classes with logits z and 0.
    """
    check_temperature(temperature)
    z, v = student_logits / temperature, teacher_logits / temperature
    positive = F.logsigmoid(v).exp() * (F.logsigmoid(v) - F.logsigmoid(z))
    negative = F.logsigmoid(-v).exp() * (F.logsigmoid(-v) - F.logsigmoid(-z))
    return temperature**2 * (positive + negative).mean(dim=-1).sum()


def binary_cross_entropy(
    student_logits: Float[Tensor, "rows classes"], targets: Float[Tensor, "rows classes"]
) -> Float[Tensor, ""]:
    """Sum over rows of the mean over classes of the cross-entropy with targets 0 or 1, in nats.

    A target of NaN counts for nothing.
    """
    known = ~targets.isnan()
    entropies = F.binary_cross_entropy_with_logits(
        student_logits, targets.where(known, 0.0), reduction="none"
    )
    return entropies.where(known, 0.0).mean(dim=-1).sum()


def squared_error(
    found: Float[Tensor, " rows"], targets: Float[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """Sum over rows of (found - target)^2; a target of NaN counts for nothing."""
    known = ~targets.isnan()
    return (found - targets.where(known, 0.0)).where(known, 0.0).square().sum()


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


def check_temperature(temperature: float) -> None:
    """Refuse what no softmax can be divided by.

    Raises:
        ValueError: temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
