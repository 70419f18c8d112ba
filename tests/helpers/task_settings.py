"""The smallest experiment on a task, changed and read from a file, and what is said of mistakes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from distilcli.config import reading
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.errors import ConfigError

FILES = {"train": {"files": "train.csv"}, "dev": {"files": "dev.csv"}}
TASK = {"kind": "classification"} | FILES
SMALLEST = {"name": "small", "task": TASK, "teacher": None, "student": {"source": "some-bert"}}
MASKED_LM = {
    "name": "small",
    "teacher": {"model": "some-bert"},
    "data": {"sources": [{"files": "a.jsonl"}], "store": "data/small"},
}
KINDS = "classification, multi-label, regression, reranking, question-answering, tagging or glue"


def load(path: Path, *overrides: str, **changes: Any) -> MaskedLMExperiment | TaskExperiment:
    """SMALLEST with other top-level keys, through a file."""
    path.write_text(yaml.safe_dump(SMALLEST | changes), encoding="utf-8")
    return reading.load_experiment(path, list(overrides))


def complaint(path: Path, *overrides: str, **changes: Any) -> str:
    """The error's message, with PATH for the file."""
    with pytest.raises(ConfigError) as caught:
        load(path, *overrides, **changes)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(path), "PATH")


def on(**changes: Any) -> dict[str, Any]:
    """The section `task` with some keys changed."""
    return {"task": TASK | changes}
