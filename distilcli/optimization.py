"""AdamW and the learning-rate schedule."""

import torch

from distilcli.config import OptimConfig
from distilcli.students import MaskedLM


def learning_rate(optim: OptimConfig, step: int, total_steps: int) -> float:
    """Learning rate of step `step` (from 0): linear warm-up, then linear decay to zero.

    Source: Devlin et al. 2019, app. A.2.
    """
    warmup = round(optim.warmup_fraction * total_steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    return optim.lr * (total_steps - step) / max(1, total_steps - warmup)


def make_optimizer(student: MaskedLM, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices and embeddings only."""
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
