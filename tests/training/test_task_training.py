"""Runs on tasks: they learn, go on after a kill, are tried without writing, and give students that
anybody can load.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import Result
from held_steps import start_held
from safetensors.torch import load_file
from task_models import make_model
from tiny_experiments import last_step, listing, metrics, run, weights
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.config.reading import load_experiment
from distilcli.distillation.task_parts import open_task_of

# For each kind of task: the class that anybody would load a student with, and epochs to learn it.
KINDS: dict[str, tuple[Any, int]] = {
    "classification": (AutoModelForSequenceClassification, 4),
    "multi-label": (AutoModelForSequenceClassification, 6),
    "regression": (AutoModelForSequenceClassification, 4),
    "question-answering": (AutoModelForQuestionAnswering, 3),
    "tagging": (AutoModelForTokenClassification, 3),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def invoke(*arguments: str) -> Result:
    """A command in this process."""
    try:
        result = CliRunner().invoke(app, list(arguments))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def train(config: Path, *more: str) -> dict[str, Any]:
    """Train to the end; what is told of it."""
    result = invoke("train", "--config", str(config), "--json", *more)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def finetuned(tasks):
    """Fine-tunes a model on a kind of task, once; its experiment file and what was told of it."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}

    def make(kind: str) -> tuple[Path, dict[str, Any]]:
        if kind not in found:
            sections = tasks.experiment(kind)
            sections["train"] |= {"num_epochs": KINDS[kind][1]}
            config = tasks.write_config(tasks.root / f"{kind}.yaml", kind, **sections)
            found[kind] = config, train(config)
        return found[kind]

    return make


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def constant_score(config: Path) -> tuple[str, float]:
    """The name of a task's score, and what knowing only how frequent labels are makes of it."""
    task = open_task_of(load_experiment(config))
    score = task.scores(task.constant_outputs())[task.score]
    return task.score, 0.0 if np.isnan(score) else score


def distillation(
    tasks: TinyTasks,
    folder: Path,
    kind: str,
    teacher: str,
    train: dict[str, Any] | None = None,
    **sections: Any,
) -> Path:
    """The file of an experiment with that teacher, half of which is copied; it runs in `folder`."""
    tree = tasks.experiment(kind) | {
        "output_dir": str(folder),
        "teacher": {"model": teacher, "precision": "fp32", "cache": str(folder / "cache")},
        "student": {"num_layers": 1},
    }
    tree["train"] |= train or {}
    folder.mkdir(exist_ok=True)
    return tasks.write_config(folder / f"{kind}.yaml", kind, **(tree | sections))


# What is learnt


@pytest.mark.slow
@each_kind
def test_fine_tuning_beats_knowing_how_frequent_labels_are(finetuned, kind):
    config, result = finetuned(kind)
    name, constant = constant_score(config)
    score = result["held_out"][f"held_out/{name}"]
    assert score > constant + (1 - constant) / 3  # a third of the way to 1
    last = metrics(Path(result["run_folder"]))[-1]
    assert last[f"held_out/{name}"] == score
    assert "loss/hard" in last
    assert not {"loss/kl", "loss/cos"} & last.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi-label", "question-answering"])
def test_a_student_learns_from_its_teacher_alone(tasks, finetuned, kind, tmp_path):
    """It never sees a label, and starts without a head."""
    config, of_teacher = finetuned(kind)
    name, constant = constant_score(config)
    config = distillation(
        tasks,
        tmp_path,
        kind,
        of_teacher["student"],
        train={"num_epochs": KINDS[kind][1]},
        student={"kind": "checkpoint", "model": str(tasks.model)},
        loss={"labels": {"weight": 0.0}},
    )
    result = train(config)
    score = result["held_out"][f"held_out/{name}"]
    assert score > constant + (1 - constant) / 3
    first, *_, last = metrics(Path(result["run_folder"]))
    assert last["loss/total"] == last["loss/kl"] < 0.5 * first["loss/kl"]
    assert "loss/hard" not in last


@pytest.mark.slow
def test_every_term_is_told(tasks, finetuned, tmp_path):
    """The weighted sum of the means is the total."""
    _, of_teacher = finetuned("tagging")
    loss = {
        "soft_targets": {"weight": 0.7},
        "labels": {"weight": 0.4},
        "hidden_cosine": {"weight": 0.2},
    }
    config = distillation(
        tasks,
        tmp_path,
        "tagging",
        of_teacher["student"],
        loss=loss,
        train={"max_steps": 3, "log_every": 1},
    )
    result = train(config)
    assert result["steps"] == 3
    for record in metrics(Path(result["run_folder"])):
        kl, hard, cos = (record[f"loss/{name}"] for name in ("kl", "hard", "cos"))
        assert min(kl, hard, cos) > 0
        assert record["loss/total"] == pytest.approx(0.7 * kl + 0.4 * hard + 0.2 * cos)


# What comes of it


@pytest.mark.slow
@each_kind
def test_the_student_loads_with_plain_transformers(finetuned, kind):
    _, result = finetuned(kind)
    model, info = KINDS[kind][0].from_pretrained(result["student"], output_loading_info=True)
    assert not any(info.values())
    assert model.config.num_hidden_layers == 2
    saved = load_file(Path(result["student"]) / "model.safetensors")
    assert all(torch.equal(weight, saved[name]) for name, weight in model.state_dict().items())


