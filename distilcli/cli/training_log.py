"""What a run says while it trains: a line each time steps are logged, and a progress bar."""

import time
from typing import Any

from distilcli.cli.console import Bar, Console
from distilcli.evaluation.result import duration

_HELD_OUT = {
    "held_out/loss": "held-out",
    "held_out/accuracy": "accuracy",
    "held_out/agreement": "agreement",
}
# What metrics.jsonl has alone.
NOT_SAID = ("held_out/ece", "held_out/right_to_wrong")


class TrainingLog:
    """Lines and a bar for the training loop, with the time to finish."""

    def __init__(self, console: Console, bar: Bar) -> None:
        self._console = console
        self._bar = bar
        self._first: tuple[float, int] | None = None

    def metrics(self, record: dict[str, Any], total_steps: int) -> None:
        """Show the record of the latest step."""
        step = record["step"]
        now = time.monotonic()
        if self._first is None:
            self._first = (now, step)
        parts = [f"step {step}/{total_steps}"]
        names = {key: name for key in record if (name := _name_of_loss(key))} | _HELD_OUT
        parts += [f"{name} {record[key]:.4f}" for key, name in names.items() if key in record]
        parts += [f"{key[9:]} {record[key]:.4f}" for key in record if _is_score(key)]
        parts.append(f"lr {record['optim/lr']:.2e}")
        parts.append(f"{record['speed/tokens_per_second']:,.0f} tokens/s")
        start, first_step = self._first
        if step > first_step:
            left = (now - start) / (step - first_step) * (total_steps - step)
            parts.append(f"{duration(left)} to go")
        self._console.note("  ".join(parts))
        self._bar.update(step, total_steps, "")


def _name_of_loss(key: str) -> str:
    """What a loss is called in a line; empty: the key is of something else."""
    group, _, name = key.partition("/")
    if group != "loss":
        return ""
    return "loss" if name == "total" else name.replace("_", " ")


def _is_score(key: str) -> bool:
    """Whether a key is of a task's scores, whose names differ from task to task."""
    return key.startswith("held_out/") and key not in (*_HELD_OUT, "held_out/kl", *NOT_SAID)
