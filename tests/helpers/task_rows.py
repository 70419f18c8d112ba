"""Tasks made of rows that a test writes down."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerFast

from distilcli.config.tasks import Task
from distilcli.tasks.open import open_task
from distilcli.tasks.task import OpenTask
from distilcli.text.tokenizers import TextTokenizer

Rows = Sequence[dict[str, Any]]
VOWELS = "aeiou"


def open_rows(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    kind: str,
    train: Rows,
    dev: Rows,
    **settings: Any,
) -> OpenTask:
    """A task that was read from JSON lines in `folder`."""
    section: dict[str, Any] = {"kind": kind} | settings
    for split, rows in (("train", train), ("dev", dev)):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        section[split] = {"files": [str(path)]}
    return open_task(TypeAdapter(Task).validate_python(section), TextTokenizer(tokenizer))


def question(context: str, *answers: str, text: str = "bo") -> dict[str, Any]:
    """A row of question answering; each answer is where it first stands in the context."""
    found = [{"text": answer, "answer_start": context.index(answer)} for answer in answers]
    return {"question": text, "context": context, "answers": found}


def labelled_rows(labels: list[Any], column: str = "label") -> list[dict[str, Any]]:
    return [
        {"text": f"b{VOWELS[i % 5]} d{VOWELS[i // 5]}", column: x} for i, x in enumerate(labels)
    ]
