"""What the processes of a run computed, each of its share of the samples, in one place.

The main process alone scores it, so only that one gets it. As tensors, whose sizes all know before:
objects would be padded to the longest, and every process would get those of all.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Int

from distilcli.errors import NonFiniteLossError

DIVERGED = "Use an earlier checkpoint, a lower optim.lr, or fp32 (train.precision=fp32)."
Own = list[tuple[int, np.ndarray]]


def share_of(num_samples: int, accelerator: Accelerator) -> np.ndarray:
    """The samples that this process computes: one of so many as there are processes, in order."""
    return np.arange(num_samples)[accelerator.process_index :: accelerator.num_processes]


def gathered(
    own: Own, rows_of_each: Int[np.ndarray, " samples"], accelerator: Accelerator
) -> np.ndarray | None:
    """The rows of all samples in order, float32, on the main process; None on the others.

    Args:
        own: each sample of `share_of` with its rows, in any order; the main process has some.
        rows_of_each: how many rows each sample has, of all of them.
        accelerator: names device and processes; all of them must call this.
    """
    mine = [rows for _, rows in sorted(own, key=lambda pair: pair[0])]
    if accelerator.num_processes == 1:
        return np.concatenate(mine)
    shape: list[Any] = [mine[0].shape[1:] if mine else None]
    broadcast_object_list(shape)  # there may be more processes than samples
    whose = np.repeat(np.arange(len(rows_of_each)) % accelerator.num_processes, rows_of_each)
    size = int(np.bincount(whose, minlength=1).max())  # all give as many
    given = torch.zeros(size, *shape[0])
    if mine:
        given[: sum(map(len, mine))] = torch.from_numpy(np.concatenate(mine))
    given = given.to(accelerator.device)
    if not accelerator.is_main_process:
        torch.distributed.gather(given, dst=0)
        return None
    parts = [torch.empty_like(given) for _ in range(accelerator.num_processes)]
    torch.distributed.gather(given, parts, dst=0)
    found = np.empty((len(whose), *shape[0]), dtype=np.float32)
    for rank, part in enumerate(parts):
        places = np.flatnonzero(whose == rank)
        found[places] = part[: len(places)].cpu().numpy()
    return found


def scores_of(
    rows: dict[str, np.ndarray | None],
    score: Callable[[dict[str, np.ndarray]], dict[str, float]],
    accelerator: Accelerator,
    message: str,
) -> dict[str, float]:
    """Scores of what was gathered, on all processes.

    Args:
        rows: what `gathered` gave, by name.
        score: called on the main process.
        accelerator: names the processes; all of them must call this.
        message: of the error.

    Raises:
        NonFiniteLossError: some of it is NaN or infinite.
    """
    outcome: list[dict[str, float] | None] = [None]
    if accelerator.is_main_process:
        known = {name: found for name, found in rows.items() if found is not None}
        # The largest of NaNs is the first class: without this look they would get a score.
        if all(np.isfinite(found).all() for found in known.values()):
            outcome = [score(known)]
    broadcast_object_list(outcome)
    if outcome[0] is None:
        raise NonFiniteLossError(message, DIVERGED)
    return outcome[0]


def everywhere(rows: np.ndarray | None, accelerator: Accelerator, message: str) -> np.ndarray:
    """What `gathered` gave to the main process, on all of them.

    Raises:
        NonFiniteLossError: some of it is NaN or infinite; with `message`.
    """
    found = [rows]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    assert found[0] is not None, "the main process has it"
    if not np.isfinite(found[0]).all():
        raise NonFiniteLossError(message, DIVERGED)
    return found[0]
