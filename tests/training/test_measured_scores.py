"""What training and the dry run measure on dev examples is what eval measures, in any precision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny_embeddings import TinyEmbeddings, make_embeddings
from tiny_tasks import TinyTasks, make_tasks
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.config.reading import load_experiment
from distilcli.distillation.embedding_parts import assemble_embedding
from distilcli.distillation.task_parts import assemble_task
from distilcli.evaluation.dev_examples import dev_outputs, measured_outputs
from distilcli.evaluation.embeddings import encoder_vectors
from distilcli.models.attention import use_packed_attention

KINDS = (
    "classification",
    "multi-label",
    "regression",
    "question-answering",
    "tagging",
    "reranking",
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory) -> TinyEmbeddings:
    return make_embeddings(tmp_path_factory.mktemp("embeddings"))


def told(*arguments: str) -> dict[str, Any]:
    """What a command in this process tells."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def evaluated(run: str) -> dict[str, dict[str, float]]:
    """The scores of each model, as eval measures them."""
    found = told("eval", run, "--no-speed")
    return {name: model["scores"] for name, model in found["models"].items()}


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_of_training_does_not_round_outputs(tasks, kind, tmp_path, fresh_accelerator):
    """Of every kind of task, to the last bit."""
    experiment: Any = load_experiment(tasks.write_config(tmp_path / "x.yaml", kind))
    parts, accelerator = assemble_task(experiment, CPU), Accelerator()
    alone = measured_outputs(parts.task, parts.student, accelerator, 256, "the student")
    with torch.autocast("cpu", torch.bfloat16):
        during = dev_outputs(parts.task, parts.student, accelerator, 256, "the student")
    assert np.array_equal(during, alone)
    assert parts.task.scores(during) == parts.task.scores(alone)


def test_autocast_of_training_does_not_round_vectors(embeddings, tmp_path, fresh_accelerator):
    task = embeddings.task() | {"retrieval": embeddings.retrieval()}
    config = embeddings.write_config(tmp_path / "x.yaml", task=task)
    experiment: Any = load_experiment(config)
    parts, accelerator = assemble_embedding(experiment, CPU), Accelerator()
    use_packed_attention(parts.student)
    rest = parts.data, parts.student, parts.encoding, accelerator, 256, "the student"
    alone = encoder_vectors(*rest)
    with torch.autocast("cpu", torch.bfloat16):
        during = encoder_vectors(*rest)
    assert during.keys() == alone.keys() == {"dev", "queries", "documents"}
    assert all(np.array_equal(during[name], alone[name]) for name in alone)


def in_bf16(tree: dict[str, Any], folder: Path, **train: Any) -> dict[str, Any]:
    return tree | {
        "name": "measured",
        "output_dir": str(folder),
        "train": tree["train"] | {"precision": "bf16"} | train,
    }


@pytest.mark.parametrize("kind", ["reranking", "regression"])
def test_a_run_and_its_dry_run_on_a_task_say_what_eval_says(tasks, kind, tmp_path):
    """A fine-tuned model, first as what is trained, then as a teacher whose weights are bf16."""
    tree = in_bf16(tasks.experiment(kind), tmp_path, num_epochs=2)
    tree["student"] |= {"dropout": 0.0, "attention_dropout": 0.0}  # a better teacher
    run = told("train", "--config", str(tasks.write_config(tmp_path / "x.yaml", kind, **tree)))
    of_run = evaluated(run["run_folder"])["measured"]
    assert run["held_out"] == {f"held_out/{name}": value for name, value in of_run.items()}
    teacher = {"model": run["student"], "precision": "bf16", "cache": None}
    tree |= {"name": "copy", "teacher": teacher, "student": {"num_layers": 1}}
    config = tasks.write_config(tmp_path / "y.yaml", kind, **tree)
    report = told("train", "--config", str(config), "--dry-run")
    assert report["teacher_score"] == next(iter(of_run.values()))


@pytest.mark.parametrize("measured", ["dev", "retrieval"])
def test_a_run_and_its_dry_run_on_embeddings_say_what_eval_says(embeddings, measured, tmp_path):
    task = embeddings.task() | {"dev": None, "retrieval": embeddings.retrieval()}
    if measured == "dev":
        task = embeddings.task()
    tree = embeddings.experiment(task=task)
    tree["teacher"] |= {"precision": "bf16", "cache": None}
    config = embeddings.write_config(tmp_path / "x.yaml", **in_bf16(tree, tmp_path))
    run = told("train", "--config", str(config))
    scores = evaluated(run["run_folder"])
    expected = {f"held_out/{name}": value for name, value in scores["measured"].items()}
    assert run["held_out"] == expected
    report = told("train", "--config", str(config), "--dry-run", "name=another")
    assert report["teacher_score"] == next(iter(scores["teacher"].values()))
