"""The smallest experiment on text, changed and read from a file, and what is said of mistakes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from distilcli.config import reading
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.errors import ConfigError

SMALLEST = {
    "name": "small",
    "teacher": {"model": "some-bert"},
    "data": {"sources": [{"files": "a.jsonl"}], "store": "data/small"},
}


def load(path: Path, *overrides: str, **changes: Any) -> MaskedLMExperiment:
    """SMALLEST with other top-level keys, through a file."""
    path.write_text(yaml.safe_dump(SMALLEST | changes), encoding="utf-8")
    return reading.load_masked_lm_experiment(path, list(overrides))


def complaint(path: Path, *overrides: str, **changes: Any) -> str:
    """The error's message, with PATH for the file."""
    with pytest.raises(ConfigError) as caught:
        load(path, *overrides, **changes)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(path), "PATH")


def complaint_about(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        reading.load_masked_lm_experiment(path)
    return caught.value.message.replace(str(path), "PATH")


def data(**changes: Any) -> dict[str, Any]:
    return {"data": {"sources": [{"files": "a.jsonl"}], "store": "s"} | changes}
