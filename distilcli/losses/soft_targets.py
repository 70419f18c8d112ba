"""The losses: pure functions of tensors that return sums, never means.

The caller divides once, by counts over all micro-batches and ranks, so no result depends on how a
batch is cut. Training takes the terms that need logits from `fused_head.py`, which computes the
same without ever holding [tokens, vocabulary].

Notation (Hinton, Vinyals, Dean 2015): student logits z, teacher logits v, q = softmax(z/T),
p = softmax(v/T).
"""

import torch.nn.functional as F
from jaxtyping import Float
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


def logit_squared_error(
    student_logits: Float[Tensor, "tokens vocab"], teacher_logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over the vocabulary of (z - v)^2.

    Source: Ba and Caruana 2014, sec. 2.2; the high-temperature limit of Hinton et al. 2015, eq. 4.
    """
    return (student_logits - teacher_logits).square().mean(dim=-1).sum()


def check_temperature(temperature: float) -> None:
    """Refuse what no softmax can be divided by.

    Raises:
        ValueError: temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
