"""What processes computed comes together in order, also where some of them had nothing to do."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distilcli.errors import NonFiniteLossError
from distilcli.evaluation import gathering
from distilcli.evaluation.gathering import gathered, scores_of, share_of


def process(rank: int, number: int) -> SimpleNamespace:
    return SimpleNamespace(
        process_index=rank, num_processes=number, is_main_process=rank == 0, device="cpu"
    )


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_rows_of_all_samples_in_order(monkeypatch, number):
    """Of five samples with 3, 0, 1, 4 and 2 rows of two numbers."""
    rows_of_each = np.array([3, 0, 1, 4, 2])
    expected = np.arange(20, dtype=np.float32).reshape(10, 2)
    rows = np.split(expected, np.cumsum(rows_of_each)[:-1])
    sent = []

    def gather(given, parts=None, dst=0):
        if parts is None:
            sent.append(given)
        else:
            for part, tensor in zip(parts, [given, *sent], strict=True):
                part.copy_(tensor)

    monkeypatch.setattr(torch.distributed, "gather", gather)
    monkeypatch.setattr(gathering, "broadcast_object_list", lambda one: one.__setitem__(0, (2,)))
    found = {}
    for rank in (*range(1, number), 0):  # the one that receives comes last
        accelerator = process(rank, number)
        mine = share_of(5, accelerator)
        own = [(int(sample), rows[sample]) for sample in reversed(mine)]
        found[rank] = gathered(own, rows_of_each, accelerator)
    assert np.array_equal(found.pop(0), expected)
    assert set(found.values()) <= {None}
    assert len(sent) == number - 1
    # Nobody sends more than the one that has most.
    assert all(
        len(tensor) == max(sum(rows_of_each[k::number]) for k in range(number)) for tensor in sent
    )


def test_one_number_that_is_not_finite_is_no_score(monkeypatch):
    rows = {"dev": np.array([[1.0, np.inf]], dtype=np.float32)}
    monkeypatch.setattr(gathering, "broadcast_object_list", lambda one: one)
    with pytest.raises(NonFiniteLossError, match="it is not"):
        scores_of(rows, lambda _: {"accuracy": 1.0}, process(0, 2), "it is not")
    rows = {"dev": np.ones((1, 2), dtype=np.float32)}
    assert (
        scores_of(rows, lambda found: {"rows": len(found["dev"])}, process(0, 2), "")["rows"] == 1
    )
