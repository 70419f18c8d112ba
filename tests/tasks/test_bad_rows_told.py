"""How bad rows are told: counted over files, before what follows from them, by the commands."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate.state import AcceleratorState
from row_files import GOOD, LABELS, jsonl, other_class, question, section, squad_file, write
from task_reading import opened, refusal
from tiny_experiments import listing
from tiny_tasks import make_tasks, pair_tokenizer
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.errors import DataError
from distilcli.tasks.classes import Classes
from distilcli.tasks.examples import Examples


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    return make_tasks(tmp_path_factory.mktemp("tasks"))


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
        (
            *("question-answering", "rows.json", squad_file(question(answers=[]))),
            "question 1: no answer",
        ),
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
    assert warnings == ["warning: train: bad rows left out: 2 of 160"]
