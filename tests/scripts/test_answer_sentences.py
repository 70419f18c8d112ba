"""The rows for a reranker out of SQuAD: the one sentence with the answer is the relevant one."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "answer_sentences.py"
FIRST = "Bread is old. It was made by 8000 BC. Yeast came later."


def _question(text: str, answer: str, context: str) -> dict[str, Any]:
    answers = [{"text": answer, "answer_start": context.index(answer)}]
    return {"id": text, "question": text, "answers": answers}


def test_documents_are_the_sentences_of_two_paragraphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = "Salt is older."
    article = [
        {
            "context": FIRST,
            "qas": [
                _question("When? ", "8000 BC", FIRST),
                _question("What came?", "Yeast", FIRST),
                _question("All?", "old. It was", FIRST),  # in two sentences: left out
            ],
        },
        {"context": second, "qas": [_question("What is older?", "Salt", second)]},
    ]
    squad, output = tmp_path / "squad.json", tmp_path / "rows" / "train.jsonl"
    squad.write_text(json.dumps({"data": [{"paragraphs": article}]}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(squad), str(output)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    four = ["Bread is old.", "It was made by 8000 BC.", "Yeast came later.", second]
    assert [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] == [
        {"query": "When?", "documents": four, "labels": [0, 1, 0, 0]},
        {"query": "What came?", "documents": four, "labels": [0, 0, 1, 0]},
        {"query": "What is older?", "documents": [second], "labels": [1]},
    ]
