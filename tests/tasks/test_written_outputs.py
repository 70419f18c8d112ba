"""Outputs of a teacher in a file: which row of the task each is for, and what is refused."""

import json
from typing import Any

import numpy as np
import pytest
from output_rows import DEV, ROWS, filed, first_logits, jsonl, opened, outputs, refusal, scores
from pydantic import TypeAdapter
from row_files import comma, parquet, tab, write
from task_reading import RecordingTokenizer

from distilcli.config.row_outputs import RowOutputs
from distilcli.config.tasks import GlueTask, Task
from distilcli.errors import ConfigError, DataError
from distilcli.tasks.open import open_task

# Columns of the rows


def test_a_glue_task_has_its_outputs(tmp_path):
    header = "index\tsentence1\tsentence2\tlabel\n"
    for split in ("train", "dev"):
        lines = (f"{i}\t{split} {i}\tba\t{'not_' * i}entailment\n" for i in range(2))
        write(tmp_path / f"{split}.tsv", header + "".join(lines))
    rows = [
        {
            "sentence1": f"train {i}",
            "sentence2": "ba",
            "logits": {"not_entailment": 9, "entailment": i},
        }
        for i in (2, 1, 0)
    ]
    section = {"kind": "glue", "name": "RTE", "folder": str(tmp_path)}
    section["teacher_outputs"] = filed(tmp_path, rows)
    task = open_task(TypeAdapter(Task).validate_python(section), RecordingTokenizer(), None, True)
    assert task.labels == ["entailment", "not_entailment"]
    assert task.train.teacher_outputs.tolist() == [[0, 9], [1, 9]]


def test_a_glue_task_has_its_ids(tmp_path):
    """As `predict` reads them."""
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.tsv", f"index\tsentence\tlabel\n7\t{split}\t1\n")
    config = GlueTask(kind="glue", name="SST-2", folder=str(tmp_path))
    ids = config.model_copy(update={"teacher_outputs": RowOutputs.of_ids("index")})
    tokenizer: Any = RecordingTokenizer()
    task = open_task(ids, tokenizer, None, True)
    assert [example.taught for example in task.examples] == ["7"]


def test_rows_bring_their_outputs(tmp_path):
    train = [row | {"logits": one} for row, one in zip(ROWS, scores(1, 2, 3, 4), strict=True)]
    task = opened(tmp_path, train, teacher_outputs={})
    assert first_logits(task) == [1, 2, 3, 4]
    assert task.labels == ["a", "b"]
    assert task.dev.teacher_outputs is None
    dev = [row | {"logits": one} for row, one in zip(DEV, scores(5, 6), strict=True)]
    of_dev = opened(tmp_path, train, dev, teacher_outputs={}).dev.teacher_outputs
    assert of_dev.tolist() == [[5, -1], [6, -1]]


@pytest.mark.parametrize(("ending", "rows"), [("csv", comma), ("tsv", tab), ("parquet", parquet)])
def test_a_column_for_each_class_is_read_of_every_format(tmp_path, ending, rows):
    cells = [{"no": "0.25", "yes": "0.75"}, {"no": "1", "yes": "0"}]
    table = [{**row, **cell} for row, cell in zip(ROWS[:2], cells, strict=True)]
    source = {"files": [str(write(tmp_path / f"train.{ending}", rows(table)))]}
    settings = {"columns": {"b": "yes", "a": "no"}, "holds": "probabilities"}
    task = opened(tmp_path, source, teacher_outputs=settings)
    # The order is that in which the classes are named.
    assert task.labels == ["b", "a"]
    tiny = np.log(np.finfo(np.float32).tiny)
    expected = [[np.log(0.75), np.log(0.25)], [tiny, 0.0]]
    assert task.train.teacher_outputs == pytest.approx(np.array(expected), rel=1e-6)


def test_lists_are_in_the_order_of_the_labels_which_must_be_said(tmp_path):
    train = [row | {"logits": [1.0, 2.0]} for row in ROWS]
    task = opened(tmp_path, train, labels=["b", "a"], teacher_outputs={})
    assert task.train.teacher_outputs.tolist() == [[1, 2]] * 4
    error = refusal(tmp_path, ConfigError, train=train, teacher_outputs={})
    assert error.message.startswith(
        "task.labels: the teacher's outputs are lists, and nothing says"
    )


