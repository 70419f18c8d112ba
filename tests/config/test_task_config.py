"""Settings of experiments on a task: which kind a file is, defaults, and what is written down."""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_settings import weights
from task_settings import MASKED_LM, SMALLEST, load, on
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.config import reading
from distilcli.config.data import RowFiles, RowHub
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.models import TaskCheckpointStudent, TaskCopiedStudent
from distilcli.config.row_outputs import RowOutputs
from distilcli.config.tasks import (
    ClassificationTask,
    GlueTask,
    MultiLabelTask,
    QuestionAnsweringTask,
    RegressionTask,
    RerankingTask,
    TaggingTask,
)
from distilcli.errors import ConfigError

# Which kind of experiment


def test_an_experiment_with_a_task_is_one_on_a_task(path: Path) -> None:
    experiment = load(path)
    assert isinstance(experiment, TaskExperiment)
    assert isinstance(experiment.task, ClassificationTask)
    assert experiment.run_folder == Path("runs/small")


def test_an_override_may_bring_the_task_and_may_change_its_kind(path: Path) -> None:
    without = {key: value for key, value in SMALLEST.items() if key != "task"}
    path.write_text(yaml.safe_dump(without), encoding="utf-8")
    experiment = reading.load_experiment(path, ["task={kind: glue, name: CoLA}"])
    assert isinstance(experiment, TaskExperiment)
    assert experiment.task == GlueTask(kind="glue", name="CoLA")
    assert isinstance(load(path, "task.kind=tagging").task, TaggingTask)


def test_a_masked_lm_experiment_is_read_by_both(path: Path) -> None:
    path.write_text(yaml.safe_dump(MASKED_LM), encoding="utf-8")
    experiment = reading.load_masked_lm_experiment(path)
    assert type(experiment) is MaskedLMExperiment
    assert reading.load_experiment(path) == experiment
    assert reading.load_masked_lm_experiment(path, ["seed=3"]).seed == 3


