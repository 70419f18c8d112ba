"""Scores of a reranker in files of their own: matched by query and document, in any layout."""

from pathlib import Path
from typing import Any

import pytest
from output_rows import jsonl
from pydantic import TypeAdapter
from row_files import comma, parquet, write
from tiny_tasks import pair_tokenizer

from distilcli.config.tasks import Task
from distilcli.errors import DataError
from distilcli.tasks.open import open_task
from distilcli.tasks.predicted_rows import PredictedRows
from distilcli.tasks.task import OpenTask
from distilcli.text.tokenizers import TextTokenizer

TRAIN = [
    {"query": "ba be", "document": ["bi", "bo bu", "da"], "label": [1, 0, 2], "key": 1},
    {"query": "ga", "document": ["ge", "gi"], "label": [0, 1], "key": 2},
]
DEV = [{"query": "ka", "document": ["ke", "ki"], "label": [0, 1], "key": 3}]
SCORES = [[2.5, -1, 0.0], [3, 4.5]]
EXPECTED = [[2.5], [-1], [0], [3], [4.5]]


def flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each document."""
    lists = [name for name in ("document", "label", "score") if name in rows[0]]
    return [
        row | dict(zip(lists, one, strict=True))
        for row in rows
        for one in zip(*(row[name] for name in lists), strict=True)
    ]


def scored(rows: list[dict[str, Any]], scores: list[list[float]]) -> list[dict[str, Any]]:
    """What a file has for rows."""
    return [
        {"query": row["query"], "document": row["document"], "score": numbers}
        for row, numbers in zip(rows, scores, strict=True)
    ]


def opened(
    folder: Path,
    files: dict[str, Any],
    train: list[dict[str, Any]] | None = TRAIN,
    dev: list[dict[str, Any]] = DEV,
    **task: Any,
) -> OpenTask:
    section = {"kind": "reranking", "dev": jsonl(folder / "dev.jsonl", dev)} | task
    if train is not None:
        section["train"] = jsonl(folder / "train.jsonl", train)
    section["teacher_outputs"] = files
    tokenizer = TextTokenizer(pair_tokenizer())
    return open_task(TypeAdapter(Task).validate_python(section), tokenizer, None, True)


LAYOUTS = {"nested": lambda rows: rows, "flat": flat}


@pytest.mark.parametrize("of_rows", LAYOUTS)
@pytest.mark.parametrize("of_file", LAYOUTS)
def test_each_candidate_has_its_score(tmp_path, of_rows, of_file):
    """In any order of queries and of documents, and the file may be laid out otherwise."""
    train, dev = (LAYOUTS[of_rows](rows) for rows in (TRAIN, DEV))
    backwards = [row | {"document": row["document"][::-1]} for row in TRAIN[::-1]]
    rows = scored(backwards, [numbers[::-1] for numbers in SCORES[::-1]])
    files = jsonl(tmp_path / "scores.jsonl", LAYOUTS[of_file](rows))
    task = opened(tmp_path, files, train, dev)
    assert task.train.teacher_outputs.tolist() == EXPECTED
    assert task.dev.teacher_outputs is None
    more = scored(DEV, [[7, 8]])
    files = jsonl(tmp_path / "scores.jsonl", LAYOUTS[of_file]([*more, *rows]))
    task = opened(tmp_path, files, train, dev)
    assert task.train.teacher_outputs.tolist() == EXPECTED
    assert task.dev.teacher_outputs.tolist() == [[7], [8]]


@pytest.mark.parametrize(("ending", "written"), [("csv", comma), ("parquet", parquet)])
def test_files_of_other_formats(tmp_path, ending, written):
    rows = scored(TRAIN, SCORES)
    path = write(tmp_path / f"s.{ending}", written(flat(rows) if ending == "csv" else rows))
    assert opened(tmp_path, {"files": str(path)}).train.teacher_outputs.tolist() == EXPECTED


def test_ids_of_queries_need_not_be_in_the_file(tmp_path):
    """Of a pair that is in two queries each has its own score, in the order of the rows."""
    train = [*TRAIN, TRAIN[1] | {"key": 4}]
    files = jsonl(tmp_path / "s.jsonl", flat(scored(train, [*SCORES, [5, 6]])))
    task = opened(tmp_path, files, flat(train), flat(DEV), query_id="key")
    assert task.train.group_offsets.tolist() == [0, 3, 5, 7]
    assert task.train.teacher_outputs.tolist() == [*EXPECTED, [5], [6]]
    nested = opened(tmp_path, files, train, query_id="key")
    assert nested.train.teacher_outputs.tolist() == [*EXPECTED, [5], [6]]


def test_rows_without_labels_have_scores_too(tmp_path):
    transfer = jsonl(tmp_path / "more.jsonl", [{"query": "fa", "document": ["fe", "fi"]}])
    rows = [*scored(TRAIN, SCORES), {"query": "fa", "document": ["fi", "fe"], "score": [9, 8]}]
    task = opened(tmp_path, jsonl(tmp_path / "s.jsonl", rows), transfer=transfer)
    assert task.train.teacher_outputs.tolist() == [*EXPECTED, [8], [9]]
    alone = opened(tmp_path, jsonl(tmp_path / "s.jsonl", rows[2:]), None, transfer=transfer)
    assert alone.train.teacher_outputs.tolist() == [[8], [9]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_candidate_without_a_score_makes_its_query_a_bad_row(tmp_path, layout):
    rows = flat(scored(TRAIN, SCORES))
    del rows[1]
    files = jsonl(tmp_path / "s.jsonl", rows)
    with pytest.raises(DataError) as caught:
        opened(tmp_path, files, LAYOUTS[layout](TRAIN))
    path = tmp_path / "train.jsonl"
    assert caught.value.message.splitlines() == [
        f"{path}: 1 bad row",
        f"  {path} line 1: document 2: no outputs for it in {tmp_path}/s.jsonl",
    ]
    kept = opened(tmp_path, files, LAYOUTS[layout](TRAIN), skip_bad_rows=True)
    assert kept.train.teacher_outputs.tolist() == [[3], [4.5]]
    assert kept.skipped.train == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"query": "a", "document": ["b"], "score": [1, 2]}], "1 document, but outputs for 2"),
        ([{"query": "a", "document": ["b", "c"], "score": 1}], "2 documents, but outputs for 1"),
        ([{"query": "a", "document": "b", "score": None}], "no outputs of the teacher"),
        ([{"query": "a", "document": "b"}], "no column 'score'; there are: query, document"),
        ([{"query": "a", "score": 1}], "no column 'document'; there are: query, score"),
    ],
)
def test_bad_rows_of_the_file_are_named(tmp_path, rows, message):
    with pytest.raises(DataError) as caught:
        opened(tmp_path, jsonl(tmp_path / "s.jsonl", rows))
    path = tmp_path / "s.jsonl"
    assert caught.value.message == f"{path}: 1 bad row\n  {path} line 1: {message}"


def test_a_pair_with_two_scores_is_refused(tmp_path):
    rows = [*flat(scored(TRAIN, SCORES)), {"query": "ga", "document": "ge", "score": 1}]
    with pytest.raises(DataError, match="several outputs for 1 text, and nothing says which"):
        opened(tmp_path, jsonl(tmp_path / "s.jsonl", rows))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("query_id", [None, "key"])
def test_what_is_written_is_laid_out_as_the_rows_are(tmp_path, layout, query_id):
    train, dev = (LAYOUTS[layout](rows) for rows in (TRAIN, DEV))
    section: dict[str, Any] = {"kind": "reranking", "query_id": query_id}
    for name, rows in (("train", train), ("dev", dev)):
        section[name] = jsonl(tmp_path / f"{name}.jsonl", rows)
    config = TypeAdapter(Task).validate_python(section)
    task = open_task(config, TextTokenizer(pair_tokenizer()), None, True)
    written = PredictedRows.of(task, True, None, None)
    scores = task.train.targets[:, None]  # any numbers, one for each candidate
    found = list(written.rows([scores[:2], scores[2:]]))
    expected = [
        {"query": row["query"], "document": row["document"], "score": row["label"]} for row in TRAIN
    ]
    if layout == "flat":
        expected = flat(expected)
        if query_id is not None:
            ids = [str(row["key"]) for row in train]
            expected = [{"key": key} | row for key, row in zip(ids, expected, strict=True)]
    assert found == expected
    assert len(written) == len(expected)
    assert written.columns == list(expected[0])
