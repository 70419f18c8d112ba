"""Losses of classes that are each right or not, as their formulas say."""

import torch
from torch import Tensor


def logistic(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def plain_binary_kl(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    """T^2 / classes times the sum of p log(p/q) + (1-p) log((1-p)/(1-q))."""
    q, p = logistic(z / temperature), logistic(v / temperature)
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return temperature**2 * divergence.sum() / z.shape[1]


def plain_binary_cross_entropy(z: Tensor, targets: Tensor) -> Tensor:
    """1 / classes times the sum of -log q where a class is right, -log(1-q) where it is not."""
    q = logistic(z)
    return -torch.where(targets == 1, q.log(), (1 - q).log()).sum() / z.shape[1]
