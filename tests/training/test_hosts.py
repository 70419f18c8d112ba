"""Numbers that are added up in pairs, whatever the number of processes."""

import math
import queue
import threading
from collections import defaultdict
from types import SimpleNamespace

import pytest
from torch import Tensor

from distilcli.errors import ProcessLostError
from distilcli.training.hosts import Hosts


class Letters:
    """Carries numbers between threads that stand for processes, as `Hosts._swap` does."""

    def __init__(self) -> None:
        self.boxes: dict[tuple[int, int], queue.Queue[Tensor]] = {}
        self.rounds: dict[int, int] = defaultdict(int)

    def swap(
        self,
        hosts: Hosts,
        numbers: Tensor,
        other: int,
        *,
        sends: bool = True,
        receives: bool = True,
    ) -> Tensor:
        self.rounds[hosts._rank] += 1
        if sends:
            self._box(hosts._rank, other).put(numbers.clone())
        return self._box(other, hosts._rank).get(timeout=60) if receives else numbers

    def _box(self, sender: int, receiver: int) -> queue.Queue[Tensor]:
        # In one step: of two threads that both find none, both would make one.
        return self.boxes.setdefault((sender, receiver), queue.Queue())


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8, 13, 64, 100])
def test_sums_are_those_of_all_processes_after_few_messages(monkeypatch, number):
    letters = Letters()
    monkeypatch.setattr(Hosts, "_swap", lambda *args, **how: letters.swap(*args, **how))
    monkeypatch.setattr("distilcli.training.hosts.gloo_group", lambda timeout: None)
    found: dict[int, list[int]] = {}

    def add(rank: int) -> None:
        hosts = Hosts(SimpleNamespace(process_index=rank, num_processes=number), 1.0)
        found[rank] = hosts.add_up([2**rank if rank < 60 else 0, 1], "step 1")

    threads = [threading.Thread(target=add, args=(rank,), daemon=True) for rank in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    sums = [2 ** min(number, 60) - 1, number]
    assert found == dict.fromkeys(range(number), sums)
    in_pairs = math.floor(math.log2(number))
    is_power = number == 2**in_pairs
    assert max(letters.rounds.values(), default=0) == (in_pairs if is_power else in_pairs + 2)
    assert all(box.empty() for box in letters.boxes.values())


def test_not_more_than_eight_of_the_lost_are_named(monkeypatch):
    monkeypatch.setattr("distilcli.training.hosts.gloo_group", lambda timeout: None)
    hosts = Hosts(SimpleNamespace(process_index=0, num_processes=12), 1.0)
    monkeypatch.setattr(hosts, "_missing", lambda timeout: list(range(2, 12)))
    expected = "step 3: of 12 processes, no answer from rank 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    with pytest.raises(ProcessLostError, match=f"^{expected}$"):
        hosts.call_the_roll("step 3")
    monkeypatch.setattr(hosts, "_missing", lambda timeout: [])
    hosts.call_the_roll("step 3")
