"""Files of rows that a test writes down, in every format, and the `task` section for them."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def delimited(delimiter, rows, **options) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n", **options)
    writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    return stream.getvalue().encode()


def comma(rows) -> bytes:
    return delimited(",", rows)


def tab(rows) -> bytes:
    return delimited("\t", rows, quoting=csv.QUOTE_NONE, quotechar=None)


def parquet(rows) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=2)
    return stream.getvalue()


def squad_file(*questions, context="ba be bi") -> bytes:
    """A file of SQuAD with the questions, each in a paragraph of its own with the context."""
    paragraphs = [{"context": context, "qas": [question]} for question in questions]
    return json.dumps({"version": "1.1", "data": [{"paragraphs": paragraphs}]}).encode()


def question(answer="be", start=3, **changes):
    answers = [{"text": answer, "answer_start": start}]
    return {"id": "q", "question": "what", "answers": answers} | changes


def section(kind, train, dev, **settings):
    """The `task` section for two files, or two sources."""
    sources = [
        source if isinstance(source, dict) else {"files": [str(source)]} for source in (train, dev)
    ]
    if kind == "question-answering":
        settings = {"max_length": 64, "stride": 4, "max_question_length": 32} | settings
    return {"kind": kind, "train": sources[0], "dev": sources[1]} | settings


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


# A row that is right, of each kind, and what another class of it is.

LABELS = {"labels": ["no", "yes"]}
GOOD = {
    "classification": {"text": "ka", "label": "yes"},
    "multi-label": {"text": "ka", "labels": ["yes"]},
    "regression": {"text": "ka", "label": 1.0},
    "question-answering": question("ka", start=0, context="ka"),
    "tagging": {"tokens": ["ka"], "tags": ["N"]},
}


def other_class(kind):
    key, value = {
        "classification": ("label", "no"),
        "multi-label": ("labels", ["no"]),
        "tagging": ("tags", ["V"]),
    }[kind]
    return {key: value}