def test_a_task_is_refused_where_only_masked_lm_training_is_known(path: Path) -> None:
    load(path)
    with pytest.raises(ConfigError, match="this experiment is on a task") as caught:
        reading.load_masked_lm_experiment(path)
    assert caught.value.message.startswith(str(path))
    result = CliRunner().invoke(app, ["init-student", "--config", str(path)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"error: {path}: this experiment is on a task" in result.stderr
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_skipping_bad_rows_without_a_task_is_refused_in_its_own_words(
    path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option is what the user typed: no answer about keys that it stands for."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    path.write_text(yaml.safe_dump(MASKED_LM), encoding="utf-8")
    result = CliRunner().invoke(app, [command, "--config", str(path), "--skip-bad-rows"])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 2
    assert "--skip-bad-rows" in result.stderr
    assert "unknown key" not in result.stderr


@pytest.mark.parametrize("command", ["prepare", "train"])
@pytest.mark.parametrize("flag", [True, False])
def test_skipping_bad_rows_is_a_setting_of_the_task(
    path: Path, command: str, flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(path)
    seen = []
    module = importlib.import_module(f"distilcli.cli.{command}")
    monkeypatch.setattr(module, "run", lambda experiment, *_, **__: seen.append(experiment))
    flags = ["--skip-bad-rows"] if flag else []
    result = CliRunner().invoke(app, [command, "--config", str(path), "seed=5", *flags])
    assert result.exit_code == 0, result.output
    assert [experiment.task.skip_bad_rows for experiment in seen] == [flag]
    assert seen[0].seed == 5


# Defaults


def test_what_a_file_leaves_out_is_as_in_bert_fine_tuning(path: Path) -> None:
    """Devlin et al. 2019, sec. A.3, with a middle learning rate; soft and hard targets alike."""
    experiment = load(path)
    assert isinstance(experiment, TaskExperiment)
    optim, train, loss = experiment.optim, experiment.train, experiment.loss
    assert (optim.lr, optim.betas, optim.eps) == (5e-5, (0.9, 0.999), 1e-6)
    assert (optim.weight_decay, optim.warmup_fraction, optim.max_grad_norm) == (0.01, 0.1, 1.0)
    assert (train.global_batch_size, train.num_epochs, train.max_steps) == (32, 3, None)
    assert (train.tokens_per_micro_batch, train.precision) == (4096, "auto")
    assert loss.temperature == 2.0
    assert {name: weight for name, weight in loss.weights.items() if weight} == {
        "soft_targets": 1,
        "labels": 1,
    }
    assert experiment.validation.every == 0
    assert experiment.student == TaskCopiedStudent(source="some-bert")


def test_masked_lm_training_keeps_its_own_defaults(path: Path) -> None:
    path.write_text(yaml.safe_dump(MASKED_LM), encoding="utf-8")
    experiment = reading.load_masked_lm_experiment(path)
    assert (experiment.optim.lr, experiment.optim.betas) == (5e-4, (0.9, 0.98))
    assert (experiment.train.global_batch_size, experiment.validation.every) == (256, 500)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("classification", {"text": "text", "label": "label", "score": "accuracy"}),
        ("multi-label", {"text": "text", "label": "labels", "score": "micro_f1"}),
        ("regression", {"text": "text", "label": "label", "score": "pearson_spearman"}),
        ("reranking", {"query": "query", "document": "document", "score": "ndcg@10"}),
        ("tagging", {"words": "tokens", "tags": "tags", "score": "accuracy", "max_length": None}),
        (
            "question-answering",
            {
                "max_length": 384,
                "stride": 128,
                "max_question_length": 64,
                "max_answer_length": 30,
                "score": "f1",
            },
        ),
    ],
)
def test_defaults_of_each_kind(path: Path, kind: str, expected: dict[str, Any]) -> None:
    task = load(path, f"task.kind={kind}").task
    found = task.model_dump()
    assert {key: found[key] for key in expected} == expected
    assert found["skip_bad_rows"] is False
    assert task.train == RowFiles(files=["train.csv"])
    assert task.dev.format == "auto"


def test_a_teacher_keeps_its_outputs_unless_told_otherwise(path: Path) -> None:
    teacher = load(path, teacher={"model": "m"}).teacher
    assert (teacher.cache, teacher.precision) == ("data/teacher-outputs", "auto")
    assert load(path, teacher={"model": "m", "cache": None}).teacher.cache is None


def test_rows_may_be_of_the_hub_or_of_files(path: Path) -> None:
    task = load(path, "task.dev={hub: a/b, split: test}", "task.train.files=[a, b]").task
    assert task.dev == RowHub(hub="a/b", split="test")
    assert task.train == RowFiles(files=["a", "b"])


@pytest.mark.parametrize(
    ("changes", "source", "tokenizer"),
    [
        ({}, "some-bert", "some-bert"),
        ({"teacher": {"model": "t"}, "student": {}}, None, "t"),
        ({"teacher": {"model": "t"}}, "some-bert", "t"),
        ({"student": {"kind": "checkpoint", "model": "m"}}, "m", "m"),
        ({"teacher": {"model": "t"}, "student": {"kind": "checkpoint", "model": "m"}}, "m", "t"),
    ],
)
def test_where_the_student_and_the_tokenizer_are_from(
    path: Path, changes: dict[str, Any], source: str | None, tokenizer: str
) -> None:
    experiment = load(path, **changes)
    assert experiment.model_source == source
    assert experiment.tokenizer_source == tokenizer


# Writing


ROWS = {"files": ["a b.tsv", "yes"], "format": "tsv", "columns": ["#1 String", "no", "3e-4"]}
HUB = {"hub": "a/b", "subset": "null", "split": "train", "revision": "0123"}
TRANSFER = {"files": ["*.txt"], "format": "text", "columns": None, "weight": 0.35}
EVERYTHING: dict[str, dict[str, Any]] = {
    "classification": {
        "text": "t",
        "text_pair": "u",
        "label": "l",
        "labels": ["0", "1"],
        "score": "matthews",
        "positive": "0",
    },
    "multi-label": {
        "text": "t",
        "text_pair": "u",
        "label": "l",
        "labels": ["true", "off"],
        "score": "exact_match",
    },
    "regression": {"text": "t", "text_pair": "u", "label": "l", "score": "spearman"},
    "question-answering": {
        "max_length": 40,
        "stride": 7,
        "max_question_length": 9,
        "max_answer_length": 3,
        "score": "exact_match",
    },
    "tagging": {"words": "w", "tags": "t", "labels": ["O", "B-X"], "score": "entity_f1"},
    "reranking": {
        "query": "q",
        "document": "d",
        "label": "l",
        "query_id": "i",
        "score": "mrr@10",
    },
    "glue": {"name": "STS-B", "folder": "~/glue data/STS-B"},
}
CLASSES = {
    "classification": ClassificationTask,
    "multi-label": MultiLabelTask,
    "regression": RegressionTask,
    "question-answering": QuestionAnsweringTask,
    "tagging": TaggingTask,
    "reranking": RerankingTask,
    "glue": GlueTask,
}


@pytest.mark.parametrize("kind", EVERYTHING)
def test_dump_is_read_back_as_the_same(path: Path, kind: str) -> None:
    rows = {} if kind == "glue" else {"train": ROWS, "dev": HUB}
    task = {"kind": kind, "max_length": 33, "skip_bad_rows": True, "transfer": TRANSFER}
    task |= rows | EVERYTHING[kind]
    # Nothing is left out here, but for what stands in the place of a teacher.
    assert task.keys() | {"teacher_outputs"} == CLASSES[kind].model_fields.keys()
    experiment = load(
        path,
        task=task,
        teacher={"model": "t", "revision": "1e3", "precision": "bf16", "cache": None},
        student={"kind": "checkpoint", "model": "m", "dropout": 0.3, "attention_dropout": 0},
        loss={"temperature": 3} | weights(soft_targets=0.25, labels=0, hidden_cosine=2),
        optim={"lr": "3e-4", "max_grad_norm": math.inf},
        train={"trackers": ["tensorboard"], "max_steps": 3},
        validation={"every": 4},
    )
    assert isinstance(experiment.task, CLASSES[kind])
    assert isinstance(experiment.student, TaskCheckpointStudent)
    path.write_text(reading.dump(experiment), encoding="utf-8")
    again = reading.load_experiment(path)
    assert type(again) is TaskExperiment
    assert again == experiment
    # Equal trees, and the very settings: what both lost would be equal as well.
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {key: written["task"][key] for key in task} == task


def test_dump_keeps_where_outputs_of_a_teacher_are(path: Path) -> None:
    outputs = {"column": "c", "holds": "probabilities", "files": ["a b.jsonl", "1"], "id": "2"}
    outputs |= {"format": "jsonl"}
    assert outputs.keys() | {"columns"} == RowOutputs.model_fields.keys()
    task = {"kind": "classification", "train": ROWS, "dev": HUB, "teacher_outputs": outputs}
    student = {"kind": "checkpoint", "model": "m"}
    experiment = load(path, task=task, teacher=None, student=student)
    path.write_text(reading.dump(experiment), encoding="utf-8")
    assert reading.load_experiment(path) == experiment
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert written["task"]["teacher_outputs"] == outputs | {"columns": None}


@settings(max_examples=20)  # writing and reading YAML takes its time
@given(st.lists(st.text(max_size=8), max_size=3), st.text(max_size=8))
def test_dump_keeps_every_name_of_a_class(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str], column: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "names.yaml"
    tree = SMALLEST | on(labels=labels, text=column)
    experiment = TaskExperiment.model_validate(tree)
    path.write_text(reading.dump(experiment), encoding="utf-8")
    found = reading.load_experiment(path).task
    assert (found.labels, found.text) == (labels, column)