@pytest.mark.parametrize("where", ["rows", "files", "columns", "dev"])
def test_values_of_0_or_1_have_the_classes_in_an_order_that_must_be_said(tmp_path, where):
    """Not in the order in which an object happens to name them."""
    vectors = [[0, 1], [1, 0], [1, 1], [0, 0]]
    shown = [{"text": text} for text in ("ba be", "bi", "bo bu", "da")]
    rows = [row | {"labels": one} for row, one in zip(shown, vectors, strict=True)]
    dev = [{"text": "do", "labels": [1, 0]}, {"text": "du", "labels": [1, 1]}]
    said = [{"b": 3.0, "a": number} for number in (1.0, 2.0, 4.0, 5.0)]
    settings: dict[str, Any] = {"kind": "multi-label", "dev": dev, "train": rows}
    if where == "columns":
        settings["train"] = [row | one for row, one in zip(rows, said, strict=True)]
        settings["teacher_outputs"] = {"columns": {"b": "b", "a": "a"}}
    else:
        taught = [row | {"logits": one} for row, one in zip(shown, said, strict=True)]
        settings["teacher_outputs"] = filed(tmp_path, taught)
    if where == "rows":
        settings["train"] = [row | one for row, one in zip(rows, taught, strict=True)]
        settings["teacher_outputs"] = {}
    if where == "dev":
        settings |= {"train": [row | {"labels": None} for row in rows]}
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path, **settings)
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith(
        "task.labels: the rows have 2 values of 0 or 1, the teacher's outputs name 2 classes, and"
    )
    task = opened(tmp_path, **settings, labels=["a", "b"])
    assert task.dev.targets.tolist() == [[1, 0], [1, 1]]
    assert task.train.teacher_outputs.tolist() == [[1, 3], [2, 3], [4, 3], [5, 3]]


def test_a_bad_row_is_named_with_its_file_and_number(tmp_path):
    cells = [[1, 2], [0, 0], None, [1, 2, 3]]
    train = [row | {"logits": cell} for row, cell in zip(ROWS, cells, strict=True)]
    error = refusal(tmp_path, train=train, labels=["a", "b"], teacher_outputs={})
    path = tmp_path / "train.jsonl"
    assert error.message.splitlines() == [
        f"{path}: 3 bad rows",
        f"  {path} line 3: no outputs of the teacher",
        f"  {path} line 2: the outputs are 0 for every class, as of a model that said nothing",
        f"  {path} line 4: 3 outputs, but there are 2 classes",
    ]
    kept = opened(tmp_path, train, labels=["a", "b"], teacher_outputs={}, skip_bad_rows=True)
    assert kept.train.teacher_outputs.tolist() == [[1, 2]]
    assert kept.skipped.train == 3


def test_a_column_that_is_not_there_is_named(tmp_path):
    error = refusal(tmp_path, teacher_outputs={"column": "scores"}, labels=["a", "b"])
    assert "no column 'scores'; there are: text, label" in error.message


def test_of_numbers_the_column_is_score(tmp_path):
    rows = [{"text": "ba", "label": 1.5, "score": "0.5"}, {"text": "be", "label": 2, "score": 3}]
    task = opened(tmp_path, rows, rows[:1], kind="regression", teacher_outputs={})
    assert task.train.teacher_outputs.tolist() == [[0.5], [3.0]]
    assert task.dev.teacher_outputs.tolist() == [[0.5]]


def test_rows_without_labels_have_outputs_too(tmp_path):
    """In the order in which the inputs are: with a label, without, of task.transfer."""
    train = [{"text": "ba", "label": None}, {"text": "be", "label": "a"}]
    train = [row | {"logits": one} for row, one in zip(train, scores(1, 2), strict=True)]
    more = jsonl(tmp_path / "more.jsonl", [{"text": "bi", "logits": scores(3)[0]}])
    task = opened(tmp_path, train, transfer=more, teacher_outputs={})
    assert first_logits(task) == [2, 1, 3]
    bad = jsonl(tmp_path / "more.jsonl", [{"text": "bi", "logits": {"a": 1}}])
    error = refusal(tmp_path, train=train, transfer=bad, teacher_outputs={})
    assert "more.jsonl line 1: no output for the class 'b'" in error.message
    train[0]["logits"] = {"a": 0, "b": 0}
    error = refusal(tmp_path, train=train, transfer=more, teacher_outputs={})
    assert "train.jsonl line 1: the outputs are 0" in error.message


# Files of outputs


def test_rows_of_files_are_matched_by_their_texts(tmp_path):
    """Whatever their order, and what they hold besides."""
    rows = outputs([*ROWS, {"text": "nobody's"}], [1, 2, 3, 4, 5])
    order = [4, 2, 0, 3, 1]
    task = opened(tmp_path, teacher_outputs=filed(tmp_path, [rows[i] for i in order]))
    assert first_logits(task) == [1, 2, 3, 4]
    assert task.dev.teacher_outputs is None
    assert task.warnings == []


