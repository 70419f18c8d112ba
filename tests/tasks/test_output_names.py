"""A teacher's config.json names its outputs; and a model has embeddings for some inputs only."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from task_models import make_inputs, make_model
from task_rows import labelled_rows
from tiny_tasks import pair_tokenizer
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.errors import ModelError
from distilcli.models.task_models import _check_inputs, load_finetuned
from distilcli.tasks.outputs import OneOf

CONFIG = {
    "task": {
        "kind": "classification",
        "train": {"files": "train.jsonl"},
        "dev": {"files": "dev.jsonl"},
    },
    "teacher": {"model": "teacher"},
    "student": {"kind": "copied", "num_layers": 1},
    "train": {"precision": "fp32"},
}


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        (
            {"1": "a", "2": "b"},
            "teacher ./teacher: id2label in its config.json numbers the outputs 1, 2\n"
            "Number them from 0 to 1, in the order of the outputs.",
        ),
        ({"0": 0, "1": 1}, "the teacher's classes are 0, 1, the task's are a, b"),
        ({"0": None, "1": ["b"]}, "the teacher's classes are None, ['b'], the task's are a, b"),
    ],
)
def test_names_of_outputs_that_are_none_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, id2label: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = make_model("bert", "sequence", 2, vocab=len(pair_tokenizer()))
    teacher.save_pretrained("teacher")
    pair_tokenizer().save_pretrained("teacher")
    path = Path("teacher/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": id2label}))
    for name, labels in (("train", "abab"), ("dev", "ba")):
        rows = labelled_rows(list(labels))
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = CONFIG | {"name": "x", "teacher": {"model": "./teacher"}}
    Path("x.yaml").write_text(yaml.safe_dump(tree))
    result = CliRunner().invoke(app, ["prepare", "--config", "x.yaml"])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("order", ["abc", "ABC", "xyz", "cab"])
def test_outputs_in_another_order_are_put_in_order(tmp_path: Path, order: str) -> None:
    """Else a model that is evaluated beside others would be scored as if it were wrong."""
    rows = make_inputs([5], "sequence")
    task: Any = SimpleNamespace(
        head="sequence", outputs=OneOf(), labels=["a", "b", "c"], train=rows, dev=rows, notes=()
    )
    model = make_model("bert", "sequence", 3)
    model.config.id2label = dict(enumerate(order))
    model.save_pretrained(tmp_path)
    found = load_finetuned(str(tmp_path), task)
    places = [1, 2, 0] if order == "cab" else [0, 1, 2]
    assert torch.equal(found.classifier.weight, model.classifier.weight[places])
    assert torch.equal(found.classifier.bias, model.classifier.bias[places])
    notes = [
        f"student {tmp_path}: its outputs are in the order c, a, b, and are put into that of the "
        "task, a, b, c"
    ]
    assert list(task.notes) == (notes if order == "cab" else [])
    if order == "cab":
        assert found.config.id2label == {0: "a", 1: "b", 2: "c"}
        assert found.config.label2id == {"a": 0, "b": 1, "c": 2}


def test_inputs_that_a_model_has_no_embedding_for_are_refused() -> None:
    class Task:
        train = dev = make_inputs([5, 7], "sequence")

    model = make_model("bert", "sequence")
    _check_inputs(Task, model, "the student")
    model.config.type_vocab_size = 1
    with pytest.raises(ModelError) as caught:
        _check_inputs(Task, model, "the student")
    assert caught.value.message == (
        "the student: it has 1 token type, but the inputs are of two texts, which the tokenizer "
        "gives two types"
    )
    _check_inputs(Task, make_model("distilbert", "sequence"), "the student")
