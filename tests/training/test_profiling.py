"""What a profile says of a GPU: its costliest kernels, and for how long it has nothing to do."""

import pytest

from distilcli.training.profiling import Activity, costliest_kernels, idle_share


def test_kernels_are_added_up_by_name_and_the_costliest_come_first():
    activities = [Activity(f"small {n}", n, n + 0.1) for n in range(12)]
    activities += [Activity("gemm", 20, 26), Activity("gemm", 30, 36), Activity("add", 40, 46.8)]
    found = costliest_kernels(activities, num_steps=2)
    assert len(found) == 10
    assert [(name, calls) for name, _, calls in found[:2]] == [("gemm", 1.0), ("add", 0.5)]
    assert [share for _, share, _ in found[:2]] == pytest.approx([0.6, 0.34])
    assert costliest_kernels([], num_steps=2) == []


def test_idle_is_what_no_kernel_covers():
    gaps = [Activity("a", 10, 20), Activity("b", 25, 30), Activity("c", 30, 50)]
    assert idle_share(gaps) == pytest.approx(5 / 40)
    # Beside a long one on another stream nothing is idle; the order of the list says nothing.
    beside = [Activity("b", 12, 14), Activity("c", 45, 50), Activity("a", 10, 40)]
    assert idle_share(beside) == pytest.approx(5 / 40)
    assert idle_share(gaps[:1]) == 0.0
    assert idle_share([]) is None
