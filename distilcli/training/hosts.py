"""What the hosts of a run's processes tell one another beside their devices, and who answers.

However many processes there are, no one of them may be asked by, or wait for, each of the others in
every step: numbers are added up in pairs, so that the messages that wait for one another are as
many as the number of processes has bits, and only who misses somebody calls the roll.
`scripts/benchmarks/exchanges.py` counts what a run exchanges.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed import ProcessGroup, TCPStore  # type: ignore[attr-defined]

from distilcli.errors import DistilError, ProcessLostError

# Whoever has waited in vain calls the roll, as do all others at about the same time.
_LONGEST_ROLL_CALL = timedelta(seconds=60)
_MOST_NAMED = 8
# What gloo and the system say of a connection whose other end is gone.
_ENDED = ("closed by peer", "reset by peer", "Broken pipe")


def connect_when_needed() -> None:
    """Have gloo connect two processes when they first exchange something; before any group is made.

    Otherwise each process would connect to every other one for each group, which costs time, and
    more open files than a process may have, from some hundreds of processes on.
    """
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")


def gloo_group(timeout: timedelta) -> ProcessGroup:
    """A group of all processes that exchanges what is in host memory.

    Raises:
        DistilError: the hosts cannot reach one another.
    """
    try:
        group: ProcessGroup = torch.distributed.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        raise DistilError(
            f"the hosts of this job cannot reach one another over gloo ({error})",
            "Name the network interface that joins them: GLOO_SOCKET_IFNAME=eth0.",
        ) from error
    return group


class Hosts:
    """The hosts of all processes.

    Args:
        accelerator: says how many processes there are.
        timeout_seconds: how long they wait for one another.

    Raises:
        DistilError: the hosts cannot reach one another.
    """

    _rolls: ClassVar = itertools.count()  # all processes count alike: a name for each roll

    def __init__(self, accelerator: Accelerator, timeout_seconds: float) -> None:
        self._rank, self._number = accelerator.process_index, accelerator.num_processes
        self._timeout = timedelta(seconds=timeout_seconds)
        self._roll = f"distilcli/roll/{next(self._rolls)}"
        if self._number > 1:
            self._group = gloo_group(self._timeout)

    def add_up(self, numbers: Sequence[int], when: str) -> list[int]:
        """Sums over all processes; all of them call this, and none goes on before the last has.

        Args:
            numbers: of this process.
            when: opens the message of an error.

        Raises:
            ProcessLostError: a process does not come within the timeout.
        """
        if self._number == 1:
            return list(numbers)
        sums = torch.tensor(numbers)
        with self.naming_the_lost(when):
            self._add_in_pairs(sums)
        return list(sums.tolist())

    def _add_in_pairs(self, sums: Tensor) -> None:
        """In place: in each round every process adds what another one has.

        Those beyond the largest power of two give their numbers to another one before, and get the
        sums after.

        Source: recursive doubling, in Thakur, Rabenseifner, Gropp 2005, *Optimization of Collective
        Communication Operations in MPICH*, for short messages.
        """
        in_pairs = 1 << (self._number.bit_length() - 1)
        if self._rank >= in_pairs:
            self._swap(sums, self._rank - in_pairs, receives=False)
            sums.copy_(self._swap(sums, self._rank - in_pairs, sends=False))
            return
        beyond = self._rank + in_pairs
        if beyond < self._number:
            sums += self._swap(sums, beyond, sends=False)
        distance = 1
        while distance < in_pairs:
            sums += self._swap(sums, self._rank ^ distance)
            distance *= 2
        if beyond < self._number:
            self._swap(sums, beyond, receives=False)

    def _swap(
        self, numbers: Tensor, other: int, *, sends: bool = True, receives: bool = True
    ) -> Tensor:
        """Send numbers to another process, and get as many from it."""
        theirs = torch.zeros_like(numbers)
        waiting = []
        if sends:
            waiting.append(torch.distributed.isend(numbers, other, group=self._group))
        if receives:
            waiting.append(torch.distributed.irecv(theirs, other, group=self._group))
        for work in waiting:
            assert work is not None, "this process is in the group"
            work.wait()
        return theirs

    @contextmanager
    def naming_the_lost(self, when: str) -> Iterator[None]:
        """When the processes wait for one another in vain during the block, say for whom.

        That is over gloo. NCCL ends a process by itself when it has waited for too long. A process
        that has ended closes its connections: then nobody is waited for, for it may have been the
        one that calls the roll.

        Raises:
            ProcessLostError: instead of gloo's error, if some process has ended or does not answer.
        """
        try:
            yield
        except RuntimeError as error:
            if self._number > 1 and any(words in str(error) for words in _ENDED):
                ended = f"{when}: one of {self._number} processes has ended ({error})"
                raise _lost(ended) from error
            if self._number > 1 and "gloo" in str(error):
                self.call_the_roll(when)
            raise

    def call_the_roll(self, when: str) -> None:
        """Look who answers, after an exchange that failed.

        In the store where the processes of the launch met: in a group everyone would have to reach
        those that hang.

        Raises:
            ProcessLostError: naming those that do not answer.
        """
        timeout = min(self._timeout, _LONGEST_ROLL_CALL)
        try:
            lost = self._missing(timeout)
        except (RuntimeError, ValueError) as error:
            first = "no answer from rank 0, which calls the roll"
            raise _lost(f"{when}: of {self._number} processes, {first} ({error})") from error
        if lost:
            names = ", ".join(map(str, lost[:_MOST_NAMED]))
            more = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
            raise _lost(f"{when}: of {self._number} processes, no answer from rank {names}{more}")

    def _missing(self, timeout: timedelta) -> list[int]:
        """The ranks that do not answer; the first process finds them out and tells the others.

        Raises:
            RuntimeError: the store is gone, or the first process does not answer.
        """
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timeout)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        keys = [f"{self._roll}/{attempt}/{rank}" for rank in range(self._number)]
        told = f"{self._roll}/{attempt}/missing"
        store.set(keys[self._rank], "here")
        if self._rank == 0:
            with suppress(RuntimeError):  # not all are here in time
                store.wait(keys, timeout)
            missing = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
            store.set(told, " ".join(missing))
        else:
            store.wait([told], 2 * timeout)
        return [int(rank) for rank in store.get(told).split()]


def _lost(message: str) -> ProcessLostError:
    return ProcessLostError(
        message,
        "Look at what it logged last, then --resume; train.timeout_seconds waits longer.",
    )
