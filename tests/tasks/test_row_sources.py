"""Files and data sets of rows: how formats are told, and what is refused with its name or key."""

import pytest
from row_files import (
    GOOD,
    LABELS,
    comma,
    jsonl,
    parquet,
    question,
    section,
    squad_file,
    tab,
    write,
)
from task_reading import recorded, refusal

from distilcli.config.data import RowFiles, RowHub
from distilcli.errors import ConfigError, DataError
from distilcli.tasks.examples import read_examples


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        (
            "classification",
            "a.tsv",
            "text\tclass\nba\tno\n",
            "line 1: no column 'label'; there are",
        ),
        (
            "classification",
            "a.parquet",
            parquet([{"text": "ba"}]),
            ": no column 'label'; there are",
        ),
        ("classification", "a.csv", b"text,label\nba,no\n\xff,no\n", "line 3: not UTF-8"),
        (
            "classification",
            "a.csv",
            'text,label\nba,no\n"be,no\n',
            "line 3: unexpected end of data",
        ),
        ("classification", "a.csv.gz", "text,label\n", "corrupt gzip"),
        ("classification", "a.parquet", "no Parquet", "not readable Parquet"),
        ("question-answering", "a.json", "{", ": not JSON (Expecting"),
        ("question-answering", "a.json", "{}", ": no 'data' where there should be one"),
        ("question-answering", "a.json", '{"data": [{}]}', ": no 'paragraphs' where there should"),
        ("tagging", "a.txt", b"ba\tN\nbe\t\xff\n", "line 2: not UTF-8"),
    ],
)
def test_a_file_that_is_none_of_its_format_is_refused(tmp_path, kind, name, content, message):
    path = write(tmp_path / name, content)
    error = refusal(section(kind, path, path, skip_bad_rows=True), DataError)
    assert str(path) in error.message
    assert message in error.message


def test_formats_are_told_by_endings_or_must_be_said(tmp_path):
    unknown, plain = "has no ending that tells its format", "is plain text, and these rows need"
    for kind, name, message, also in [
        ("classification", "rows.txt", plain, ""),
        ("regression", "rows", unknown, ""),
        ("question-answering", "rows.txt", plain, ", squad"),
        ("tagging", "rows.data.gz", unknown, ", conll"),
    ]:
        path = write(tmp_path / name, "")
        error = refusal(section(kind, path, path), ConfigError)
        assert error.message.startswith(f"task.train.format: {path} {message}")
        *others, last = f"jsonl, csv, tsv, parquet{also}".split(", ")
        assert error.hint.startswith(f"Set it to {', '.join(others)} or {last}")


@pytest.mark.parametrize(
    ("kind", "settings", "file_format"),
    [
        ("classification", {}, "conll"),
        ("classification", {"text_pair": "second"}, "conll"),
        ("classification", {}, "squad"),
        ("question-answering", {}, "conll"),
        ("tagging", {}, "squad"),
    ],
)
def test_the_format_of_another_task_is_refused(tmp_path, kind, settings, file_format):
    content = squad_file(question()) if file_format == "squad" else "ba N\n"
    source = {"files": [str(write(tmp_path / "rows", content))], "format": file_format}
    refusal(section(kind, source, source, **settings))


def test_paths_that_are_no_files_are_refused_by_their_key(tmp_path):
    good = write(tmp_path / "good.jsonl", jsonl([GOOD["classification"]]))
    for train, dev, message in [
        (tmp_path, good, f"task.train.files: {tmp_path} is a folder"),
        (good, tmp_path / "no-*.tsv", f"task.dev.files: {tmp_path}/no-*.tsv matches no file"),
    ]:
        assert refusal(section("classification", train, dev), DataError).message == message


def test_a_data_set_that_lacks_rows_or_columns_is_refused(tmp_path):
    rows = [{"text": "ba", "label": "no"}, {"text": None, "label": "yes"}]
    write(tmp_path / "train.jsonl", jsonl(rows))
    good = {"hub": str(tmp_path), "split": "train"}
    error = refusal(section("classification", good, good, **LABELS), DataError)
    assert error.message.splitlines() == [
        f"{tmp_path}: 1 bad row",
        f"  {tmp_path} train row 2: no text in text",
    ]
    error = refusal(section("classification", good, good, label="class", **LABELS), DataError)
    assert error.message.splitlines() == [
        f"{tmp_path}: 2 bad rows",
        f"  {tmp_path} train row 1: no column 'class'; there are: text, label",
        f"  {tmp_path} train row 2: no column 'class'; there are: text, label",
    ]
    other = good | {"split": "test"}
    error = refusal(section("classification", other, good, **LABELS), DataError)
    assert error.message.startswith(f"data set {tmp_path} after row 0: ")


def test_a_lone_carriage_return_is_part_of_a_field(tmp_path):
    path = write(tmp_path / "rows.tsv", "text\tlabel\nba\rbe\tno\nbi\tyes\r\n")
    found, train, _ = recorded(section("classification", path, path))
    assert train == [("ba\rbe",), ("bi",)]
    assert found.labels == ["no", "yes"]


def test_a_file_that_two_patterns_match_is_read_once(tmp_path):
    path = write(tmp_path / "rows.tsv", "text\tlabel\nba\tno\nbi\tyes\n")
    source = {"files": [str(path), str(tmp_path / "*.tsv")]}
    found, _, _ = recorded(section("classification", source, path))
    assert found.num_examples == (2, 2)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "hub"])
def test_optional_columns_are_read_where_a_file_has_them(tmp_path, ending):
    """The others of the file are not; without them the rows are as good."""
    write_rows = {"csv": comma, "tsv": tab, "parquet": parquet}.get(ending, jsonl)
    rows = [{"text": "ba", "score": "1.5", "other": "x"}, {"text": "be", "score": "2", "other": ""}]
    for name, without in (("with", {}), ("without", {"score"})):
        there = [{key: row[key] for key in row if key not in without} for row in rows]
        folder = tmp_path / name
        folder.mkdir()
        path = write(folder / f"train.{'jsonl' if ending == 'hub' else ending}", write_rows(there))
        source = RowFiles(files=[str(path)])
        if ending == "hub":
            source = RowHub(hub=str(folder), split="train")
        found = read_examples(source, "task.train", ["text"], dict, {}, ["score", "text", "none"])
        expected = [
            {"text": row["text"]} | {k: row[k] for k in row if k == "score"} for row in there
        ]
        assert found.usable == expected
        assert found.bad == []
