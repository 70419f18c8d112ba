"""The losses as the papers write them, plainly, for tests to compare with.

Nothing here calls a softmax, a cross-entropy or a similarity of the library; use float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def log_softmax(logits: Tensor) -> Tensor:
    largest = logits.max(dim=-1, keepdim=True).values
    return logits - largest - (logits - largest).exp().sum(dim=-1, keepdim=True).log()


def softmax(logits: Tensor) -> Tensor:
    return log_softmax(logits).exp()


def soft_target_kl(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    """Sum over tokens of T^2 sum_i p_i (log p_i - log q_i)."""
    log_q, log_p = log_softmax(z / temperature), log_softmax(v / temperature)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum()


def reverse_kl(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    """Sum over tokens of T^2 sum_i q_i (log q_i - log p_i)."""
    return soft_target_kl(v, z, temperature)


def jensen_shannon(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    """Sum over tokens of T^2/2 sum_i p_i log(p_i / m_i) + q_i log(q_i / m_i), m = (p + q) / 2."""
    q, p = softmax(z / temperature), softmax(v / temperature)
    middle = ((p + q) / 2).log()
    return temperature**2 / 2 * (p * (p.log() - middle) + q * (q.log() - middle)).sum()


def cross_entropy(z: Tensor, labels: Tensor) -> Tensor:
    """Sum over tokens of -log q_label."""
    log_q = log_softmax(z)
    return -sum((log_q[row, label] for row, label in enumerate(labels.tolist())), z.new_zeros(()))


def squared_error(z: Tensor, v: Tensor) -> Tensor:
    """Sum over tokens of 1/N sum_i (z_i - v_i)^2."""
    return ((z - v) ** 2).sum() / z.shape[1]


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over tokens of 1 - s.t / (|s| |t|)."""
    norms = (student**2).sum(-1).sqrt() * (teacher**2).sum(-1).sqrt()
    return (1 - (student * teacher).sum(-1) / norms).sum()


# Terms that compare distributions, by name: of logits of the student, of the teacher, and T.
DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "soft_targets": soft_target_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
}


def of_each_class(name: str, z: Tensor, v: Tensor, temperature: float) -> Tensor:
    """A divergence where each class is right or not: the mean over classes of logits x and 0."""
    pairs = (torch.stack([x.flatten(), torch.zeros(x.numel())], dim=1) for x in (z, v))
    return DIVERGENCES[name](*pairs, temperature) / z.shape[1]
