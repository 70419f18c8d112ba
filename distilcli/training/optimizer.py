"""AdamW, its state by parameter name, and the learning-rate schedule."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distilcli.config.training import OptimConfig


def learning_rate(optim: OptimConfig, step: int, total_steps: int) -> float:
    """Learning rate of step `step` (from 0): linear warm-up, then linear decay to zero.

    Source: Devlin et al. 2019, app. A.2.
    """
    warmup = round(optim.warmup_fraction * total_steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    return optim.lr * (total_steps - step) / max(1, total_steps - warmup)


def make_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices and embeddings only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def moments(
    optimizer: torch.optim.AdamW, named_parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's state as tensors named PARAMETER.MOMENT, to be saved without pickle."""
    return {
        f"{name}.{moment}": value
        for name, parameter in named_parameters.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def empty_moments(
    named_parameters: dict[str, nn.Parameter], names: Sequence[str]
) -> dict[str, Tensor]:
    """Zeros for the tensors that `moments` gives under these names."""
    found = {}
    for name in names:
        parameter, _, moment = name.rpartition(".")
        is_count = moment == "step"  # 0-d, whatever is counted
        found[name] = torch.zeros(()) if is_count else torch.zeros_like(named_parameters[parameter])
    return found


def restore_moments(
    optimizer: torch.optim.AdamW,
    named_parameters: dict[str, nn.Parameter],
    saved: dict[str, Tensor],
) -> None:
    """Put back what `moments` gave."""
    for name, parameter in named_parameters.items():
        found = {key: saved[f"{name}.{key}"] for key in _MOMENTS if f"{name}.{key}" in saved}
        if found:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) for key, value in found.items()
            }
