"""Examples of tasks: all formats give the same ones, and bad rows are named with their places."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from task_reading import SHARED, needs_shared, opened, recorded, refusal
from tiny_experiments import listing
from tiny_tasks import make_tasks, pair_tokenizer
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.errors import ConfigError, DataError, ModelError
from distilcli.tasks.examples import Examples
from distilcli.tasks.inputs import Inputs
from distilcli.tasks.labels import Classes, class_names
from distilcli.tasks.outputs import AnyOf
from distilcli.tasks.squad import answers_of


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    return make_tasks(tmp_path_factory.mktemp("tasks"))


# Ways to write the same rows


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


def squad(*questions, context="ba be bi") -> bytes:
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


def assert_same(found: Inputs, expected: Inputs) -> None:
    for name in Inputs.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


# Every kind of bad row: the kind of task, its settings, the name of a file and its content, the
# places and reasons that must be told, the texts of the rows that are right.

LABELS = {"labels": ["no", "yes"]}
TAGS = {"labels": ["A", "N", "V"]}

BAD = {
    "tsv": (
        *("classification", LABELS, "rows.tsv"),
        "text\tlabel\nba\tyes\nbe\t\n\nbi\t \n\tno\n  \tno\nbo\nbu\tyes\tno\nda\t no \nde\tmaybe\n",
        [
            ("line 3", "no label"),
            ("line 5", "no label"),
            ("line 6", "no text in text"),
            ("line 7", "no text in text"),
            ("line 8", "1 fields, but the header has 2"),
            ("line 9", "3 fields, but the header has 2"),
            ("line 11", "unknown class 'maybe'; there are no, yes"),
        ],
        [("ba",), ("da",)],
    ),
    "csv of pairs": (
        "classification",
        {"text": "first", "text_pair": "second", "label": "class"} | LABELS,
        "rows.csv",
        'class,first,second\nyes,ba,"two\nlines"\nno,be,\nno,,bi\n,bo,gu\nno,ba\nYess,ba,be\n',
        [
            ("line 4", "no text in second"),
            ("line 5", "no text in first"),
            ("line 6", "no label"),
            ("line 7", "2 fields, but the header has 3"),
            ("line 8", "unknown class 'Yess'; there are no, yes"),
        ],
        [("ba", "two\nlines")],
    ),
    "csv without a header": (
        "classification",
        {"columns": ["label", "id", "text"]} | LABELS,
        "rows.csv",
        "yes,1,ba\nno,be\nno,3,bi\n",
        [("line 2", "2 fields, but the columns named are 3")],
        [("ba",), ("bi",)],
    ),
    "jsonl": (
        *("classification", LABELS, "rows.jsonl"),
        "\n".join(
            [
                '{"text": "ba", "label": "yes", "more": [1]}',
                '{"text": "be", "label": "no"',
                '["bi", "no"]',
                '"bi"',
                "",
                '{"label": "no", "body": "bo"}',
                '{"text": null, "label": "no"}',
                '{"text": 7, "label": "no"}',
                '{"text": "gu"}',
                '{"text": "gu", "label": null}',
                '{"text": "da", "label": "none"}',
            ]
        ),
        [
            ("line 2", "not valid JSON (Expecting ',' delimiter)"),
            ("line 3", "not a JSON object"),
            ("line 4", "not a JSON object"),
            ("line 6", "no column 'text'; there are: label, body"),
            ("line 7", "no text in text"),
            ("line 8", "no text in text"),
            ("line 9", "no column 'label'; there are: text"),
            ("line 10", "no label"),
            ("line 11", "unknown class 'none'; there are no, yes"),
        ],
        [("ba",)],
    ),
    "parquet": (
        *("classification", LABELS, "rows.parquet"),
        parquet(
            [
                {"text": "ba", "label": "no"},
                {"text": None, "label": "no"},
                {"text": "be", "label": None},
                {"text": "bi", "label": "perhaps"},
            ]
        ),
        [
            ("row 2", "no text in text"),
            ("row 3", "no label"),
            ("row 4", "unknown class 'perhaps'; there are no, yes"),
        ],
        [("ba",)],
    ),
    "multi-label": (
        *("multi-label", LABELS, "rows.jsonl"),
        jsonl(
            [
                {"text": "ba", "labels": ["yes", "no"]},
                {"text": "be", "labels": None},
                {"text": "bi"},
                {"text": "", "labels": []},
                {"text": "bo", "labels": []},
                {"text": "gu", "labels": ["yes", "so"]},
            ]
        ),
        [
            ("line 2", "no label"),
            ("line 3", "no column 'labels'; there are: text"),
            ("line 4", "no text in text"),
            ("line 6", "unknown class 'so'; there are no, yes"),
        ],
        [("ba",), ("bo",)],
    ),
    "regression": (
        *("regression", {}, "rows.csv"),
        'text,label\nba,-1.5e1\nbe,much\nbi,inf\nbo,NaN\nbu,\nda,"1,5"\nde, 2 \n',
        [
            ("line 3", "label 'much' is no number"),
            ("line 4", "label 'inf' is not finite"),
            ("line 5", "label 'NaN' is not finite"),
            ("line 6", "no label"),
            ("line 7", "label '1,5' is no number"),
        ],
        [("ba",), ("de",)],
    ),
    "squad": (
        *("question-answering", {}, "rows.json"),
        squad(
            question(),
            question(answers=[]),
            question("be", start=4),
            question("bE"),
            question("", start=0),
            question("bi", start=99),
            {"id": "q", "question": "what"},
            question(question=" "),
            question(answers=[{"text": "be"}]),
            question(answers=None),
        ),
        [
            ("question 2", "no answer"),
            ("question 3", "the answer 'be' is not in the context at character 4"),
            ("question 4", "the answer 'bE' is not in the context at character 3"),
            ("question 5", "the answer '' is not in the context at character 0"),
            ("question 6", "the answer 'bi' is not in the context at character 99"),
            ("question 7", "no column 'answers'; there are: id, question, context"),
            ("question 8", "no question"),
            ("question 9", "answers are not of SQuAD's form ('answer_start')"),
            (
                "question 10",
                "answers are not of SQuAD's form ('NoneType' object is not iterable)",
            ),
        ],
        [("what", "ba be bi")],
    ),
    "squad 2": (
        *("question-answering", {}, "rows.json"),
        squad(
            question(is_impossible=True, answers=[]),
            question(is_impossible=True),
            question(is_impossible=False),
            "what",
        ),
        [
            (
                f"question {number}",
                "a question without an answer (is_impossible): only SQuAD 1.1",
            )
            for number in (1, 2)
        ]
        + [("question 4", "a question that is no object")],
        [("what", "ba be bi")],
    ),
    "no context": (
        *("question-answering", {}, "rows.jsonl"),
        jsonl(
            [
                question(context="ba be"),
                question(context=""),
                question(),
                question(context="ba be", answers={"text": ["be"], "answer_start": [3, 4]}),
            ]
        ),
        [
            ("line 2", "no context"),
            ("line 3", "no column 'context'; there are: id, question, answers"),
            (
                "line 4",
                "answers are not of SQuAD's form (zip() argument 2 is longer than argument 1)",
            ),
        ],
        [("what", "ba be")],
    ),
    "conll": (
        *("tagging", TAGS, "rows.txt"),
        # An empty tag, an empty word, a column too few and too many, an unknown tag.
        "ba\tN\nbe\tV\n\nbi\tN\nbo\t\n\nda\tN\n\tN\n\nde\tN\ndi\ndo\tN\n\n\n"
        "ga\tN\nge\tN\tV\tA\ngi\n\nfa\tN\n\nfe\tV\nfi\tX\n",
        [
            ("line 4", "no tag for word 2, 'bo'"),
            ("line 7", "word 2 is empty"),
            ("line 11", "1 columns where there should be 2"),
            ("line 16", "4 columns where there should be 2"),
            ("line 21", "unknown class 'X'; there are A, N, V"),
        ],
        [(["ba", "be"],), (["fa"],)],
    ),
    "conll with blanks": (
        *("tagging", TAGS, "rows.txt"),
        "ba x N\n\nbe\nbi x V\n\nbo x V\nbu V\n\nda y A\n",
        [
            ("line 3", "1 columns where there should be 2"),
            ("line 7", "2 columns where there should be 3"),
        ],
        [(["ba"],), (["da"],)],
    ),
    "conll with named columns": (
        *("tagging", {"columns": ["id", "tokens", "tags"]} | TAGS, "rows.txt"),
        "1\tba\tN\n\n1\tbe\tN\t_\n2\tbi\tN\n\n1\tbo\n\n1\tgu\tA\n2\tgu\tA\n",
        [
            ("line 3", "4 columns where there should be 3"),
            ("line 6", "2 columns where there should be 3"),
        ],
        [(["ba"],), (["gu", "gu"],)],
    ),
    "words and tags": (
        *("tagging", TAGS, "rows.jsonl"),
        jsonl(
            [
                {"tokens": ["ba", "be"], "tags": ["N", "V"]},
                {"tokens": ["ba", "be"], "tags": ["N"]},
                {"tokens": ["ba"], "tags": ["N", "V"]},
                {"tokens": [], "tags": []},
                {"tokens": ["ba", " "], "tags": ["N", "V"]},
                {"tokens": ["ba", "be"], "tags": ["N", ""]},
                {"tokens": 3, "tags": ["N"]},
                {"tokens": ["ba"], "tags": None},
                {"tokens": ["ba"], "tags": [" "]},
                {"tokens": ["ba"], "tags": ["m"]},
            ]
        ),
        [
            ("line 2", "2 words, but 1 tags"),
            ("line 3", "1 words, but 2 tags"),
            ("line 4", "no words"),
            ("line 5", "word 2 is empty"),
            ("line 6", "no tag for word 2, 'be'"),
            ("line 7", "3 is no list"),
            ("line 8", "None is no list"),
            ("line 9", "no tag for word 1, 'ba'"),
            ("line 10", "unknown class 'm'; there are A, N, V"),
        ],
        [(["ba", "be"],)],
    ),
    "nothing in a list": (
        *("tagging", {"labels": ["N", "None"]}, "rows.jsonl"),
        jsonl(
            [
                {"tokens": ["ba", "be"], "tags": ["N", None]},
                {"tokens": ["None"], "tags": ["None"]},
                {"tokens": ["ba", None], "tags": ["N", "N"]},
            ]
        ),
        [("line 1", "no tag for word 2, 'be'"), ("line 3", "word 2 is empty")],
        [(["None"],)],
    ),
}
GOOD = {
    "classification": {"text": "ka", "label": "yes"},
    "multi-label": {"text": "ka", "labels": ["yes"]},
    "regression": {"text": "ka", "label": 1.0},
    "question-answering": question("ka", start=0, context="ka"),
    "tagging": {"tokens": ["ka"], "tags": ["N"]},
}


def bad_and_good(folder: Path, name: str, split: str):
    """A task with bad rows in one split and none in the other; the file, what is bad, the texts."""
    kind, settings, file_name, content, reasons, texts = BAD[name]
    settings = dict(settings)  # of which some are of the file
    columns = {"columns": settings.pop("columns")} if "columns" in settings else {}
    path = write(folder / file_name, content)
    row = dict(GOOD[kind])
    for key, standard in (("text", "text"), ("label", "label"), ("text_pair", None)):
        if key in settings:
            row[settings[key]] = row.get(standard, "ke")
    good = write(folder / "good.jsonl", jsonl([row]))
    sources = {"train": {"files": [str(good)]}, "dev": {"files": [str(good)]}}
    sources[split] = {"files": [str(path)]} | columns
    return section(kind, sources["train"], sources["dev"], **settings), path, reasons, texts


@pytest.mark.parametrize("split", ["train", "dev"])
@pytest.mark.parametrize("name", BAD)
def test_every_bad_row_is_named_with_its_place_and_the_reason(tmp_path, name, split):
    task, path, reasons, _ = bad_and_good(tmp_path, name, split)
    error = refusal(task, DataError)
    many = "s" if len(reasons) > 1 else ""
    assert error.message.splitlines() == [
        f"{path}: {len(reasons)} bad row{many}",
        *(f"  {path} {place}: {reason}" for place, reason in reasons),
    ]
    assert "task.skip_bad_rows=true" in error.hint


@pytest.mark.parametrize("split", ["train", "dev"])
@pytest.mark.parametrize("name", BAD)
def test_bad_rows_that_are_skipped_are_counted_and_the_others_stay(tmp_path, name, split):
    task, _, reasons, texts = bad_and_good(tmp_path, name, split)
    found, train, dev = recorded(task | {"skip_bad_rows": True})
    assert (train if split == "train" else dev) == texts
    assert getattr(found.skipped, split) == len(reasons)
    assert found.skipped.train + found.skipped.dev == len(reasons)


@pytest.mark.parametrize(("number", "head"), [(10, "10"), (11, "11"), (1013, "1,013")])
def test_ten_bad_rows_are_shown_and_the_others_counted(tmp_path, number, head):
    """Ten of them, whatever their kinds: unknown classes count with the others."""
    rows = [{"text": "ba", "label": "yes"}, {"text": "be", "label": "no"}]
    rows += [{"text": "", "label": "no"}] * (number - 2) + [{"text": "bi", "label": "so"}] * 2
    path = write(tmp_path / "rows.jsonl", jsonl(rows))
    lines = refusal(section("classification", path, path, **LABELS)).message.splitlines()
    assert lines[0] == f"{path}: {head} bad rows"
    assert [line.split(": ")[0] for line in lines[1:11]] == [
        f"  {path} line {line}" for line in range(3, 13)
    ]
    rest = {10: [], 11: ["  and 1 more"], 1013: ["  and 1,003 more"]}
    assert lines[11:] == rest[number]


def test_bad_rows_of_several_files_are_told_apart(tmp_path):
    for name, rows in [("b", "text,label\nba,\n"), ("a", "text,label\nba,no\n,no\nbe,yes\n")]:
        write(tmp_path / f"part-{name}.csv", rows)
    single = write(tmp_path / "more.tsv", "text\tlabel\nbi\n")
    files = [str(single), str(tmp_path / "part-*.csv")]
    good = write(tmp_path / "good.jsonl", jsonl([GOOD["classification"]]))
    assert refusal(section("classification", {"files": files}, good)).message.splitlines() == [
        f"{files[0]}, {files[1]}: 3 bad rows",
        f"  {single} line 2: 1 fields, but the header has 2",
        f"  {tmp_path / 'part-a.csv'} line 3: no text in text",
        f"  {tmp_path / 'part-b.csv'} line 2: no label",
    ]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("split", ["train", "dev"])
@pytest.mark.parametrize(
    ("kind", "name", "content", "bad"),
    [
        ("classification", "rows.tsv", "", None),
        ("classification", "rows.csv", "text,label\n", None),
        ("classification", "rows.csv", "text,label\nba,\nbe,\n", "line 2: no label"),
        ("multi-label", "rows.jsonl", "\n\n", None),
        ("multi-label", "rows.jsonl", "{}\n", "line 1: no column 'text'; there are: "),
        ("regression", "rows.parquet", pa.table({"text": [], "label": []}), None),
        ("regression", "rows.tsv", "text\tlabel\nba\tx\n", "line 2: label 'x' is no number"),
        ("question-answering", "rows.json", "", None),
        ("question-answering", "rows.json", '{"data": []}', None),
        ("question-answering", "rows.json", squad(question(answers=[])), "question 1: no answer"),
        ("tagging", "rows.txt", "\n \n", None),
        ("tagging", "rows.txt", "-DOCSTART- -X- O\n\n", None),
        ("tagging", "rows.txt", "ba\n", "line 1: 1 columns where there should be 2"),
    ],
)
def test_a_file_without_a_usable_row_is_refused(tmp_path, kind, name, content, bad, split, skip):
    """By its name, and with its bad rows, whatever else cannot be told without rows."""
    path = tmp_path / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        write(path, content)
    row = dict(GOOD[kind])
    rows = [row] if kind in ("regression", "question-answering") else [row, row | other_class(kind)]
    good = write(tmp_path / "good.jsonl", jsonl(rows))
    sources = {"train": good, "dev": good} | {split: path}
    error = refusal(section(kind, **sources, skip_bad_rows=skip))
    assert isinstance(error, DataError), error.message
    assert error.message.startswith(f"{path}: ")
    if bad is None:
        assert error.message == f"{path}: there are no rows"
    else:
        assert f"{path} {bad}" in error.message


def other_class(kind):
    key, value = {
        "classification": ("label", "no"),
        "multi-label": ("labels", ["no"]),
        "tagging": ("tags", ["V"]),
    }[kind]
    return {key: value}


@pytest.mark.parametrize("kind", ["classification", "multi-label", "tagging"])
def test_bad_rows_are_told_before_what_is_wrong_with_the_classes(tmp_path, kind):
    """Because of them a class may be missing."""
    row = dict(GOOD[kind])
    (column,) = other_class(kind)
    train = write(tmp_path / "train.jsonl", jsonl([row, row | {column: None}]))
    dev = write(tmp_path / "dev.jsonl", jsonl([row]))
    for teacher in (None, ["no", "yes"]):
        with pytest.raises(DataError) as caught:
            opened(section(kind, train, dev), pair_tokenizer(), teacher)
        assert caught.value.message.startswith(f"{train}: 1 bad row\n  {train} line 2: ")


def test_examples_keep_their_places_when_unknown_classes_go():
    examples = Examples(
        "rows", ["a", "x", "b", "y"], [f"line {i}" for i in range(1, 5)], ["line 0"]
    )
    examples.change(Classes(["b", "a"]).name_of)
    assert examples.usable == ["a", "b"]
    assert examples.bad == [
        "line 0",
        "line 2: unknown class 'x'; there are a, b",
        "line 4: unknown class 'y'; there are a, b",
    ]
    assert examples.places == ["line 1", "line 3"]


# The same through the command


@pytest.fixture
def two_bad(tasks, tmp_path):
    """An experiment on pairs, and its training file, of which lines 4 and 8 are bad."""
    lines = (tasks.root / "classification" / "train.tsv").read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3].rpartition("\t")[0]
    lines[7] = lines[7].rpartition("\t")[0] + "\t"
    path = write(tmp_path / "train.tsv", "\n".join(lines) + "\n")
    task = tasks.task("classification") | {"train": {"files": [str(path)]}}
    return tasks.write_config(tmp_path / "task.yaml", "classification", task=task), path


def invoke(command, config, *arguments):
    result = CliRunner().invoke(app, [command, "--config", str(config), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_prepare_refuses_bad_rows_with_exit_code_2(two_bad):
    config, path = two_bad
    before = listing(path.parent)
    result = invoke("prepare", config)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"error: {path}: 2 bad rows",
        f"  {path} line 4: 2 fields, but the header has 3",
        f"  {path} line 8: no label",
        "Fix them, or leave them out with task.skip_bad_rows=true.",
    ]
    assert listing(path.parent) == before


def test_prepare_counts_the_bad_rows_it_leaves_out(two_bad):
    config, path = two_bad
    result = invoke("prepare", config, "--skip-bad-rows", "--json")
    assert result.exit_code == 0, result.output
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines if line.endswith(("\tyes", "\tno"))]
    encode = pair_tokenizer()
    tokens = sum(len(encode(first, second)["input_ids"]) for first, second, _ in rows)
    found = json.loads(result.stdout)
    counts = {"examples": 158, "inputs": 158, "tokens": tokens, "skipped": 2}
    assert found["train"] == {**counts, "cut": 0, "tokens_cut": 0}
    assert (found["dev"]["examples"], found["dev"]["skipped"]) == (60, 0)
    assert found["labels"] == ["no", "yes"]

    table = invoke("prepare", config, "task.skip_bad_rows=true")
    assert table.exit_code == 0, table.output
    words = [re.findall(r"[\w,]+", line) for line in table.stdout.splitlines()]
    cells = {line[0]: line[1:] for line in words if line}
    assert cells["train"] == ["158", "158", f"{tokens:,}", "0", "0", "2"]
    assert (cells["dev"][:2], cells["dev"][-1]) == (["60", "60"], "0")
    assert "outputs: no, yes" in table.stdout


def test_training_warns_of_the_rows_it_leaves_out(two_bad, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config, path = two_bad
    overrides = ["train.max_steps=1", f"output_dir={path.parent}"]
    try:
        result = invoke("train", config, "--skip-bad-rows", *overrides)
    finally:  # a command has a process of its own
        AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == ["warning: train: 2 bad rows are left out of 160"]


# The same examples out of every format

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


# Sources that are no good as a whole


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
    for kind, name in [
        ("classification", "rows.txt"),
        ("regression", "rows"),
        ("question-answering", "rows.txt"),
        ("tagging", "rows.data.gz"),
    ]:
        path = write(tmp_path / name, "")
        error = refusal(section(kind, path, path), ConfigError)
        assert error.message == f"task.train.format: {path} has no ending that tells its format"
        assert "csv, tsv, jsonl, parquet, squad or conll" in error.hint


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
    content = squad(question()) if file_format == "squad" else "ba N\n"
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


# Answers


def test_answers_come_as_a_list_or_as_lists():
    rows = [{"text": "a", "answer_start": 4}, {"text": "b", "answer_start": "0", "id": 1}]
    columns = {"text": ["a", "b"], "answer_start": [4, 0]}
    assert answers_of(rows) == answers_of(columns) == [("a", 4), ("b", 0)]
    assert answers_of([]) == answers_of({"text": [], "answer_start": []}) == []


@pytest.mark.parametrize(
    "value",
    [
        *(None, 3, "be", [{}], ["be"], {}, {"text": ["a"]}, {"text": ["a"], "answer_start": []}),
        [{"text": "a", "answer_start": "first"}],
        [{"text": "a", "answer_start": None}],
    ],
)
def test_answers_of_another_form_are_refused(value):
    with pytest.raises(ValueError, match="answers are not of SQuAD's form"):
        answers_of(value)


def test_an_answer_is_not_counted_from_the_end_of_the_context(tmp_path):
    path = write(tmp_path / "rows.json", squad(question("be", start=-5)))  # "ba be bi"[-5:-3]
    assert refusal(section("question-answering", path, path), DataError).message.endswith(
        "the answer 'be' is not in the context at character -5"
    )


# Words


@pytest.mark.parametrize("cell", ["1993", "true", "null", '"ba"', "-1.5"])
def test_one_word_in_a_cell_is_a_word_whatever_it_looks_like(tmp_path, cell):
    rows = [{"tokens": cell, "tags": "N"}, {"tokens": "ba be", "tags": "N V"}]
    path = write(tmp_path / "rows.csv", comma(rows))
    _, train, _ = recorded(section("tagging", path, path))
    assert train == [([cell],), (["ba", "be"],)]


def test_a_number_sign_is_a_word_and_a_comment_is_none(tmp_path):
    path = write(
        tmp_path / "rows.txt", "# newdoc id = a\n# text = ba # 1\nba N\n# S\n#1 N\n\n# S\n"
    )
    found, train, _ = recorded(section("tagging", path, path))
    assert train == [(["ba", "#", "#1"],), (["#"],)]
    assert found.labels == ["N", "S"]


def test_comments_of_conllu_are_no_words(tmp_path):
    """All that begin with the sign and have no tabs, where words have tabs."""
    lines = ["# newdoc", "# newpar", "# text = # ba", "1\t#\tS", "2\tba\tN", "", "#", "1\tbe\tN"]
    path = write(tmp_path / "rows.conllu", "\n".join(lines) + "\n\n")
    source = {"files": [str(path)], "columns": ["id", "tokens", "tags"]}
    _, train, _ = recorded(section("tagging", source, source))
    assert train == [(["#", "ba"],), (["be"],)]


def test_conllu_says_its_columns_and_words_that_are_written_as_one_are_left_out(tmp_path):
    lines = ["# text = babe bi", "1-2\tbabe\t_", "1\tba\tN", "2\tbe\tV", "2.1\tbo\tX", "3\tbi\tN"]
    path = write(tmp_path / "rows.conllu", "\n".join(lines) + "\n\n")
    error = refusal(section("tagging", path, path), ConfigError)
    assert error.message == f"task.train.columns: must be said for {path}"
    source = {"files": [str(path)], "columns": ["id", "form", "upos"]}
    _, train, _ = recorded(section("tagging", source, source, words="form", tags="upos"))
    assert train == [(["ba", "be", "bi"],)]


def test_a_number_sign_that_lost_its_tag_is_a_bad_row(tmp_path):
    path = write(tmp_path / "rows.tsv", "ba\tN\n#\nbe\tV\n\nbi\tN\nbo\tV\n")
    assert refusal(section("tagging", path, path), DataError).message.splitlines() == [
        f"{path}: 1 bad row",
        f"  {path} line 2: 1 columns where there should be 2",
    ]


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


# Classes


number_or_word = st.one_of(
    st.integers(-60, 60).map(str), st.text("abLz_-", min_size=1).filter(lambda text: text != "-")
)


@given(st.sets(number_or_word, min_size=2), st.randoms())
def test_classes_that_are_found_are_numbers_before_words(found, draw):
    shuffled = sorted(found)
    draw.shuffle(shuffled)
    numbers = [name for name in found if name.lstrip("-").isdigit()]
    expected = sorted(numbers, key=int) + sorted(set(found) - set(numbers))
    assert class_names(set(shuffled), None, None) == expected


def test_two_comes_before_ten_and_a_word_after_both():
    assert class_names({"10", "b", "2", "-1", "0.5", "B"}, None, None) == [
        *("-1", "0.5", "2", "10", "B", "b")
    ]


@pytest.mark.parametrize("word", ["nan", "inf", "Infinity"])
def test_a_word_that_python_takes_for_a_number_is_in_one_place(word):
    numbers = [str(number) for number in range(12)]
    assert class_names({word, *numbers}, None, None) == [*numbers, word]


def test_classes_that_are_given_keep_their_order():
    given = ["yes", "10", "2", "no"]
    assert class_names({"2", "no"}, given, None) == given


@pytest.mark.parametrize(
    ("found", "given", "teacher", "expected"),
    [
        # The teacher's names, in its order.
        ("no yes", None, "yes no", "yes no"),
        ("b c a", None, "c a b", "c a b"),
        # A teacher without names: the order of the data or of the experiment.
        ("no yes", None, "LABEL_0 LABEL_1", "no yes"),
        ("no yes", "yes no", "LABEL_0 LABEL_1", "yes no"),
        # Data with ids and no names: they are the teacher's ids.
        ("0 1", None, "negative positive", "0 1"),
        ("0 1", "0 1", "negative positive", "0 1"),
        ("0 1 2", None, "b a c", "0 1 2"),
        # Both say the same.
        ("no yes", "no yes", "no yes", "no yes"),
        # The teacher's names are numbers, too, and say which is which.
        ("0 1", None, "1 0", "1 0"),
        ("0 1 2", None, "2 0 1", "2 0 1"),
    ],
)
def test_the_teacher_says_which_output_is_which_class(found, given, teacher, expected):
    given = given.split() if given else None
    assert class_names(set(found.split()), given, teacher.split()) == expected.split()


@pytest.mark.parametrize(
    ("found", "given", "teacher", "message"),
    [
        ("no yes", None, "no yes maybe", "classes are no, yes, maybe, the task's are no, yes"),
        ("no yes maybe", None, "no yes", "classes are no, yes, the task's are maybe, no, yes"),
        ("no yes", None, "negative positive", "are negative, positive, the task's are no, yes"),
        ("no yes", None, "LABEL_0 LABEL_1 LABEL_2", "LABEL_2, the task's are no, yes"),
        ("0 1", None, "negative neutral positive", "positive, the task's are 0, 1"),
        ("no yes", "no yes", "yes no", "in the order yes, no, task.labels says no, yes"),
        ("0 1", "0 1", "1 0", "in the order 1, 0, task.labels says 0, 1"),
        ("a b", None, " ".join("abcdefghij"), "a, b, c, d, e, f, g, h and 2 more, the task's"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(found, given, teacher, message):
    given = given.split() if given else None
    with pytest.raises(ModelError) as caught:
        class_names(set(found.split()), given, teacher.split())
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("found", "given", "message"),
    [
        ({"yes"}, None, "task.labels: yes"),
        ({"no", "yes"}, ["yes"], "task.labels: yes"),
        ({"no", "yes"}, ["no", "yes", "no"], "task.labels: no, yes, no"),
        (set(), None, "task.labels: none"),
    ],
)
def test_a_task_has_two_classes_or_more(found, given, message):
    with pytest.raises(ConfigError) as caught:
        class_names(found, given, None)
    assert caught.value.message == message
    assert caught.value.hint == "A task needs two classes or more."


@pytest.mark.parametrize("kind", ["classification", "multi-label", "tagging"])
def test_classes_of_a_task_are_those_of_its_training_rows(tmp_path, kind):
    rows = [dict(GOOD[kind]), dict(GOOD[kind]) | other_class(kind)]
    train = write(tmp_path / "train.jsonl", jsonl(rows))
    dev = write(tmp_path / "dev.jsonl", jsonl(rows[1:]))
    names = ["N", "V"] if kind == "tagging" else ["no", "yes"]
    tokenizer = pair_tokenizer()
    assert opened(section(kind, train, dev), tokenizer).labels == names
    backwards = opened(section(kind, train, dev), tokenizer, names[::-1])
    assert backwards.labels == names[::-1]
    given = opened(section(kind, train, dev, labels=["Z", *names]), tokenizer)
    assert given.labels == ["Z", *names]


# Several labels, and none


LABEL_ROWS = [["b", "a"], [], ["10"], ["2", "b"]]
LABEL_TARGETS = [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("rows.jsonl", LABEL_ROWS),
        ("rows.parquet", LABEL_ROWS),
        ("rows.jsonl", ["b,a", "", "10", " 2 ,, b,b "]),
        ("rows.csv", ["b, a", "", " 10", "2,b,"]),
        ("rows.tsv", ["a,b", " ", "10", "b,2"]),
        ("rows.parquet", ["a,b", ",", "10", "b,2"]),
        ("rows.jsonl", [["a", " b "], [""], [10], ["b", 2, "b"]]),
    ],
)
def test_labels_come_as_a_list_or_with_commas(tmp_path, name, cells):
    make = {".jsonl": jsonl, ".csv": comma, ".tsv": tab, ".parquet": parquet}[Path(name).suffix]
    path = write(tmp_path / name, make([{"text": "ba", "labels": cell} for cell in cells]))
    found = opened(section("multi-label", path, path), pair_tokenizer())
    assert found.labels == ["2", "10", "a", "b"]
    assert found.train.targets.tolist() == LABEL_TARGETS
    assert found.train.targets.dtype == np.float32
    assert found.skipped.train == 0
    assert isinstance(found.outputs, AnyOf)


def test_labels_are_the_same_out_of_a_folder_with_named_classes(tmp_path):
    import datasets

    names = ["b", "a", "10", "2"]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "labels": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    columns = {
        "text": ["ba"] * len(LABEL_ROWS),
        "labels": [[names.index(label) for label in row] for row in LABEL_ROWS],
    }
    with (tmp_path / "train.parquet").open("wb") as file:
        datasets.Dataset.from_dict(columns, features=features).to_parquet(file)
    source = {"hub": str(tmp_path), "split": "train"}
    found = opened(section("multi-label", source, source), pair_tokenizer())
    assert found.labels == ["2", "10", "a", "b"]
    assert found.train.targets.tolist() == LABEL_TARGETS


@pytest.mark.parametrize(
    ("kind", "column", "value"),
    [
        ("classification", "label", float("nan")),
        ("multi-label", "labels", ["a", None]),
        ("multi-label", "labels", float("nan")),
    ],
)
def test_what_stands_for_nothing_is_no_class_of_that_name(tmp_path, kind, column, value):
    cells = ["a", "b", value] if kind == "classification" else [["a"], ["b"], value]
    path = write(tmp_path / "rows.jsonl", jsonl([{"text": "ba", column: cell} for cell in cells]))
    found = opened(section(kind, path, path, skip_bad_rows=True), pair_tokenizer())
    assert found.labels == ["a", "b"]


# The real data


@needs_shared
def test_every_review_of_imdb_is_read():
    paths = [SHARED / "imdb" / f"{split}.jsonl.gz" for split in ("train", "dev")]
    found, *texts = recorded(section("classification", *paths))
    assert found.num_examples == (6000, 2500)
    assert (found.skipped.train, found.skipped.dev) == (0, 0)
    for path, read, inputs in zip(paths, texts, (found.train, found.dev), strict=True):
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        assert read == [(row["text"],) for row in rows]
        assert [found.labels[i] for i in inputs.targets] == [str(row["label"]) for row in rows]


@needs_shared
def test_every_question_of_squad_is_read():
    paths = [SHARED / "squad" / f"{split}.json" for split in ("train", "dev")]
    found, *texts = recorded(section("question-answering", *paths))
    assert found.num_examples == (4213, 956)
    assert (found.skipped.train, found.skipped.dev) == (0, 0)
    for path, read in zip(paths, texts, strict=True):
        tree = json.loads(path.read_text(encoding="utf-8"))
        assert read == [
            (qa["question"], paragraph["context"])
            for article in tree["data"]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]


@pytest.mark.slow
@needs_shared
def test_every_sentence_of_udpos_is_read():
    paths = [SHARED / "udpos" / f"{split}.tsv" for split in ("train", "dev")]
    found, *texts = recorded(section("tagging", *paths))
    assert found.num_examples == (21253, 3974)
    assert (found.skipped.train, found.skipped.dev) == (0, 0)
    assert len(found.labels) == 17  # the universal tags
    for path, read, inputs in zip(paths, texts, (found.train, found.dev), strict=True):
        text = path.read_bytes().decode("utf-8").strip("\n")
        fields = re.split(r"[\t\n]+", text)
        assert [word for (words,) in read for word in words] == fields[::2]
        assert [found.labels[index] for index in inputs.targets] == fields[1::2]
        sizes = [block.count("\n") + 1 for block in text.split("\n\n")]
        assert [len(words) for (words,) in read] == sizes
