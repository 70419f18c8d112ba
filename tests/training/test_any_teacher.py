"""Runs with a teacher of another architecture and tokenizer: learnt, killed, tried, measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from click.testing import Result
from disturbed_runs import finish
from own_tokenizer_models import learn, random_model, save
from tiny_experiments import metrics, weights
from tiny_tasks import TinyTasks, make_tasks
from typer.testing import CliRunner

from distilcli.cli.app import app

STEPS = ["train.max_steps=6", "train.save_every=3"]
LABELS = {"classification": ["no", "yes"], "tagging": ["B-X", "I-X", "O"]}
# The classes of each teacher in another order; the places of the task's among them.
TEACHERS: dict[str, tuple[str, Any, list[str], list[int], int]] = {
    "classification": ("albert", "sequence", ["yes", "no"], [1, 0], 30),
    "tagging": ("deberta-v2", "token", ["O", "I-X", "B-X"], [2, 1, 0], 30),
    "question-answering": ("roberta", "span", ["start", "end"], [0, 1], 40),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def section_of(tasks: TinyTasks, kind: str) -> dict[str, Any]:
    return tasks.task(kind) | ({"labels": LABELS[kind]} if kind in LABELS else {})


@pytest.fixture(scope="module")
def teachers(tasks) -> dict[str, Path]:
    """Each has learnt its task."""
    found = {}
    for kind, (model_type, head, names, order, steps) in TEACHERS.items():
        model = random_model(model_type, head, names)
        learn(model, head, section_of(tasks, kind), order, steps)
        found[kind] = save(model, tasks.root / f"teacher-{kind}")
    return found


def invoke(*arguments: str) -> Result:
    try:
        result = CliRunner().invoke(app, list(arguments))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def succeeded(*arguments: str) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def config_of(tasks: TinyTasks, kind: str, teacher: Path, folder: Path) -> list[str]:
    path = tasks.write_config(
        folder / f"{kind}.yaml",
        kind,
        output_dir=str(folder / "runs"),
        task=section_of(tasks, kind),
        teacher={"model": str(teacher), "cache": str(folder / "cache"), "precision": "fp32"},
        loss={"labels": {"weight": 0.0}},
    )
    return ["--config", str(path)]


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_student_learns_from_what_the_teacher_says_alone(tasks, teachers, kind, tmp_path):
    config = config_of(tasks, kind, teachers[kind], tmp_path)
    tried = succeeded("train", *config, "--dry-run", "--json")
    assert not (tmp_path / "cache").exists()
    before = json.loads(tried.stdout)
    assert before["teacher_score"] > before["constant_score"]
    said = succeeded("train", *config).stderr
    assert "teacher reads the texts by itself, with its own tokenizer, and padded" in said
    assert "the teacher runs once over" in said
    measured = json.loads(succeeded("eval", str(tmp_path / "runs" / kind), "--json").stdout)
    models = measured["models"]
    assert list(models) == ["teacher", kind]
    score = measured["score"]
    assert models["teacher"]["scores"][score] == pytest.approx(before["teacher_score"])
    assert models["teacher"]["agreement"] == 1.0
    assert models[kind]["scores"][score] > before["constant_score"]


def test_a_run_that_is_killed_goes_on_to_the_same_bits(tasks, teachers, tmp_path):
    kind = "tagging"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    found = {}
    for folder in (whole, killed):
        folder.mkdir()
        config = config_of(tasks, kind, teachers[kind], folder)
        succeeded("train", *config, *STEPS)
        found[folder] = folder / "runs" / kind
    shutil.rmtree(found[killed] / "checkpoints" / "step-00000006")  # as if killed in a step
    shutil.rmtree(found[killed] / "student")
    said = succeeded("train", *config, *STEPS, "--resume").stderr
    assert "the teacher's outputs are in" in said
    assert weights(found[killed]) == weights(found[whole])


def test_a_resume_looks_at_the_teacher_the_texts_and_its_tokenizer(tasks, teachers, tmp_path):
    teacher = shutil.copytree(teachers["classification"], tmp_path / "teacher")
    config = config_of(tasks, "classification", teacher, tmp_path)
    succeeded("train", *config, *STEPS)
    shutil.rmtree(tmp_path / "runs" / "classification" / "student")
    file = teacher / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"NFKC"', '"NFC"'), encoding="utf-8")
    result = invoke("train", *config, *STEPS, "--resume")
    assert result.exit_code == 2
    assert "teacher.model tokenizer" in result.stderr


def test_a_model_of_entailment_is_enough_where_nothing_is_labelled(tasks, tmp_path):
    """Classes have their names and their order from its hypotheses; the dev rows measure."""
    outputs = ["contradiction", "neutral", "entailment"]
    teacher = save(random_model("deberta-v2", "sequence", outputs), tmp_path / "nli")
    rows = (tasks.root / "multi-label" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(json.loads(row)["text"] + "\n" for row in rows), encoding="utf-8")
    task = tasks.task("multi-label") | {"transfer": {"files": [str(texts)]}}
    del task["train"]
    path = tasks.write_config(
        tmp_path / "x.yaml",
        "multi-label",
        output_dir=str(tmp_path / "runs"),
        task=task,
        teacher={
            "model": str(teacher),
            "cache": str(tmp_path / "cache"),
            "precision": "fp32",
            "hypotheses": {"b": "of ba", "d": "of da", "f": "of fa"},
        },
        loss={"labels": {"weight": 0.0}},
    )
    prepared = json.loads(succeeded("prepare", "--config", str(path), "--json").stdout)
    assert (prepared["train"]["examples"], prepared["without_labels"]["examples"]) == (0, len(rows))
    said = succeeded("train", "--config", str(path)).stderr
    assert f"rows to train on: 0 with a label, {len(rows)} without" in said
    first, *_, last = metrics(tmp_path / "runs" / "multi-label")
    assert last["loss/kl"] < 0.7 * first["loss/kl"]
    assert "loss/hard" not in last
    saved = json.loads((tmp_path / "runs/multi-label/student/config.json").read_text())
    assert saved["id2label"] == {"0": "b", "1": "d", "2": "f"}
    found = json.loads(succeeded("eval", str(tmp_path / "runs/multi-label"), "--json").stdout)
    assert found["models"]["teacher"]["agreement"] == 1.0
    assert found["models"]["multi-label"]["agreement"] > 1 / 8  # of all sets of the classes


@pytest.mark.slow
def test_two_processes_keep_the_outputs_of_one(tasks, teachers, tmp_path, monkeypatch):
    students = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = config_of(tasks, "tagging", teachers["tagging"], folder)
        finish(["train", *config, *STEPS], num_processes=number)
        [entry] = (folder / "cache").iterdir()
        students.append((entry.name, sorted(path.name for path in entry.iterdir())))
    assert students[0] == students[1]


def test_what_goes_wrong_is_said_in_one_line_and_nothing_is_written(tasks, teachers, tmp_path):
    config = config_of(tasks, "tagging", teachers["classification"], tmp_path)
    result = invoke("train", *config)
    assert result.exit_code == 2
    where = f"error: teacher {teachers['classification']}"
    assert f"{where}: its class is AlbertForSequenceClassification" in result.stderr
    config = config_of(tasks, "tagging", teachers["tagging"], tmp_path)
    student = "student={kind: copied, num_layers: 1}"
    result = invoke("train", *config, student)
    assert result.exit_code == 2
    assert "error: student.source: a student cannot be copied from teacher.model" in result.stderr
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache").exists()
