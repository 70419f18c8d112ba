"""Tasks opened in tests: what of their rows comes out, and how they are refused.

A stand-in for a tokenizer keeps what it is given, so that a test sees the texts as they were read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerFast

from distilcli.config.tasks import Task
from distilcli.errors import DistilError
from distilcli.tasks.open import open_task
from distilcli.tasks.task import OpenTask
from distilcli.text.tokenizers import TextTokenizer

Recorded = str | list[str]

# Real data that may lie beside the repository.
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="there is no folder ../shared/data with the real data"
)


class _Encoded(dict[str, Any]):
    """One token for each text, or one for each word of a text that comes as a list of words."""

    def __init__(self, rows: Sequence[tuple[Recorded, ...]]) -> None:
        last = [row[-1] for row in rows]
        self._words = [len(text) if isinstance(text, list) else 1 for text in last]
        super().__init__(
            input_ids=[[1] * count for count in self._words],
            token_type_ids=[[0] * count for count in self._words],
            offset_mapping=[[(0, len(text))] for text in last],
            overflow_to_sample_mapping=list(range(len(rows))),
        )

    def word_ids(self, row: int) -> list[int]:
        return list(range(self._words[row]))

    def sequence_ids(self, row: int) -> list[int]:
        return [1]


class RecordingTokenizer:
    """Takes no time, whatever the size of the data.

    Attributes:
        rows: the texts of each example, in order: (text,), (text, second text), (words,) or
            (question, context).
    """

    cls_token_id = sep_token_id = unk_token_id = 0

    def __init__(self) -> None:
        self.rows: list[tuple[Recorded, ...]] = []

    def __call__(self, *columns: list[Recorded], **options: Any) -> _Encoded:
        rows = list(zip(*columns, strict=True))
        if "return_offsets_mapping" not in options or len(columns) > 1:  # questions come twice
            self.rows += rows
        return _Encoded(rows)


def opened(task: dict[str, Any], tokenizer: Any, teacher: list[str] | None = None) -> OpenTask:
    """The task of an experiment's `task` section."""
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        tokenizer = TextTokenizer(tokenizer)
    return open_task(TypeAdapter(Task).validate_python(task), tokenizer, teacher)


def recorded(
    task: dict[str, Any],
) -> tuple[OpenTask, list[tuple[Recorded, ...]], list[tuple[Recorded, ...]]]:
    """A task, and the texts of its training and its dev examples as they were read."""
    tokenizer = RecordingTokenizer()
    found = opened(task, tokenizer)
    num_train, num_dev = found.num_examples
    assert len(tokenizer.rows) == num_train + num_dev
    return found, tokenizer.rows[:num_train], tokenizer.rows[num_train:]


def refusal(task: dict[str, Any], kind: type[DistilError] = DistilError) -> DistilError:
    """The error with which a task is refused."""
    with pytest.raises(kind) as caught:
        opened(task, RecordingTokenizer())
    return caught.value