def test_the_score_is_that_of_a_pipeline_on_the_dev_file(tasks, finetuned):
    """Read, tokenised, run and counted by others."""
    _, result = finetuned("classification")
    [file] = tasks.task("classification")["dev"]["files"]
    with Path(file).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    classify = pipeline("text-classification", result["student"], device="cpu")
    pairs = [{"text": row["first"], "text_pair": row["second"]} for row in rows]
    found = [answer["label"] for answer in classify(pairs)]
    assert set(found) == {"no", "yes"}
    right = sum(label == row["label"] for label, row in zip(found, rows, strict=True))
    assert result["held_out"]["held_out/accuracy"] == pytest.approx(right / len(rows))


def test_the_student_reads_text_as_it_did(finetuned):
    _, result = finetuned("classification")
    tokenizer = AutoTokenizer.from_pretrained(result["student"])
    encoded = tokenizer("ba bi", "ku", return_token_type_ids=True)
    expected = pair_tokenizer()("ba bi", "ku", return_token_type_ids=True)
    assert dict(encoded) == dict(expected)


# Kills


@pytest.mark.slow
def test_a_killed_run_ends_as_if_nothing_had_happened(tasks, finetuned, tmp_path):
    """Dropout is on, and the teacher's outputs are those of the first attempt."""
    _, of_teacher = finetuned("tagging")

    def command(folder: Path) -> list[str]:
        config = distillation(
            tasks,
            folder,
            "tagging",
            of_teacher["student"],
            loss={"hidden_cosine": {"weight": 0.5}},
            student={"num_layers": 1, "dropout": 0.1, "attention_dropout": 0.1},
            train={"max_steps": 30, "log_every": 1, "save_every": 4},
            validation={"every": 7},
        )
        return ["train", "--config", str(config)]

    undisturbed = run(*command(tmp_path / "undisturbed"))
    assert undisturbed.code == 0, undisturbed.stderr
    folder = tmp_path / "killed" / "tagging"
    arguments = command(tmp_path / "killed")
    running = start_held(13, tmp_path / "never", *arguments)
    assert running.wait_until(lambda: last_step(folder) == 13), running.wait()
    running.kill()
    assert not (folder / "student").exists()
    resumed = run(*arguments, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert "resumed after step" in resumed.stderr
    assert "the teacher's outputs are in" in resumed.stderr
    expected = tmp_path / "undisturbed" / "tagging"
    assert weights(folder) == weights(expected)
    assert metrics(folder) == metrics(expected)
    assert [record["step"] for record in metrics(folder)] == list(range(1, 31))


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_another_experiment_refused(tasks, finetuned):
    config, result = finetuned("classification")
    before = contents(Path(result["run_folder"]))
    assert train(config, "--resume", "train.log_every=3")["already_finished"]
    refused = invoke("train", "--config", str(config), "--resume", "task.max_length=20")
    assert refused.exit_code == 2
    assert "these keys differ: task.max_length" in refused.stderr
    assert contents(Path(result["run_folder"])) == before


# Dry runs


def shown(text: str, what: str) -> str:
    """A figure of the table that a dry run shows."""
    [line] = [line for line in text.splitlines() if what in line]
    return line.strip("\u2502| ").split()[-1]


def test_a_dry_run_shows_what_teacher_and_frequencies_reach_and_writes_nothing(
    tasks, finetuned, tmp_path
):
    config, of_teacher = finetuned("classification")
    score = of_teacher["held_out"]["held_out/accuracy"]
    _, constant = constant_score(config)
    assert constant == pytest.approx(2 / 3)  # two rows of three are of one class
    config = distillation(tasks, tmp_path, "classification", of_teacher["student"])
    before = listing(tmp_path), listing(tasks.root)
    arguments = ["train", "--config", str(config), "--dry-run"]
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["teacher_score"] == pytest.approx(score)
    assert record["constant_score"] == pytest.approx(constant)
    assert record["steps_per_epoch"] == 10
    assert record["total_steps"] == 40
    assert len(record["losses"]) == 2
    assert all(loss > 0 for loss in record["losses"])
    table = invoke(*arguments).stdout
    assert float(shown(table, "teacher score")) == pytest.approx(score, abs=1e-3)
    assert float(shown(table, "constant score")) == pytest.approx(constant, abs=1e-3)
    assert "nothing was written" in table
    assert (listing(tmp_path), listing(tasks.root)) == before


def test_a_dry_run_without_a_teacher_shows_a_dash(tasks, tmp_path):
    config = tasks.write_config(tmp_path / "a.yaml", "regression", output_dir=str(tmp_path))
    before = listing(tmp_path)
    result = invoke("train", "--config", str(config), "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert shown(result.stdout, "teacher score") == "-"
    assert listing(tmp_path) == before


def test_a_teacher_no_better_than_frequencies_is_refused(tasks, tmp_path):
    """One that always says no is right as often as they are."""
    teacher = tmp_path / "teacher"
    model = make_model("bert", "sequence", 2, vocab=len(pair_tokenizer()))
    model.config.id2label, model.config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([1.0, 0.0]))
    model.save_pretrained(teacher)
    pair_tokenizer().save_pretrained(teacher)
    config = distillation(tasks, tmp_path, "classification", str(teacher))
    result = invoke("train", "--config", str(config), "--dry-run")
    assert result.exit_code == 2
    assert "its accuracy on the dev examples, 0.667, is no better than the 0.667" in result.stderr
    assert f"teacher.model {teacher}" in result.stderr
    assert "fine-tuned on this task" in result.stderr
    assert not (tmp_path / "classification").exists()
