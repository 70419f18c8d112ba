"""The short form of scripts/development/torture.sh."""

import json
import os
import sys
from pathlib import Path

import pytest
from forked_scripts import forked

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "development"))

import torture


@pytest.mark.slow
def test_a_tortured_run_ends_as_an_undisturbed_one(monkeypatch, capsys):
    """Killed are torchrun alone while text is prepared, then all: in a validation, in writing."""
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(torture, "subprocess", forked)
    torture.main(["--kills", "3", "--seed", "18", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["kills_by_phase"] == {"preparing": 1, "validating": 1, "writing": 1}
    assert report["bitwise_equal"] is True
    assert report["equal_records"] is True
    assert (report["lost_steps"], report["doubled_steps"]) == (0, 0)
    assert report["left_behind"] == []
