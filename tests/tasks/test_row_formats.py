"""The same rows give the same examples out of every format and out of a folder of a data set."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_files import comma, delimited, jsonl, parquet, section, tab, write
from task_reading import opened, recorded
from tiny_tasks import pair_tokenizer

from distilcli.tasks.inputs import Inputs


def assert_same(found: Inputs, expected: Inputs) -> None:
    """All that models take; what inputs show is not compared."""
    for name in Inputs.__dataclass_fields__.keys() - {"shown"}:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


PAIRS = [
    {"first": "ba be, bi", "second": 'do "da', "label": "yes"},
    {"first": '"ga" ge', "second": "fa.", "label": "no"},
    {"first": " ka \u00fc", "second": "\u6f22 ki ", "label": "10"},
    {"first": "la", "second": "li lo", "label": "2"},
    {"first": "ma", "second": '"', "label": "no"},
]
PAIR_COLUMNS = {"text": "first", "text_pair": "second"}
PAIR_CLASSES = ["2", "10", "no", "yes"]
PAIR_FILES = {
    "rows.tsv": tab(PAIRS),
    "rows.csv": comma(PAIRS),
    "rows.jsonl": jsonl(PAIRS),
    "rows.ndjson": jsonl(PAIRS),
    "rows.json": jsonl(PAIRS),
    "rows.parquet": parquet(PAIRS),
    "windows.tsv": b"\xef\xbb\xbf" + tab(PAIRS).replace(b"\n", b"\r\n"),
    "windows.csv": b"\xef\xbb\xbf" + comma(PAIRS).replace(b"\n", b"\r\n"),
}


def assert_pairs(task) -> None:
    found, train, dev = recorded(task)
    assert train == dev == [(row["first"], row["second"]) for row in PAIRS]
    tokenizer = pair_tokenizer()
    found = opened(task, tokenizer)
    assert found.labels == PAIR_CLASSES
    encoded = [tokenizer(row["first"], row["second"], return_token_type_ids=True) for row in PAIRS]
    lengths = [len(row["input_ids"]) for row in encoded]
    expected = Inputs(
        token_ids=np.concatenate([row["input_ids"] for row in encoded]),
        token_types=np.concatenate([row["token_type_ids"] for row in encoded]),
        offsets=np.cumsum([0, *lengths]),
        output_positions=np.zeros(len(PAIRS)),
        output_offsets=np.arange(len(PAIRS) + 1),
        targets=np.array([PAIR_CLASSES.index(row["label"]) for row in PAIRS]),
    )
    assert_same(found.train, expected)
    assert_same(found.dev, expected)


@pytest.mark.parametrize("name", PAIR_FILES)
@pytest.mark.parametrize("compressed", [False, True, "without .gz in its name"])
def test_pairs_are_the_same_out_of_every_format(tmp_path, name, compressed):
    content = gzip.compress(PAIR_FILES[name]) if compressed else PAIR_FILES[name]
    path = write(tmp_path / (name + (".gz" if compressed is True else "")), content)
    assert_pairs(section("classification", path, path, **PAIR_COLUMNS))


@pytest.mark.parametrize("name", ["rows.tsv", "rows.csv"])
def test_columns_can_be_named_for_a_file_without_a_header(tmp_path, name):
    content = PAIR_FILES[name].partition(b"\n")[2]
    source = {"files": [str(write(tmp_path / name, content))], "columns": list(PAIRS[0])}
    assert_pairs(section("classification", source, source, **PAIR_COLUMNS))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_pairs_are_the_same_out_of_a_folder_that_datasets_loads(tmp_path, name):
    for split in ("train", "test"):
        write(tmp_path / f"{split}{Path(name).suffix}", PAIR_FILES[name])
    sources = [{"hub": str(tmp_path), "split": split} for split in ("train", "test")]
    assert_pairs(section("classification", *sources, **PAIR_COLUMNS))


def test_a_format_that_is_said_goes_before_the_ending(tmp_path):
    source = {"files": [str(write(tmp_path / "rows.txt", PAIR_FILES["rows.csv"]))], "format": "csv"}
    assert_pairs(section("classification", source, source, **PAIR_COLUMNS))


def test_files_come_one_after_another_and_a_glob_in_the_order_of_names(tmp_path):
    for number, name in enumerate(["b.tsv", "c.jsonl", "a.csv"]):
        row = {"text": f"from {name}", "label": ["no", "yes"][number % 2]}
        make = {".tsv": tab, ".jsonl": lambda rows: jsonl(rows), ".csv": comma}[Path(name).suffix]
        write(tmp_path / name, make([row]))
    source = {"files": [str(tmp_path / "c.jsonl"), str(tmp_path / "[ab].*")]}
    _, train, _ = recorded(section("classification", source, source))
    assert train == [("from c.jsonl",), ("from a.csv",), ("from b.tsv",)]


SENTENCES = [
    {"tokens": ["ba", "bebi", ",", '"'], "tags": ["N", "V", "P", "P"]},
    {"tokens": ["#", "di"], "tags": ["P", "N"]},
    {"tokens": ["\u00fc", "ga", "ga"], "tags": ["N", "N", "N"]},
    {"tokens": ["fa"], "tags": ["N"]},
]


def conll(row_format: str, heads: bool = False) -> bytes:
    lines = ["-DOCSTART- -X- O", ""] if heads else []
    for row in SENTENCES:
        for number, (word, tag) in enumerate(zip(*row.values(), strict=True), start=1):
            lines.append(row_format.format(number=number, word=word, tag=tag))
        lines.append("")
    return "\n".join(lines).encode()


TAG_CELLS = [{name: json.dumps(cell) for name, cell in row.items()} for row in SENTENCES]
TAG_WORDS = [{name: " ".join(cell) for name, cell in row.items()} for row in SENTENCES]
TAG_FILES = {
    "rows.tsv": (conll("{word}\t{tag}"), {}),
    "rows.txt": (conll("{word} {tag}"), {}),
    "heads.txt": (conll("{word} x {tag}", heads=True), {}),
    "more.conll": (b"\n\n" + conll("{word}\t_\t{number}\t{tag}") + b"\n\n\n", {}),
    "last.bio": (conll("{word}\t{tag}").rstrip(b"\n"), {}),
    "windows.tsv": (b"\xef\xbb\xbf" + conll("{word}\t{tag}").replace(b"\n", b"\r\n"), {}),
    "named.conllu": (
        b"# newdoc id = a\n# text = ba bebi\n" + conll("{number}\t{word}\t_\t{tag}\t_"),
        {"columns": ["id", "tokens", "lemma", "tags", "misc"]},
    ),
    "rows.csv": (comma(TAG_CELLS), {}),
    "blanks.csv": (comma(TAG_WORDS), {}),
    "format.tsv": (tab(TAG_WORDS), {"format": "tsv"}),
    "rows.jsonl": (jsonl(SENTENCES), {}),
    "rows.parquet": (parquet(SENTENCES), {}),
}


def assert_tags(task) -> None:
    found, train, dev = recorded(task)
    assert train == dev == [(row["tokens"],) for row in SENTENCES]
    assert found.labels == ["N", "P", "V"]
    tags = [found.labels.index(tag) for row in SENTENCES for tag in row["tags"]]
    assert found.train.targets.tolist() == found.dev.targets.tolist() == tags
    assert found.num_examples == (len(SENTENCES), len(SENTENCES))


@pytest.mark.parametrize("name", TAG_FILES)
@pytest.mark.parametrize("compressed", [False, True])
def test_tags_are_the_same_out_of_every_format(tmp_path, name, compressed):
    content, settings = TAG_FILES[name]
    path = tmp_path / (name + (".gz" if compressed else ""))
    write(path, gzip.compress(content) if compressed else content)
    source = {"files": [str(path)]} | settings
    assert_tags(section("tagging", source, source))


def test_tags_are_the_same_out_of_a_folder_with_named_classes(tmp_path):
    """Of a data set, numbers of classes get their names back, those in lists too."""
    import datasets

    names = ["V", "P", "N"]
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    columns = {name: [row[name] for row in SENTENCES] for name in SENTENCES[0]}
    columns["tags"] = [[names.index(tag) for tag in tags] for tags in columns["tags"]]
    with (tmp_path / "train.parquet").open("wb") as file:
        datasets.Dataset.from_dict(columns, features=features).to_parquet(file)
    source = {"hub": str(tmp_path), "split": "train"}
    assert_tags(section("tagging", source, source))


QUESTIONS = [
    {"context": "ba be. bi", "question": "Which one?", "at": [("be", 3), ("bi", 7)]},
    {"context": 'do "da, \u00fc" do', "question": '"What', "at": [("\u00fc", 8)]},
    {"context": "ba be. bi", "question": "And now", "at": [("ba be. bi", 0)]},
]


def question_rows(columnwise: bool):
    """As in rows of a data set, its answers a list of objects or an object of lists."""
    rows = []
    for number, row in enumerate(QUESTIONS):
        answers = [{"text": text, "answer_start": start} for text, start in row["at"]]
        if columnwise:
            answers = {name: [one[name] for one in answers] for name in ("text", "answer_start")}
        rows.append({"id": str(number)} | row | {"answers": answers})
        del rows[-1]["at"]
    return rows


def question_file() -> bytes:
    articles = []
    for row in question_rows(columnwise=False):
        context = row.pop("context")
        articles.append({"title": "t", "paragraphs": [{"context": context, "qas": [row]}]})
    return json.dumps({"data": articles, "version": "1.1"}).encode()


QUESTION_FILES = {
    "rows.json": question_file(),
    "rows.jsonl": jsonl(question_rows(columnwise=False)),
    "columns.jsonl": jsonl(question_rows(columnwise=True)),
    "rows.parquet": parquet(question_rows(columnwise=False)),
    "columns.parquet": parquet(question_rows(columnwise=True)),
}


def assert_questions(task) -> None:
    found, train, dev = recorded(task)
    assert train == dev == [(row["question"], row["context"]) for row in QUESTIONS]
    # The second answer of a dev question counts, too.
    texts = [row["at"][-1][0] for row in QUESTIONS]
    found.answers = lambda outputs: texts
    assert found.scores(np.zeros(0)) == {"exact_match": 1.0, "f1": 1.0}
    tokenizer = pair_tokenizer()
    targets = opened(task, tokenizer).train.targets
    for row, target in zip(QUESTIONS, targets, strict=True):
        encoded = tokenizer(row["question"], row["context"], return_offsets_mapping=True)
        spans, sides = encoded["offset_mapping"], encoded.sequence_ids()
        text, start = row["at"][0]
        (first,) = [i for i, s in enumerate(spans) if sides[i] == 1 and s[0] == start]
        (last,) = [i for i, s in enumerate(spans) if sides[i] == 1 and s[1] == start + len(text)]
        assert target.tolist() == [first, last]


@pytest.mark.parametrize("name", QUESTION_FILES)
@pytest.mark.parametrize("compressed", [False, True])
def test_questions_are_the_same_out_of_every_format(tmp_path, name, compressed):
    content = QUESTION_FILES[name]
    path = tmp_path / (name + (".gz" if compressed else ""))
    write(path, gzip.compress(content) if compressed else content)
    assert_questions(section("question-answering", path, path))


@pytest.mark.parametrize("name", ["rows.jsonl", "columns.parquet"])
def test_questions_are_the_same_out_of_a_folder_that_datasets_loads(tmp_path, name):
    write(tmp_path / f"train{Path(name).suffix}", QUESTION_FILES[name])
    source = {"hub": str(tmp_path), "split": "train"}
    assert_questions(section("question-answering", source, source))


plain_text = st.text(st.characters(codec="utf-8"), max_size=12).filter(str.strip)


@pytest.mark.slow
@given(texts=st.lists(st.tuples(plain_text, plain_text), min_size=1, max_size=4))
def test_any_text_comes_back_out_of_csv_and_jsonl(tmp_path_factory, texts):
    rows = [{"text": a, "second": b, "label": i} for i, (a, b) in enumerate([*texts, ("x", "y")])]
    folder = tmp_path_factory.mktemp("any")
    for name, content in (
        ("rows.csv", delimited(",", rows, quoting=csv.QUOTE_ALL)),
        ("rows.jsonl", jsonl(rows)),
    ):
        path = write(folder / name, content)
        found, train, _ = recorded(section("classification", path, path, text_pair="second"))
        assert train == [*texts, ("x", "y")]
        assert found.train.targets.tolist() == list(range(len(rows)))


one_line = plain_text.filter(lambda text: not set(text) & set("\t\r\n"))


@given(texts=st.lists(st.tuples(one_line, one_line), min_size=1, max_size=4))
def test_any_text_without_tabs_comes_back_out_of_tsv(tmp_path_factory, texts):
    rows = [*texts, ("x", "y")]
    lines = ["text\tsecond\tlabel", *("\t".join((*pair, str(i))) for i, pair in enumerate(rows))]
    path = write(tmp_path_factory.mktemp("any") / "rows.tsv", "\n".join(lines))
    _, train, _ = recorded(section("classification", path, path, text_pair="second"))
    assert train == rows


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_numbers_are_the_same_as_numbers_and_as_text(tmp_path, name):
    make = {"csv": comma, "jsonl": jsonl, "parquet": parquet}[name.partition(".")[2]]
    for values in ([0.25, -3.0, 1e3], ["0.25", "-3", "1e3"]):
        path = write(tmp_path / name, make([{"text": "ba", "label": value} for value in values]))
        found = opened(section("regression", path, path), pair_tokenizer())
        assert found.train.targets.tolist() == [0.25, -3.0, 1000.0]
        assert found.train.targets.dtype == np.float32
        assert found.labels == ["LABEL_0"]
    for values in ([2, 10, 2], ["2", "10", "2"]):
        path = write(tmp_path / name, make([{"text": "ba", "label": value} for value in values]))
        found = opened(section("classification", path, path), pair_tokenizer())
        assert (found.labels, found.train.targets.tolist()) == (["2", "10"], [0, 1, 0])
