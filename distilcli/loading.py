"""The micro-batches of one rank, step after step, ready before they are needed.

On a GPU, worker processes read and mask ahead, the batches wait in pinned memory, and copies do not
block. On a CPU, whose cores train, a batch is made when it is asked for: that costs about a
thousandth of a step.
"""

import os
import signal
import threading
import warnings
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from distilcli.batches import PackedBatch, StepPlan, pack
from distilcli.errors import DistilError
from distilcli.masking import Masker
from distilcli.signals import STOP_SIGNALS
from distilcli.store import Split

_WORKERS = {"cuda": 2}
_STEPS_AHEAD = 2  # of each worker


class StepBatches(Dataset[list[PackedBatch]]):
    """What one rank packs in each optimiser step; item s belongs to step s, from 0.

    Args:
        split: the training split.
        plan: which sequences make a step, and how it is cut.
        masker: hides tokens.
        unmasked_share: of the tokens that are not hidden, how many soft targets look at.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        split: Split,
        plan: StepPlan,
        masker: Masker,
        unmasked_share: float,
        rank: int,
        world_size: int,
    ) -> None:
        self.split = split
        self.plan = plan
        self.masker = masker
        self.unmasked_share = unmasked_share
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, step: int) -> list[PackedBatch]:
        samples = self.plan.micro_batches(step, self.rank, self.world_size)
        return [self.pack(part, step) for part in samples]

    def pack(self, samples: list[int], step: int) -> PackedBatch:
        """One micro-batch of these sequences, masked as in `step`."""
        epoch = self.plan.epoch(step)
        return pack(self.split, samples, self.masker, epoch, self.unmasked_share)


def load_steps(
    batches: StepBatches, steps: range, device: torch.device, num_workers: int | None = None
) -> Iterator[list[PackedBatch]]:
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
        loader: DataLoader[list[PackedBatch] | DistilError] = DataLoader(
            _ErrorsAsItems(batches),
            batch_size=None,
            sampler=steps,
            num_workers=num_workers,
            prefetch_factor=_STEPS_AHEAD if num_workers else None,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_parent,
            # Forked: the memory-mapped store is shared, and workers touch nothing but NumPy.
            multiprocessing_context="fork" if num_workers else None,
            generator=torch.Generator(),  # else it would draw from the one that dropout uses
        )
        items = iter(loader)
    for item in items:
        if isinstance(item, DistilError):
            raise item
        yield [batch.to(device) for batch in item]


class _ErrorsAsItems(Dataset[list[PackedBatch] | DistilError]):
    """Gives an error back as it is: one raised in a worker would arrive as a traceback."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> list[PackedBatch] | DistilError:
        try:
            return self.batches[step]
        except DistilError as error:
            return error


def _leave_signals_to_the_parent(_worker: int) -> None:
    """A signal to the whole job must not take the workers before the last step is done.

    SIGTERM from the parent still ends one: so does Python at its exit, and waits for the worker.
    """
    for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_when_the_parent_says_so, daemon=True).start()


def _leave_when_the_parent_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
