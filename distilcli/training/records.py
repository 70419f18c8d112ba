"""What each step measured: kept on the device, gathered over ranks once per interval.

Keys follow `group/name`: `loss/kl` is nats per token, `speed/tokens_per_second` counts all ranks.
"""

import time
from typing import Any

import torch
from accelerate import Accelerator

from distilcli.distillation.loss_modules import LossModule
from distilcli.distillation.objective import Scores
from distilcli.training.steps import StepOutcome


class Metrics:
    """Collects step outcomes and turns them into records.

    Args:
        module: whose loss terms are recorded.
        accelerator: reduces sums over ranks.
    """

    def __init__(self, module: LossModule, accelerator: Accelerator) -> None:
        self._keys = [term.metric for term in module.terms]
        self._accelerator = accelerator
        self._pending: list[StepOutcome] = []
        self._held_out: dict[int, Scores] = {}
        self._clock = time.perf_counter()

    def add(self, outcome: StepOutcome) -> None:
        """Remember a step; nothing is computed yet."""
        self._pending.append(outcome)

    def add_held_out(self, step: int, scores: Scores) -> None:
        """Put held-out scores into the record of a step that is still pending."""
        self._held_out[step] = scores

    def flush(self) -> tuple[list[dict[str, Any]], float]:
        """The records of all pending steps, and the seconds since the last flush.

        Every rank must call this at the same steps: it reduces.
        """
        totals: list[list[float]] = []
        norms: list[float] = []
        if self._pending:
            sums = torch.stack([outcome.sums for outcome in self._pending])
            totals = self._accelerator.reduce(sums, "sum").tolist()
            norms = torch.stack([outcome.grad_norm for outcome in self._pending]).tolist()
        # After the figures have come: until then the device may be at work on these steps.
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        speed = sum(outcome.tokens for outcome in self._pending) / seconds
        records = [
            self._record(outcome, step_totals, norm, speed)
            for outcome, step_totals, norm in zip(self._pending, totals, norms, strict=True)
        ]
        self._pending.clear()
        self._held_out.clear()
        return records, seconds

    def _record(
        self, outcome: StepOutcome, sums: list[float], grad_norm: float, speed: float
    ) -> dict[str, Any]:
        means = [total / max(count, 1) for total, count in zip(sums, outcome.counts, strict=True)]
        terms = list(zip(self._keys, outcome.alphas, means, strict=True))
        record: dict[str, Any] = {
            "step": outcome.step,
            "epoch": outcome.epoch,
            "loss/total": sum(alpha * mean for _, alpha, mean in terms),
        }
        record |= {key: mean for key, _, mean in terms}
        record |= outcome.changing
        record |= {
            "optim/lr": outcome.lr,
            "optim/grad_norm": grad_norm,
            "speed/tokens": outcome.tokens,
            "speed/tokens_per_second": speed,
        }
        if outcome.num_graphs is not None:
            record["compile/graphs"] = outcome.num_graphs
        if scores := self._held_out.get(outcome.step):
            record |= scores.metrics()
        return record