def test_a_pair_is_matched_by_both_texts(tmp_path):
    pairs = [("ba", "be"), ("be", "ba"), ("ba", "bi")]
    train = [{"one": a, "two": b, "label": "ab"[i % 2]} for i, (a, b) in enumerate(pairs)]
    rows = outputs(train, [1, 2, 3])[::-1]
    dev = [{"one": "do", "two": "du", "label": "a"}]
    columns = {"text": "one", "text_pair": "two"}
    task = opened(tmp_path, train, dev, teacher_outputs=filed(tmp_path, rows), **columns)
    assert first_logits(task) == [1, 2, 3]


def test_of_a_text_that_is_there_twice_each_row_has_its_own(tmp_path):
    train = [ROWS[0], ROWS[1], ROWS[0]]
    rows = outputs([ROWS[0], ROWS[0], ROWS[1]], [1, 2, 3])
    assert first_logits(opened(tmp_path, train, teacher_outputs=filed(tmp_path, rows))) == [1, 3, 2]


def test_a_file_with_fewer_rows_is_one_error(tmp_path):
    rows = outputs([ROWS[0], ROWS[2]], [1, 2])
    error = refusal(tmp_path, train=[*ROWS, ROWS[0]], teacher_outputs=filed(tmp_path, rows))
    train, scored = tmp_path / "train.jsonl", tmp_path / "scores.jsonl"
    assert error.message.splitlines() == [
        f"{train}: 3 bad rows",
        f"  {train} line 2: no outputs for it in {scored}",
        f"  {train} line 4: no outputs for it in {scored}",
        f"  {train} line 5: no outputs 2 for it in {scored}",
    ]


def test_bad_rows_of_the_file_are_named(tmp_path):
    rows = outputs(ROWS, [1, 2, 3, 4])
    rows[1]["logits"] = {"a": 0, "b": 0}
    del rows[2]["logits"]
    error = refusal(tmp_path, teacher_outputs=filed(tmp_path, rows))
    path = tmp_path / "scores.jsonl"
    assert error.message.splitlines()[0] == f"{path}: 2 bad rows"
    assert f"{path} line 3: no column 'logits'; there are: text" in error.message
    assert f"{path} line 2: the outputs are 0 for every class" in error.message
    settings = filed(tmp_path, rows)
    kept = opened(tmp_path, teacher_outputs=settings, skip_bad_rows=True)
    assert first_logits(kept) == [1, 4]


def test_dev_rows_are_measured_where_the_file_knows_all_of_them(tmp_path):
    rows = outputs([*DEV, *ROWS], [5, 6, 1, 2, 3, 4])
    task = opened(tmp_path, teacher_outputs=filed(tmp_path, rows))
    assert task.dev.teacher_outputs[:, 0].tolist() == [5, 6]
    some = opened(tmp_path, teacher_outputs=filed(tmp_path, rows[1:]))
    assert some.dev.teacher_outputs is None
    assert some.warnings == [
        "task.dev: 1 of 2 rows have outputs of the teacher, which is therefore not measured"
    ]


def test_a_text_of_both_splits_may_have_one_output_or_two(tmp_path):
    dev = [ROWS[0], DEV[1]]
    both = outputs([*ROWS, *dev], [1, 2, 3, 4, 5, 6])
    task = opened(tmp_path, dev=dev, teacher_outputs=filed(tmp_path, both))
    assert (first_logits(task)[0], task.dev.teacher_outputs[0, 0]) == (1, 5)
    once = outputs([*ROWS, DEV[1]], [1, 2, 3, 4, 6])
    task = opened(tmp_path, dev=dev, teacher_outputs=filed(tmp_path, once))
    assert (first_logits(task)[0], task.dev.teacher_outputs[0, 0]) == (1, 1)


def test_an_infinite_id_has_no_outputs(tmp_path):
    rows = [{**row, "key": number} for row, number in zip(ROWS, [1.0, 2.0, 3.0], strict=False)]
    rows.append({**ROWS[3], "key": float("inf")})
    train = {"files": [str(write(tmp_path / "train.parquet", parquet(rows)))]}
    keyed = [{"key": key, "logits": one} for key, one in enumerate(scores(0, 1, 2, 3))]
    error = refusal(tmp_path, train=train, teacher_outputs=filed(tmp_path, keyed, id="key"))
    assert error.message.startswith(f"{tmp_path}/train.parquet: 1 bad row")
    assert "(key inf)" in error.message


