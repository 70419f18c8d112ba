"""The micro-batches of one rank, step after step, ready before they are needed.

On a GPU, worker processes read and mask ahead, the batches wait in pinned memory, and copies do not
block. On a CPU, whose cores train, a batch is made when it is asked for: that costs about a
thousandth of a step.
"""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Semaphore
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from distilcli.batches.packing import PackedSequences
from distilcli.batches.plan import Draws, StepPlan
from distilcli.errors import DistilError
from distilcli.signals import STOP_SIGNALS

_WORKERS = {"cuda": 2}
_STEPS_AHEAD = 2  # of each worker


class StepBatches(Dataset[list[PackedSequences]]):
    """What one rank packs in each optimiser step; item s belongs to step s, from 0.

    Args:
        pack: makes a micro-batch of samples, each as it is in its epoch.
        plan: which samples make a step, and how it is cut.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        pack: Callable[[Draws], PackedSequences],
        plan: StepPlan,
        rank: int,
        world_size: int,
    ) -> None:
        self.pack = pack
        self.plan = plan
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, step: int) -> list[PackedSequences]:
        parts = self.plan.micro_batches(step, self.rank, self.world_size)
        return [self.pack(part) if len(part) else self._placeholder(step) for part in parts]

    def _placeholder(self, step: int) -> PackedSequences:
        """In place of a micro-batch without samples, any one of the step's samples.

        Every rank must run its models as often as the others, which wait for its gradient.
        """
        return replace(self.pack(self.plan.draws(step).at([0])), is_placeholder=True)


def load_steps(
    batches: StepBatches, steps: range, device: torch.device, num_workers: int | None = None
) -> Iterator[list[PackedSequences]]:
    """The micro-batches of each step, on the device.

    Args:
        batches: makes them.
        steps: which, in this order.
        device: where they are wanted; copies to it do not block.
        num_workers: processes that work ahead; None: 2 for a GPU, none for a CPU.
    """
    if num_workers is None:
        num_workers = _WORKERS.get(device.type, 0)
    with warnings.catch_warnings():
        # Two on a machine of one core are asked for, not a mistake.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader: DataLoader[list[PackedSequences] | DistilError] = DataLoader(
            _ErrorsAsItems(batches),
            batch_size=None,
            sampler=steps,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the one that dropout uses
            **(_forked(num_workers) if num_workers else {}),
        )
        items = iter(loader)
    for item in items:
        if isinstance(item, DistilError):
            raise item
        yield [batch.to(device) for batch in item]


class _ErrorsAsItems(Dataset[list[PackedSequences] | DistilError]):
    """Gives an error back as it is: one raised in a worker would arrive as a traceback."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> list[PackedSequences] | DistilError:
        try:
            return self.batches[step]
        except DistilError as error:
            return error


def _forked(num_workers: int) -> dict[str, Any]:
    """How a DataLoader has workers, which end with this process."""
    # Forked: the memory-mapped store is shared, and workers touch nothing but NumPy.
    fork = get_context("fork")
    # Released before Python waits for its children; unlike an event it waits for none of them.
    ending = fork.Semaphore(0)
    Finalize(None, _release, (ending, num_workers), exitpriority=0)
    return {
        "num_workers": num_workers,
        "prefetch_factor": _STEPS_AHEAD,
        "worker_init_fn": partial(_leave_signals_to_the_parent, ending),
        "multiprocessing_context": fork,
    }


def _leave_signals_to_the_parent(ending: Semaphore, _worker: int) -> None:
    """A signal to the whole job must not take the workers before the last step is done.

    At its exit Python sends them SIGTERM, too, and then waits: they end when `ending` is released.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(ending,), daemon=True).start()


def _end_with(ending: Semaphore) -> None:
    ending.acquire()
    os._exit(0)


def _release(ending: Semaphore, times: int) -> None:
    for _ in range(times):
        ending.release()
