"""Every format, gzipped and not, and every way in which a source may be bad."""

import csv
import gzip
import io
import json
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilcli.config.data import FilesSource, HubSource, RowHub
from distilcli.errors import ConfigError, DataError
from distilcli.text import lines, row_formats
from distilcli.text.hub import hub_rows
from distilcli.text.sources import Reader, resolve

TEXTS = ["first of all", 'quoted "words", a comma', "\u00fcmlaut and \u6f22\u5b57"]


def read(**source):
    inputs = resolve([FilesSource(**source)], "data.sources")
    return list(Reader(inputs).documents(inputs))


def as_csv(delimiter, **options):
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, **options)
    writer.writerows([["id", "text"], *([index, text] for index, text in enumerate(TEXTS))])
    return stream.getvalue().encode()


def as_parquet(column="text"):
    stream = io.BytesIO()
    table = pa.table({"id": range(len(TEXTS)), column: TEXTS})
    pq.write_table(table, stream, row_group_size=2)
    return stream.getvalue()


CONTENTS = {
    "txt": "\n".join(TEXTS).encode(),
    "jsonl": "\n".join(json.dumps({"id": 1, "text": text}) for text in TEXTS).encode(),
    "csv": as_csv(","),
    "tsv": as_csv("\t", quoting=csv.QUOTE_NONE, quotechar=None),
    "parquet": as_parquet(),
}


@pytest.mark.parametrize("ending", CONTENTS)
@pytest.mark.parametrize("compressed", [False, True, "without .gz in its name"])
def test_every_format_gives_its_documents(tmp_path, ending, compressed):
    path = tmp_path / (f"corpus.{ending}" + (".gz" if compressed is True else ""))
    path.write_bytes(gzip.compress(CONTENTS[ending]) if compressed else CONTENTS[ending])
    assert [text.rstrip("\n") for text in read(files=str(path), documents="line")] == TEXTS


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("file", ["a\nb\n\n \nc\n"]),
        ("line", ["a\n", "b\n", "\n", " \n", "c\n"]),
        ("blank-line", ["a\nb\n", "c\n"]),
    ],
)
def test_documents_of_text_files(tmp_path, documents, expected):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\nb\n\n \nc\n")
    assert read(files=str(path), documents=documents) == expected


def test_globs_are_sorted_and_a_file_is_read_once(tmp_path):
    for name in ("b.txt", "a.txt", "c[1].txt"):
        (tmp_path / name).write_text(name)
    files = [str(tmp_path / "c[1].txt"), str(tmp_path / "*.txt")]
    assert read(files=files, documents="file") == ["c[1].txt", "a.txt", "b.txt"]


def test_null_is_an_empty_document_and_blank_lines_are_none(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null}\n\n{"text": "b"}\n')
    assert read(files=str(path)) == ["", "b"]


def test_csv_fields_span_lines_and_may_be_long(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text\n"one\ntwo"\n' + "x" * 200_000 + "\n")
    assert read(files=str(path)) == ["one\ntwo", "x" * 200_000]


BAD = {
    "not-utf8.txt": (b"fine\nbad \xff\n", r"line 2: not UTF-8 \(byte 0xff at position 5"),
    "json.jsonl": (b'{"text": "a"}\n{"text": \n', "line 2: not valid JSON"),
    "list.jsonl": (b"[1]\n", "item 1: not a JSON object"),
    "column.jsonl": (b'{"body": "a", "id": 1}\n', "line 1: no column 'text'; there are: body, id"),
    "number.jsonl": (b'\n{"text": 3}\n', "line 2: text is int, not text"),
    "column.csv": (b"id,body\n1,a\n", "line 1: no column 'text'; there are: id, body"),
    "fields.csv": (b"id,text\n1,a\n1,a,b\n", "line 3: 3 fields, but the header has 2"),
    "quote.csv": (b'id,text\n1,"a\nb\n', "line 3: unexpected end of data"),
    "column.tsv": (b"id\tbody\n", "no column 'text'"),
    "column.parquet": (as_parquet("body"), "no column 'text'; there are: id, body"),
    "broken.parquet": (as_parquet()[:-20], "not readable Parquet"),
    "cut.txt.gz": (gzip.compress(os.urandom(5000).hex().encode())[:-900], "corrupt gzip"),
    "cut.parquet.gz": (gzip.compress(as_parquet())[:-20], "corrupt gzip"),
    "plain.txt.gz": (b"not compressed", "corrupt gzip"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content_is_refused_with_its_place(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(files=str(path), documents="line")
    assert str(path) in caught.value.message


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv.gz", "a.tsv", "a.txt"])
def test_a_line_without_end_is_refused(tmp_path, monkeypatch, name):
    """A few MB of gzip make any length; the bound is a smaller one here."""
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2**20)
    path = tmp_path / name
    content = b'{"text": "a"}\n' + b"a" * 2**21
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError) as caught:
        read(files=str(path), documents="line", text_column='{"text": "a"}')
    if "jsonl" in name:  # the first line is read before the second one
        assert "line 1: no column" in caught.value.message
        with pytest.raises(DataError) as caught:
            read(files=str(path))
    assert caught.value.message == f"{path} line 2: over 1 MiB"
    assert "shorter lines" in caught.value.hint


def test_a_line_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2**20)
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 2**24)
    with path.open("rb") as raw:
        with pytest.raises(DataError, match="line 1: over 1 MiB"):
            list(lines.text_lines(path, raw))
        assert raw.tell() < 2**21


