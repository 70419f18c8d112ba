"""Rows that are trained on are not measured on: counted and warned about, refused where all are."""

import json
from pathlib import Path

import pytest
import yaml
from task_rows import open_rows, question
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.errors import DataError

TEXTS = ["ba be", "bi bo", "bu da", "de di"]
ROWS = {
    "classification": [{"text": text, "label": "xy"[i % 2]} for i, text in enumerate(TEXTS)],
    "multi-label": [{"text": text, "labels": ["xy"[i % 2]]} for i, text in enumerate(TEXTS)],
    "regression": [{"text": text, "label": i / 2} for i, text in enumerate(TEXTS)],
    "tagging": [{"tokens": text.split(), "tags": ["A", "B"]} for text in TEXTS],
    "question-answering": [question(text, text[:2]) for text in TEXTS],
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.mark.parametrize("kind", ROWS)
def test_the_same_rows_are_refused_in_any_order(tmp_path: Path, kind: str) -> None:
    rows = ROWS[kind]
    task = open_rows(tmp_path, pair_tokenizer(), kind, rows, rows[::-1])
    with pytest.raises(DataError) as caught:
        task.overlap.refuse_same()
    assert caught.value.message == "task.dev: the same rows as task.train"


@pytest.mark.parametrize("kind", ROWS)
def test_shared_rows_are_counted(tmp_path: Path, kind: str) -> None:
    rows = ROWS[kind]
    task = open_rows(tmp_path, pair_tokenizer(), kind, rows[:3], rows[2:])
    assert task.warnings == [
        "1 of the 2 rows of task.dev (50.0%) are in task.train, too: "
        "scores on them say nothing of new text"
    ]
    assert open_rows(tmp_path, pair_tokenizer(), kind, rows[:3], rows[3:]).warnings == []


def config(tasks: TinyTasks, folder: Path, dev: Path) -> Path:
    tree = tasks.experiment("classification", output_dir=str(folder / "runs"))
    tree["task"]["dev"] = {"files": [str(dev)]}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_prepare_shows_what_is_shared(tasks: TinyTasks, tmp_path: Path) -> None:
    given = tasks.task("classification")
    train, dev = (Path(given[split]["files"][0]).read_text() for split in ("train", "dev"))
    mixed = tmp_path / "mixed.tsv"
    mixed.write_text(dev + "".join(train.splitlines(keepends=True)[1:4]), encoding="utf-8")
    command = ["prepare", "--config", str(config(tasks, tmp_path, mixed)), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "warning: 3 of the 63 rows of task.dev (4.8%) are in task.train" in result.stderr
    [warning] = json.loads(result.stdout)["warnings"]
    assert warning.startswith("3 of the 63 rows of task.dev")


@pytest.mark.parametrize("command", [["train"], ["train", "--dry-run"], ["eval"]])
@pytest.mark.usefixtures("fresh_accelerator")
def test_the_same_file_is_refused_before_anything_is_written(
    tasks: TinyTasks, tmp_path: Path, command: list[str]
) -> None:
    train = Path(tasks.task("classification")["train"]["files"][0])
    path = config(tasks, tmp_path, train)
    models = [str(tasks.model)] if command == ["eval"] else []
    result = CliRunner().invoke(app, [*command, *models, "--config", str(path)])
    assert result.exit_code == 2, result.output
    assert "task.dev: the same rows as task.train" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_prepare_only_looks_at_the_same_file(tasks: TinyTasks, tmp_path: Path) -> None:
    train = Path(tasks.task("classification")["train"]["files"][0])
    path = config(tasks, tmp_path, train)
    result = CliRunner().invoke(app, ["prepare", "--config", str(path)])
    assert result.exit_code == 0, result.output
    assert "warning: task.dev: the same rows as task.train; train and eval refuse that" in (
        result.stderr
    )
