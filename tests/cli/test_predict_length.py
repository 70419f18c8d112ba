"""How much of a text the model behind a file has read: predict says it, training keeps to it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny_suites
import yaml
from accelerate.state import AcceleratorState
from loss_settings import weights
from safetensors.torch import load_file
from task_models import make_model
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer

from distilcli.config.tasks import RegressionTask
from distilcli.tasks.length_read import length_read

pytestmark = pytest.mark.usefixtures("alone_and_offline")
READ = 8  # of the 10 tokens that a text of 8 words has


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """A teacher that takes few tokens, and what a student that takes more starts from."""
    root = tmp_path_factory.mktemp("models")
    vocab = len(pair_tokenizer())
    teacher = make_model("bert", "sequence", 1, vocab=vocab, positions=READ)
    source = make_model("bert", "masked-lm", seed=1, vocab=vocab, positions=40)
    for name, model in (("teacher", teacher), ("source", source)):
        model.save_pretrained(root / name)
        pair_tokenizer().save_pretrained(root / name)
    return root / "teacher", root / "source"


def told(command: str, *words: str | Path) -> tuple[Any, str]:
    result = tiny_suites.invoke(*map(str, words), "--json", command=command)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), result.stderr


@pytest.fixture
def experiment(tasks, models, tmp_path):
    """The file of an experiment that learns from the model, or from a file."""

    def write(name: str, outputs: Path | None, max_length: int | None = None) -> Path:
        tree = tasks.experiment("regression", name=name, output_dir=str(tmp_path / "runs"))
        tree["teacher"] = {"model": str(models[0]), "cache": str(tmp_path / "cache")}
        tree["task"] |= {"max_length": max_length}
        if outputs is not None:
            tree["teacher"] = None
            tree["task"] |= {"teacher_outputs": {"files": [str(outputs)]}}
        tree["student"] = {"kind": "copied", "num_layers": 1, "source": str(models[1])}
        tree["loss"] = weights(soft_targets=1.0, labels=0.5)
        tree["train"] |= {"max_steps": 4}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_student_of_the_file_reads_no_more_than_its_teacher(experiment, models, tmp_path, ending):
    beside = experiment("beside", None)
    file = tmp_path / f"scores.{ending}"
    record, _ = told("predict", models[0], "--config", beside, "--output", file)
    assert record["columns"] == ["text", "score", "max_length"]
    if ending == "parquet":
        rows = pq.read_table(file).to_pylist()
    else:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {row["max_length"] for row in rows} == {READ}
    found, said = told("train", "--config", experiment("filed", file))
    assert f"texts are cut at {READ} tokens or fewer" in said
    expected, _ = told("train", "--config", beside)
    own, other = (
        load_file(Path(one["student"]) / "model.safetensors") for one in (found, expected)
    )
    assert all(own[name].equal(other[name]) for name in other)
    _, said = told("prepare", "--config", experiment("longer", file, max_length=20))
    assert f"set task.max_length={READ}" in said
    _, said = told("prepare", "--config", experiment("same", file, max_length=READ))
    assert "set task.max_length" not in said


def test_what_is_read_whole_needs_no_length(experiment, models, tmp_path):
    """Of a model that takes more; then a student may read as much as it can."""
    file = tmp_path / "scores.jsonl"
    wide = make_model("bert", "sequence", 1, vocab=len(pair_tokenizer()), positions=30)
    wide.save_pretrained(tmp_path / "wide")
    pair_tokenizer().save_pretrained(tmp_path / "wide")
    words = [tmp_path / "wide", "--config", experiment("x", None), "--output", file]
    assert told("predict", *words)[0]["columns"] == ["text", "score"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["64", 32], 32),
        ([16, None], 16),
        ([None, None], None),
        (["much", -3], None),
        ([0, 1.5], None),
    ],
)
def test_the_least_that_a_file_names_counts(tmp_path, cells, expected):
    """The first row of each file says it, whatever else stands there."""
    for name, cell in zip("ab", cells, strict=True):
        row = {"text": "ba", "score": 1.0} | ({} if cell is None else {"max_length": cell})
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    files = {"files": [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]}
    rows = {"kind": "regression", "dev": files}
    task = RegressionTask.model_validate(rows | {"train": files, "teacher_outputs": files})
    assert length_read(task) == expected
    of_rows = RegressionTask.model_validate(rows | {"train": files, "teacher_outputs": {}})
    assert length_read(of_rows) == expected
    gone = {"files": [str(tmp_path / "none.jsonl")]}
    lost = RegressionTask.model_validate(rows | {"train": files, "teacher_outputs": gone})
    assert length_read(lost) is None
    assert length_read(RegressionTask.model_validate(rows | {"train": files})) is None