def test_several_outputs_of_a_text_must_be_alike(tmp_path):
    """But for rounding: a model gives a text the same outputs, whatever it is packed with."""
    rows = outputs([*ROWS, ROWS[0], ROWS[0]], [1, 2, 3, 4, 1.0001, 1])
    assert first_logits(opened(tmp_path, teacher_outputs=filed(tmp_path, rows))) == [1, 2, 3, 4]
    rows[-1]["logits"]["a"] = 2.0
    error = refusal(tmp_path, teacher_outputs=filed(tmp_path, rows))
    assert error.message == (
        f"{tmp_path}/scores.jsonl: several outputs for 1 text, and nothing says which row each "
        "is for"
    )
    assert "task.teacher_outputs.id" in error.hint


def with_ids(rows: list[dict[str, Any]], *ids: Any) -> list[dict[str, Any]]:
    return [row | {"key": one} for row, one in zip(rows, ids, strict=True)]


def test_rows_of_files_are_matched_by_ids(tmp_path):
    """Which are texts or numbers; texts need not be in the file."""
    train = with_ids([ROWS[0], ROWS[1], ROWS[0]], 7, "x", 9.0)
    rows = with_ids(outputs(train, [1, 2, 3]), "7", " x", 9)
    dev = with_ids(DEV, 7, "none")
    for without in ([], ["text"]):
        kept = [{key: row[key] for key in row if key not in without} for row in rows[::-1]]
        task = opened(tmp_path, train, DEV, teacher_outputs=filed(tmp_path, kept, id="key"))
        assert first_logits(task) == [1, 2, 3]
    some = opened(tmp_path, train, dev, teacher_outputs=filed(tmp_path, kept, id="key"))
    assert some.warnings[-1].startswith("task.dev: 1 of 2 rows have outputs of the teacher")


@pytest.mark.parametrize(
    ("ids", "of_file", "message"),
    [
        ([1, 2, None, 4], [1, 2, 3, 4], "train.jsonl line 3: no id in key"),
        ([1, 2, 3, 5], [1, 2, 3, 4], "train.jsonl line 4: no outputs for it in"),
        ([1, 2, 3, 4], [1, 2, 3, None], "scores.jsonl line 4: no id in key"),
        ([1, 2, 3, 4], [2, 1, 3, 4], "has other texts for it (key 1): not the same row"),
        ([1, 2, 3, 4], [1, 2, 3, 3], "scores.jsonl: several outputs for 1 id, and"),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path, ids, of_file, message):
    rows = with_ids(outputs(ROWS, [1, 2, 3, 4]), *of_file)
    settings = filed(tmp_path, rows, id="key")
    error = refusal(tmp_path, train=with_ids(ROWS, *ids), teacher_outputs=settings)
    assert message in error.message


# Words


def test_the_words_of_a_sentence_have_outputs_each(tmp_path):
    """Those that are passed over need none; a sentence of many words is read in several inputs."""
    words = [["ba", "be", "bi", "bo", "bu", "da", "de", "di"], ["do", "du"]]
    tags = [["a", "b", -100, "a", "b", "a", "a", "a"], [-100, "b"]]
    train = [{"tokens": w, "tags": t} for w, t in zip(words, tags, strict=True)]
    cells = [
        [{"a": i, "b": -1} if tag != -100 else None for i, tag in enumerate(row, 1)] for row in tags
    ]
    rows = [{"tokens": w, "logits": c} for w, c in zip(words, cells, strict=True)]
    common = {"kind": "tagging", "max_length": 8, "dev": train[:1]}
    task = opened(tmp_path, train, teacher_outputs=filed(tmp_path, rows[::-1]), **common)
    assert len(task.train) > 2
    assert first_logits(task) == [1, 2, 4, 5, 6, 7, 8, 2]
    assert len(task.train.teacher_outputs) == task.train.output_offsets[-1]
    brought = [row | {"logits": json.dumps(c)} for row, c in zip(train, cells, strict=True)]
    task = opened(tmp_path, brought, teacher_outputs={}, **common)
    assert first_logits(task) == [1, 2, 4, 5, 6, 7, 8, 2]
    for cell, message in (
        (cells[0][:-1], "8 words, but outputs for 7"),
        ([None, *cells[0][1:]], "no outputs of the teacher for word 1"),
    ):
        bad = [train[0] | {"logits": cell}, brought[1]]
        with pytest.raises(DataError) as caught:
            opened(tmp_path, bad, teacher_outputs={}, **common)
        assert f"train.jsonl line 1: {message}" in caught.value.message


def test_ids_alone_say_nothing_of_outputs(tmp_path):
    task = opened(tmp_path, with_ids(ROWS, 1, 2, 3, 4))
    assert task.train.teacher_outputs is None
    assert RowOutputs.of_ids("key").are_ids_alone
    assert not RowOutputs(files=["a.jsonl"], id="key").are_ids_alone
