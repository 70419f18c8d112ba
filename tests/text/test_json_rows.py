"""JSON that is one object on each line, or one array of objects, and what is wrong with either."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from distilcli.errors import DataError
from distilcli.files.json_text import parse_json
from distilcli.text.json_rows import json_rows
from distilcli.text.row import BadRow, Row, encodable

ROWS = [{"text": 'a, "b" ]', "n": [1, {"x": None}]}, {"text": "line\nbreak"}, {"text": ""}]


def read(text: str) -> list[Row | BadRow]:
    return list(json_rows(Path("f.json"), iter(text.splitlines(keepends=True))))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n \n" + json.dumps(ROWS, indent=1) + "\n\n",
        "[" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
        "[\n" + "\n,\n".join(map(json.dumps, ROWS)) + "]",
    ],
)
def test_an_array_is_read_however_it_is_laid_out(text: str) -> None:
    assert read(text) == [Row(i, row, "item") for i, row in enumerate(ROWS, start=1)]


def test_lines_are_numbered_as_they_stand() -> None:
    found = read('\n{"text": "a"}\n\n{"text": \n[1]\n')
    assert [(row.number, row.unit) for row in found] == [(2, "line"), (4, "line"), (5, "line")]
    assert [getattr(row, "reason", None) for row in found] == [
        None,
        "not valid JSON (Expecting value)",
        "not a JSON object",
    ]


def test_an_empty_array_holds_nothing() -> None:
    assert read("[ ]\n") == []


def test_items_that_are_no_objects_are_bad_rows() -> None:
    assert [getattr(row, "reason", "") for row in read('[{"a": 1}, 2, "x"]')] == [
        "",
        "not a JSON object",
        "not a JSON object",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[{"a": 1}, {"a": }]',
            "f.json item 2 of the JSON array: not valid JSON (Expecting value)",
        ),
        (
            '[{"a": 1},\n{"b": 2}\n{"c": 3}]',
            "item 2 of the JSON array: not valid JSON (Expecting ',",
        ),
        ('[{"a": 1}, {"b"', "item 2 of the JSON array: not valid JSON"),
        ('[{"a": 1}', "item 1 of the JSON array: not valid JSON (Expecting ',' or ']' after it)"),
        ('[{"a": 1}]\n[{"a": 2}]\n', "f.json: there is more after the end of the JSON array"),
        ("[" * 100_000, "item 1 of the JSON array: not valid JSON (nested too deeply)"),
        ("[" + "9" * 5000 + "]", "item 1 of the JSON array: not valid JSON (Exceeds the limit"),
    ],
)
def test_what_is_wrong_with_an_array_is_said(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(text)
    assert message in caught.value.message
    assert "one object on each line" in caught.value.hint


def test_an_array_is_not_read_at_once() -> None:
    """Nor is an item of many lines tried again with each of them."""
    num_read = 0

    def lines() -> Iterator[str]:
        nonlocal num_read
        yield "[\n"
        for number in range(1000):
            num_read += 1
            yield f'{{"n": {number}}},\n'
        yield '{"n": 1000}]'

    rows = json_rows(Path("f.json"), lines())
    assert next(rows) == Row(1, {"n": 0}, "item")
    assert num_read < 10
    assert [row.number for row in rows] == list(range(2, 1002))


def test_a_line_nested_too_deeply_is_a_bad_row() -> None:
    [row] = read('{"a": ' * 100_000)
    assert isinstance(row, BadRow)
    assert row.reason == "not valid JSON (nested too deeply)"
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_halves_of_surrogate_pairs_become_question_marks() -> None:
    value = ["a\ud83d", {"text": ["\udc00b"], "start": 3}, None, "\U0001f600"]
    assert encodable(value) == ["a?", {"text": ["?b"], "start": 3}, None, "\U0001f600"]
