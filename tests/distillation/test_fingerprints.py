"""Fingerprints by themselves: of content alone, compared where both know them, kept in records."""

import json

import pytest

from distilcli.distillation.identity import Fingerprint, changed, from_tree, to_tree
from distilcli.errors import RunFolderError
from distilcli.files.digests import array_digest, file_digest
from distilcli.training.state import TrainState, from_record, to_record


def test_digests_are_of_content(tmp_path):
    import numpy as np

    file = tmp_path / "a"
    file.write_bytes(b"x" * (5 << 20))  # more than one piece
    one = file_digest(file)
    assert len(one) == 32
    file.write_bytes(b"x" * ((5 << 20) - 1) + b"y")
    assert file_digest(file) != one
    a = np.arange(6, dtype=np.int32)
    assert array_digest([a]) == array_digest([a.copy()])
    different = [[a.reshape(2, 3)], [a.astype(np.int64)], [a[:3], a[3:]], [a + 1]]
    assert len({array_digest(arrays) for arrays in [[a], *different]}) == 5


def test_only_what_both_know_is_compared():
    before = {
        "a": Fingerprint("/old", "1"),
        "b": Fingerprint("x", "2"),
        "gone": Fingerprint("", ""),
    }
    now = {"b": Fingerprint("y", "3"), "a": Fingerprint("/new", "1"), "new": Fingerprint("", "4")}
    assert changed(before, now) == ["b (y)"]
    assert from_tree(json.loads(json.dumps(to_tree(now)))) == now


@pytest.mark.parametrize("tree", [None, [], "x", {"a": 1}, {"a": {"place": "x"}}])
def test_what_is_no_identity(tree):
    with pytest.raises(ValueError, match="no fingerprints"):
        from_tree(tree)


def test_a_state_goes_through_its_record():
    state = TrainState(3, 10, 1.5, 2, -0.5, {"held_out/loss": 1.0}, 2)
    identity = {"a": Fingerprint("p", "d")}
    assert from_record(json.loads(json.dumps(to_record(state, identity)))) == (state, identity)
    with pytest.raises(RunFolderError, match="a value that cannot be: best_scores"):
        from_record({"step": 1, "tokens": 1, "seconds": 1.0, "best_scores": {"a": None}})
