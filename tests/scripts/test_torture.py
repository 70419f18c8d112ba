"""The short form of scripts/development/torture.sh."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "development" / "torture.py"


@pytest.mark.slow
def test_a_tortured_run_ends_as_an_undisturbed_one():
    command = [sys.executable, str(SCRIPT), "--kills", "3", "--seed", "4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == sum(report["kills_by_phase"].values()) == 3
    assert report["bitwise_equal"] is True
    assert report["equal_records"] is True
    assert (report["lost_steps"], report["doubled_steps"]) == (0, 0)
    assert report["left_behind"] == []
