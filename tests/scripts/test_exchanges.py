"""What `exchanges.py` makes of what it counted among four processes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"))

import exchanges

ROW = {"phase": "step", "place": "somewhere", "calls": 1, "bytes": 800}


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("allreduce_", (1400, 14)),  # in a ring each sends all but an eighth, twice
        ("broadcast_", (2400, 3)),  # the root sends to three
        ("allgather_", (5600, 7)),
        ("gather_", (2800, 7)),  # what four had to send, eight share
        ("monitored_barrier_", (0, 14)),
    ],
)
def test_what_one_exchange_costs_eight_processes(operation, expected):
    payload = 0 if operation == "monitored_barrier_" else 800
    row = ROW | {"operation": operation, "bytes": payload}
    assert exchanges.reckoned(row, 4, 8) == expected


def test_pairs_take_a_round_more_when_processes_double():
    row = ROW | {"operation": "send", "calls": 2, "bytes": 160}
    assert [exchanges.reckoned(row, 4, n) for n in (1, 8, 1024)] == [(0, 0), (240, 3), (800, 10)]


def test_phases_are_sums_of_their_exchanges(capsys):
    rows = [ROW | {"operation": "allreduce_"}, ROW | {"operation": "barrier", "bytes": 0}]
    found = exchanges.report(rows, 4)
    assert found["phases"]["step"][64] == (800 * 2 * 63 / 64, 2 * 63 + 6)
    exchanges.show(found)
    assert "allreduce, somewhere" in capsys.readouterr().out
