"""Tasks of a few rows with a teacher's outputs, in columns of the rows or in a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from row_files import write
from task_reading import RecordingTokenizer
from tiny_tasks import pair_tokenizer

from distilcli.config.tasks import Task
from distilcli.errors import DataError
from distilcli.tasks.open import open_task
from distilcli.tasks.task import OpenTask
from distilcli.text.tokenizers import TextTokenizer

TEXTS = ["ba be", "bi", "bo bu", "da"]
ROWS = [
    {"text": text, "label": label} for text, label in zip(TEXTS, ["a", "b", "a", "b"], strict=True)
]
DEV = [{"text": "do", "label": "a"}, {"text": "du", "label": "b"}]


def scores(*numbers: float) -> list[dict[str, float]]:
    """Logits of two classes, by name."""
    return [{"a": number, "b": -1.0} for number in numbers]


def outputs(rows: list[dict[str, Any]], numbers: list[float]) -> list[dict[str, Any]]:
    """What a file has for rows: their texts, and logits."""
    shown = [{key: row[key] for key in row if key != "label"} for row in rows]
    return [row | {"logits": one} for row, one in zip(shown, scores(*numbers), strict=True)]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return {"files": [str(write(path, text))]}


def opened(folder: Path, train=ROWS, dev=DEV, kind="classification", **task: Any) -> OpenTask:
    section = {"kind": kind, "dev": jsonl(folder / "dev.jsonl", dev)} | task
    is_source = train is None or isinstance(train, dict)
    section["train"] = train if is_source else jsonl(folder / "train.jsonl", train)
    tokenizer: Any = RecordingTokenizer()
    if kind == "tagging":
        tokenizer = TextTokenizer(pair_tokenizer())
    return open_task(TypeAdapter(Task).validate_python(section), tokenizer, None, True)


def first_logits(task: OpenTask) -> list[float]:
    """Of each row to train on the logit of the first class."""
    assert task.train.teacher_outputs is not None
    assert task.train.teacher_outputs.dtype == np.float32
    return task.train.teacher_outputs[:, 0].tolist()


def refusal(folder: Path, error: type = DataError, **task: Any) -> Any:
    with pytest.raises(error) as caught:
        opened(folder, **task)
    return caught.value


def filed(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    return jsonl(folder / "scores.jsonl", rows) | settings