def test_a_field_without_end_is_refused(tmp_path, monkeypatch):
    """A quote that nobody closes makes one field of all that follows."""
    monkeypatch.setattr(row_formats, "MAX_CSV_FIELD", 1000)
    path = tmp_path / "a.csv"
    path.write_text('text\n"never closed\n' + "some words\n" * 1000)
    with pytest.raises(DataError, match=r"a.csv line \d+: field larger than field limit"):
        read(files=str(path))


@pytest.mark.parametrize(("documents", "separator"), [("file", ""), ("blank-line", "\n")])
def test_a_document_without_end_is_refused(tmp_path, monkeypatch, documents, separator):
    monkeypatch.setattr("distilcli.text.documents.MAX_DOCUMENT_CHARS", 1000)
    path = tmp_path / "a.txt"
    paragraph = "some words\n" * 50
    path.write_text(paragraph)
    assert read(files=str(path), documents=documents) == [paragraph]
    path.write_text("\n".join([paragraph] * 5) + separator)
    if documents == "blank-line":
        assert read(files=str(path), documents=documents) == [paragraph] * 5
        path.write_text("some words\n" * 91)
    with pytest.raises(DataError, match="a document of over 1,000 characters") as caught:
        read(files=str(path), documents=documents)
    assert f"which is not {documents}" in caught.value.hint


def test_a_path_or_glob_without_a_file_is_refused(tmp_path):
    for files, message in [
        (str(tmp_path / "*.txt"), r"\*.txt matches no file"),
        (str(tmp_path / "missing.txt"), "missing.txt matches no file"),
        (str(tmp_path), "is a folder"),
    ]:
        with pytest.raises(DataError, match=message):
            read(files=files, documents="file")


def test_the_key_to_set_is_named(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.bin").touch()
    with pytest.raises(ConfigError, match=r"data.sources.0.documents: must be said for text"):
        read(files=str(tmp_path / "a.txt"))
    with pytest.raises(ConfigError, match=r"data.sources.0.format: .* no ending"):
        read(files=str(tmp_path / "a.bin"))


def test_bytes_read_end_at_the_total(tmp_path):
    for name in ("a.jsonl", "b.parquet"):
        (tmp_path / name).write_bytes(CONTENTS[name.partition(".")[2]])
    inputs = resolve([FilesSource(files=[str(tmp_path / "*")])], "data.sources")
    reader = Reader(inputs)
    seen = [reader.bytes_read for _ in reader.documents(inputs)]
    assert seen == sorted(seen)
    assert reader.bytes_read == reader.total_bytes == sum(part.num_bytes for part in inputs)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_local_folder_is_read_as_a_hub_data_set(tmp_path, ending):
    (tmp_path / f"train.{ending}").write_bytes(CONTENTS[ending])
    inputs = resolve([HubSource(hub=str(tmp_path))], "data.sources")
    reader = Reader(inputs)
    assert list(reader.documents(inputs)) == TEXTS
    assert reader.total_bytes is None


def test_a_hub_data_set_that_cannot_be_read_is_a_data_error(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(CONTENTS["jsonl"])
    for source, message in [
        (HubSource(hub=str(tmp_path), text_column="body"), "row 1: no column 'body'; there are: "),
        (HubSource(hub=str(tmp_path), split="test"), "data set .* after row 0: "),
    ]:
        with pytest.raises(DataError, match=message):
            list(Reader([source]).documents([source]))


def saved_data_set(rows, split=None):
    """A data set of texts with classes, of which -1 says that there is none."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    return datasets.Dataset.from_dict(rows, features=features, split=split)


def test_what_save_to_disk_wrote_is_read(tmp_path):
    rows = {"text": ["a", "b", "c"], "label": [1, 0, -1]}
    saved_data_set(rows).save_to_disk(tmp_path / "one")
    splits = datasets.DatasetDict(train=saved_data_set(rows), test=saved_data_set(rows))
    splits.save_to_disk(tmp_path / "several")
    for name, split in (("one", "train"), ("several", "test")):
        source = RowHub(hub=str(tmp_path / name), split=split)
        found = list(hub_rows(source, ["text", "label"]))
        assert found == [
            {"text": "a", "label": "pos"},
            {"text": "b", "label": "neg"},
            {"text": "c", "label": None},
        ]
        hub = HubSource(hub=str(tmp_path / name), split=split)
        assert list(Reader([hub]).documents([hub])) == ["a", "b", "c"]


def test_a_split_that_was_not_saved_is_named(tmp_path):
    rows = {"text": ["a"], "label": [1]}
    saved_data_set(rows, "validation").save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=saved_data_set(rows)).save_to_disk(tmp_path / "several")
    for name, message, hint in [
        ("one", "after row 0: it holds the split validation", "Set split to validation."),
        ("several", "after row 0: no split 'test'; there are: train", "Name another."),
    ]:
        with pytest.raises(DataError) as caught:
            list(hub_rows(RowHub(hub=str(tmp_path / name), split="test"), ["text"]))
        assert caught.value.message == f"data set {tmp_path / name} {message}"
        assert caught.value.hint == hint


def test_a_saved_data_set_named_as_a_file_is_told_how(tmp_path):
    saved_data_set({"text": ["a"], "label": [1]}).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError) as caught:
        read(files=str(tmp_path / "one"))
    assert caught.value.hint.startswith("It is a data set saved by save_to_disk: name it as hub")


def test_documents_of_one_json_array(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a"}, {"text": "b"}], indent=2))
    assert read(files=str(path)) == ["a", "b"]
