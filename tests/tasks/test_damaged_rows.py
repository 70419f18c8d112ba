"""Rows as real data has them: cut emoji, JSON arrays, JSON nested too deeply."""

import json
from pathlib import Path
from typing import Any

import pytest
from task_reading import opened
from task_rows import open_rows, question
from tiny_tasks import pair_tokenizer

from distilcli.errors import DataError

HALF = "\ud83d"  # of an emoji


def section(kind: str, folder: Path, ending: str, train: str, dev: str) -> dict[str, Any]:
    task: dict[str, Any] = {"kind": kind}
    for split, text in (("train", train), ("dev", dev)):
        path = folder / f"{split}.{ending}"
        path.write_text(text, encoding="utf-8")
        task[split] = {"files": [str(path)]}
    return task


def test_half_a_surrogate_pair_is_a_question_mark_in_texts_and_classes(tmp_path: Path) -> None:
    rows = [{"text": f"ba {HALF}", "label": f"x{HALF}"}, {"text": "bo ?", "label": "y"}]
    task = open_rows(tmp_path, pair_tokenizer(), "classification", rows, rows[1:])
    assert task.labels == ["x?", "y"]
    assert len(set(task.train.lengths.tolist())) == 1  # the half is a token as the mark is


def test_half_a_surrogate_pair_in_words_tags_questions_and_answers(tmp_path: Path) -> None:
    rows = [{"tokens": ["ba", f"b{HALF}"], "tags": ["A", f"B{HALF}"]}]
    dev = [{"tokens": ["bi"], "tags": ["A"]}]
    assert open_rows(tmp_path, pair_tokenizer(), "tagging", rows, dev).labels == ["A", "B?"]
    asked = [question(f"ba {HALF} bo{HALF} fa", f"bo{HALF}", text=f"be{HALF}")]
    task = open_rows(
        tmp_path, pair_tokenizer(), "question-answering", asked, [question("ba", "ba")]
    )
    # [CLS] be ? [SEP] ba ? bo ? fa [SEP]: the answer, its half included, is where it was.
    assert task.train.targets.tolist() == [[6, 7]]


@pytest.mark.parametrize("indent", [None, 2])
def test_one_array_of_rows_is_a_file_of_rows(tmp_path: Path, indent: int | None) -> None:
    rows = [{"text": f"b{vowel}", "label": vowel} for vowel in "aeio"]
    texts = [json.dumps(rows, indent=indent), json.dumps(rows[1:], indent=indent)]
    found = opened(section("classification", tmp_path, "json", *texts), pair_tokenizer())
    assert found.num_examples == (4, 3)


def test_one_array_of_questions_is_read_without_the_form_of_squad(tmp_path: Path) -> None:
    rows = [question("ba bo fa", "bo"), question("bu", "bu")]
    task = section("question-answering", tmp_path, "json", json.dumps(rows), json.dumps(rows[1:]))
    assert opened(task, pair_tokenizer()).num_examples == (2, 1)


def test_an_array_names_the_item_that_is_wrong(tmp_path: Path) -> None:
    rows = [{"text": "ba", "label": "x"}, {"text": "", "label": "y"}]
    task = section("classification", tmp_path, "json", json.dumps(rows), json.dumps(rows))
    with pytest.raises(DataError, match=r"train\.json item 2: no text in text"):
        opened(task, pair_tokenizer())


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("kind", "ending", "text", "message"),
    [
        ("classification", "jsonl", '{"text": ' + DEEP, "line 1: not valid JSON (nested too de"),
        ("classification", "json", DEEP, "item 1 of the JSON array: not valid JSON (nested too d"),
        ("question-answering", "json", '{"data": ' + DEEP, "train.json: not JSON (nested too deep"),
        (
            "question-answering",
            "json",
            '{"data": [], "x": ' + "9" * 5000 + "}",
            "not JSON (Exceeds",
        ),
        ("tagging", "csv", f"tokens,tags\n{DEEP},A\n", "line 2: the list is nested too deeply"),
    ],
)
def test_what_is_nested_too_deeply_is_said(
    tmp_path: Path, kind: str, ending: str, text: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        opened(section(kind, tmp_path, ending, text, text), pair_tokenizer())
    assert message in str(caught.value.message)


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": None, "answer_start": 0}],
        [{"text": "ba", "answer_start": 0.5}],
        [{"text": "ba", "answer_start": float("inf")}],
        [{"text": "ba", "answer_start": False}],
        {"text": ["ba"], "answer_start": [0, 1]},
        "ba",
        None,
    ],
)
def test_answers_that_are_none_are_bad_rows(tmp_path: Path, answers: Any) -> None:
    good = question("None of ba", "None")
    rows = [good | {"answers": answers}, question("bo", "bo")]
    with pytest.raises(DataError, match="line 1: answers are not of SQuAD's form"):
        open_rows(tmp_path, pair_tokenizer(), "question-answering", rows, [good])
