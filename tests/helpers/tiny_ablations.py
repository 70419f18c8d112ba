"""Ablations of tiny experiments."""

from pathlib import Path
from typing import Any

import yaml

from distilcli.suites.ablations import load_ablation, plan_ablation
from distilcli.suites.plan import SuiteRun

MASKED_LM = {
    "teacher": {"model": "big-bert"},
    "student": {"num_layers": 2, "dropout": 0.0},
    "data": {"sources": [{"files": "a.jsonl"}], "store": "s"},
    "loss": {"temperature": 3.0, "soft_targets": {"weight": 4.0}},
}
ABLATION = {
    "name": "small",
    "base": MASKED_LM,
    "changes": {"cold": {"loss.temperature": 1.0}, "top": ["student.layers=top"]},
}


def write(path: Path, **changes: Any) -> Path:
    """A file of ABLATION with some keys changed."""
    path.write_text(yaml.safe_dump(ABLATION | changes, sort_keys=False), encoding="utf-8")
    return path


def planned(path: Path, *overrides: str, seeds: int = 1, **changes: Any) -> dict[str, SuiteRun]:
    """The runs of such a file, by name, in order."""
    ablation = load_ablation(write(path, **changes), overrides)
    return {run.name: run for run in plan_ablation(ablation, seeds, path, overrides)}
