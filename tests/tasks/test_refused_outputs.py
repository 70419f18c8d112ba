"""Files of a teacher's outputs that cannot be used, or are doubtful, and what is said of them."""

import math

import pytest
from output_rows import ROWS, filed, jsonl, opened, outputs, refusal, scores

from distilcli.errors import DistilError
from distilcli.tasks.cells import id_of
from distilcli.tasks.examples import BadExample


def test_a_bad_row_of_words_is_named_in_the_file_of_outputs(tmp_path):
    """Where the file has the words; where it has ids alone, beside the row that it is for."""
    train = [{"tokens": ["ba", "be"], "tags": ["a", "b"], "key": i} for i in (1, 2)]
    train[1]["tokens"] = ["bi", "bo"]
    rows = [
        {"tokens": row["tokens"], "key": row["key"], "logits": scores(*numbers)}
        for row, numbers in zip(train, ([1, 2], [3]), strict=True)
    ]
    common = {"kind": "tagging", "dev": train[:1], "train": train}
    path = tmp_path / "scores.jsonl"
    error = refusal(tmp_path, teacher_outputs=filed(tmp_path, rows), **common)
    assert error.message.splitlines() == [
        f"{path}: 1 bad row",
        f"  {path} line 2: 2 words, but outputs for 1",
    ]
    by_id = filed(tmp_path, [{"key": r["key"], "logits": r["logits"]} for r in rows], id="key")
    error = refusal(tmp_path, teacher_outputs=by_id, **common)
    line = f"{tmp_path}/train.jsonl line 2: 2 words, but outputs for 1, in {path} line 2"
    assert error.message.splitlines()[1:] == [f"  {line}"]
    rows[1]["logits"] = [None, {"a": 1, "b": 2}]
    error = refusal(tmp_path, teacher_outputs=filed(tmp_path, rows), **common)
    line = f"train.jsonl line 2: no outputs of the teacher for word 1, in {path} line 2"
    assert error.message.splitlines()[1].endswith(line)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "scores.jsonl: there are no rows"),
        (["{'a': 1.0, 'b': 2.0}"], "line 1: outputs \"{'a': 1.0, 'b': 2.0}\" are no JSON; JSON"),
        ([None], "scores.jsonl line 1: no outputs of the teacher"),
        ([[1.0, 2.0]], "task.labels: the teacher's outputs are lists, and nothing says"),
    ],
)
@pytest.mark.parametrize("kind", ["classification", "multi-label"])
def test_a_file_without_usable_outputs_is_not_said_to_hold_lists(tmp_path, kind, cells, message):
    rows = [row | {"logits": cell} for row, cell in zip(ROWS, cells, strict=False)]
    task = {"kind": kind, "label": "label", "teacher_outputs": filed(tmp_path, rows)}
    error = refusal(tmp_path, DistilError, **task)
    assert message in error.message
    if "lists" not in message:
        assert "lists" not in error.message


def test_bad_outputs_of_rows_without_labels_are_told_before_classes_are_asked_for(tmp_path):
    more = jsonl(tmp_path / "more.jsonl", [{"text": "bi", "logits": "{'a': 1}"}])
    common = {"teacher_outputs": {}, "transfer": more}
    error = refusal(tmp_path, train=None, **common)
    assert "more.jsonl line 1: outputs \"{'a': 1}\" are no JSON" in error.message


def test_a_list_among_objects_is_a_bad_row(tmp_path):
    """Nobody has said that its order is that of the first object; task.labels says an order."""
    rows = outputs(ROWS, [1, 2, 3, 4])
    rows[2]["logits"] = [-1, 3]
    rows[0]["logits"] = {"b": -1, "a": 1}
    error = refusal(tmp_path, teacher_outputs=filed(tmp_path, rows))
    path = tmp_path / "scores.jsonl"
    assert error.message.splitlines()[0] == f"{path}: 1 bad row"
    assert f"{path} line 3: outputs in a list, where others are by class" in error.message
    task = opened(tmp_path, labels=["b", "a"], teacher_outputs=filed(tmp_path, rows))
    assert task.train.teacher_outputs.tolist() == [[-1, 1], [-1, 2], [-1, 3], [-1, 4]]


LIKE = ["the outputs look like probabilities"]


@pytest.mark.parametrize(
    ("kind", "holds", "cells", "warned"),
    [
        ("classification", None, [[0.25, 0.75], [1.0, 0.0]], LIKE),
        ("classification", "logits", [[0.25, 0.75], [1.0, 0.0]], LIKE),
        ("classification", "probabilities", [[0.25, 0.75], [1.0, 0.0]], []),
        ("classification", None, [[0.25, 0.75], [1.5, -0.5]], []),
        ("classification", None, [[0.25, 0.75], [0.5, 0.25]], []),
        ("multi-label", None, [[0.25, 0.75], [0.5, 0.25]], LIKE),
        ("multi-label", None, [[0.25, 0.75], [0.5, -0.25]], []),
        ("tagging", None, [[[0.25, 0.75]], [[1.0, 0.0]]], LIKE),
        ("regression", None, [0.25, 0.75], []),
    ],
)
def test_probabilities_that_are_said_to_be_logits_are_doubted(tmp_path, kind, holds, cells, warned):
    is_number = kind == "regression"
    section = {"kind": kind, "teacher_outputs": {"holds": holds, "column": "says"}}
    section |= {"label": "label"} if kind != "tagging" else {"words": "text", "tags": "label"}
    section |= {} if is_number else {"labels": ["a", "b"]}
    labels = [1, 2] if is_number else ["a", "b"]
    train = [
        {"text": text, "label": label, "says": cell}
        for text, label, cell in zip(["ba", "be"], labels, cells, strict=True)
    ]
    dev = [{"text": "do", "label": labels[0]}, {"text": "du", "label": labels[1]}]
    found = [one for one in opened(tmp_path, train, dev, **section).warnings if "holds" in one]
    assert len(found) == len(warned)
    for one, part in zip(found, warned, strict=True):
        assert one.startswith("task.teacher_outputs.holds: logits, but")
        assert part in one


@pytest.mark.parametrize("one", [7, 7.0, "7", "7.0", " 7 "])
@pytest.mark.parametrize("other", [7, 7.0, "7", "7.0"])
def test_an_id_is_the_same_however_a_whole_number_is_written(one, other):
    assert id_of(one, "key") == id_of(other, "key")


@pytest.mark.parametrize("value", [None, math.nan, "", "  ", True, [7], {"a": 7}])
def test_what_is_no_id_is_refused(value):
    with pytest.raises(BadExample, match="no id in key"):
        id_of(value, "key")


def test_other_ids_are_others():
    assert len({id_of(one, "key") for one in (7, "007", "7.5", 7.25, "x", "7.0.0")}) == 6
