"""Training on rows without labels: how often they are drawn, and that the teacher alone counts."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from loss_settings import weights
from task_models import make_model
from tiny_experiments import relative_difference
from tiny_tasks import NUM_DEV, NUM_TRAIN, TinyTasks, make_tasks, pair_tokenizer
from torch import Tensor
from typer.testing import CliRunner

from distilcli.batches.plan import Draws
from distilcli.cli.app import app
from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.identity import changed
from distilcli.distillation.task_parts import assemble_task, open_task_of
from distilcli.distillation.tasks import TaskObjective, TaskRun
from distilcli.errors import ConfigError
from distilcli.tasks.inputs import TaskBatch
from distilcli.training.processes import make_accelerator
from distilcli.training.steps import Stepper

# Head and outputs of a kind's teacher, and rows that the teacher labels.
KINDS: dict[str, tuple[str, int, list[dict[str, Any]]]] = {
    "classification": ("sequence", 2, [{"first": "ga ge", "second": "ba be bi"}]),
    "multi-label": ("sequence", 3, [{"text": "ba di"}]),
    "regression": ("sequence", 1, [{"text": "ba du"}]),
    "question-answering": ("span", 2, [{"question": "bo", "context": "ba di fu"}]),
    "reranking": ("sequence", 1, [{"query": "ba", "documents": ["ba du", "be"]}]),
    "tagging": ("token", 3, [{"tokens": ["ba", "di", "fo"]}]),
}
NUM_OTHERS = 8


@pytest.fixture(autouse=True)
def _next_run_is_the_first() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def experiment_of(
    tasks: TinyTasks, folder: Path, kind: str = "classification", **sections: Any
) -> TaskExperiment:
    """Distillation from a teacher that has learnt nothing, on labelled rows and on others."""
    head, labels, rows = KINDS[kind]
    teacher, others = folder / "teacher", folder / "others.jsonl"
    if not teacher.exists():
        model = make_model("bert", head, labels, 3, vocab=len(pair_tokenizer()))
        model.save_pretrained(teacher)
        pair_tokenizer().save_pretrained(teacher)
    if not others.exists():
        others.write_text((json.dumps(rows[0]) + "\n") * NUM_OTHERS, encoding="utf-8")
    tree = tasks.experiment(kind) | {
        "output_dir": str(folder / "runs"),
        "teacher": {"model": str(teacher), "precision": "fp32", "cache": None},
        "student": {"num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0},
        "loss": weights(soft_targets=1.0, labels=0.5),
    }
    tree["train"] = tree["train"] | {"max_steps": 4}
    tree["task"] = tree["task"] | {"transfer": {"files": [str(others)]}} | sections.pop("task", {})
    return TaskExperiment.model_validate(tree | sections)


def objective_of(experiment: TaskExperiment) -> TaskObjective:
    accelerator = make_accelerator(experiment)
    parts = assemble_task(experiment, accelerator.device)
    return TaskObjective(experiment, parts, accelerator)


def packed(objective: TaskObjective, samples: list[int]) -> TaskBatch:
    return objective.pack(Draws(np.array(samples), np.zeros(len(samples), dtype=np.int64)))


# How often they are drawn


@pytest.mark.parametrize(
    ("weight", "of_transfer", "of_train"),
    [(1.0, 1, 1), (3, 3, 1), (0.5, 1, 2), (1.5, 3, 2), (0.05, 1, 20), (0.3333, 1, 3)],
)
@pytest.mark.parametrize("copies", [0, 1])
def test_an_epoch_draws_rows_as_often_as_their_weight_says(
    tasks: TinyTasks, tmp_path: Path, weight: float, of_transfer: int, of_train: int, copies: int
) -> None:
    experiment = experiment_of(tasks, tmp_path)
    transfer = {"files": experiment.task.transfer.files, "weight": weight}
    augmentation = {"copies": copies} if copies else None
    experiment = experiment_of(
        tasks, tmp_path, task={"transfer": transfer}, augmentation=augmentation
    )
    objective = objective_of(experiment)
    drawn = Counter(packed(objective, list(range(len(objective.lengths)))).sample_ids)
    times = [of_train] * NUM_TRAIN + [of_transfer] * NUM_OTHERS
    assert [drawn[index] for index in range(len(drawn))] == times * (copies + 1)
    without = of_transfer * NUM_OTHERS + copies * sum(times)
    assert objective.num_unlabelled == without
    # Lengths, by which micro-batches are planned, are those of what is drawn.
    lengths = packed(objective, [0, len(objective.lengths) - 1]).lengths
    assert lengths == (objective.lengths[0], objective.lengths[-1])


# What counts


@pytest.mark.parametrize("kind", KINDS)
def test_labels_count_where_there_are_some_and_the_teacher_everywhere(
    tasks: TinyTasks, tmp_path: Path, kind: str
) -> None:
    objective = objective_of(experiment_of(tasks, tmp_path, kind))
    module = objective.module.eval()
    size = len(objective.lengths)
    labelled, others = [0, 1], [size - 2, size - 1]
    ones = [torch.ones(()) for _ in module.terms]
    names = [term.name for term in module.terms]

    def terms(samples: list[int]) -> tuple[dict[str, Tensor], dict[str, int]]:
        batch = packed(objective, samples)
        sums = module(batch, ones).terms
        return dict(zip(names, sums, strict=True)), dict(
            zip(names, module.counts(batch), strict=True)
        )

    (both, n_both), (with_labels, n_with), (without, n_without) = (
        terms(samples) for samples in (labelled + others, labelled, others)
    )
    assert (without["labels"].item(), n_without["labels"]) == (0.0, 0)
    torch.testing.assert_close(both["labels"], with_labels["labels"])
    assert n_both["labels"] == n_with["labels"] > 0
    soft = with_labels["soft_targets"] + without["soft_targets"]
    torch.testing.assert_close(both["soft_targets"], soft)
    assert without["soft_targets"] > 0
    assert n_both["soft_targets"] == n_with["soft_targets"] + n_without["soft_targets"]


def steps_of(experiment: TaskExperiment) -> dict[str, Tensor]:
    """The student after its steps."""
    accelerator = make_accelerator(experiment)
    parts = assemble_task(experiment, accelerator.device)
    stepper = Stepper(experiment, TaskObjective(experiment, parts, accelerator), accelerator)
    stepper.distillation.train()
    for step, batches in enumerate(stepper.batches_from(0)):
        stepper.take(step, batches)
    AcceleratorState._reset_state(reset_partial_state=True)
    return parts.student.state_dict()


def test_the_teachers_outputs_are_kept_once_for_rows_that_are_drawn_often(
    tasks: TinyTasks, tmp_path: Path
) -> None:
    files = experiment_of(tasks, tmp_path).task.transfer.files
    often = {"transfer": {"files": files, "weight": 3}}
    cache = tmp_path / "cache"
    kept = {"model": str(tmp_path / "teacher"), "precision": "fp32", "cache": str(cache)}
    found = [
        steps_of(experiment_of(tasks, tmp_path, **sections))
        for sections in ({"task": often}, {"task": often, "teacher": kept}, {"teacher": kept})
    ]
    assert relative_difference(found[0], found[1]) < 1e-5
    assert relative_difference(found[0], found[2]) > 1e-4  # the weight has an effect
    assert len(list(cache.iterdir())) == 1  # and the same outputs serve both


def test_without_labels_the_weight_of_labels_must_be_0(tasks: TinyTasks, tmp_path: Path) -> None:
    rows = tmp_path / "nothing.tsv"
    rows.write_text("first\tsecond\tlabel\nga\tba\t\nge\tda\t\n", encoding="utf-8")
    task = {"train": {"files": [str(rows)]}, "transfer": None, "labels": ["no", "yes"]}
    experiment = experiment_of(tasks, tmp_path, task=task)
    with pytest.raises(ConfigError) as caught:
        open_task_of(experiment)
    assert caught.value.message == (
        "loss.labels.weight is above 0, and no row to train on has a label"
    )
    assert "loss.labels.weight=0" in caught.value.hint
    alone = experiment_of(tasks, tmp_path, task=task, loss=weights(labels=0))
    found = open_task_of(alone)
    assert found.unlabelled is not None
    assert found.unlabelled.examples == (2, 0)
    # Where nothing compares with the teacher, such rows would be in vain: they are bad ones.
    with pytest.raises(Exception, match="2 bad rows"):
        open_task_of(experiment_of(tasks, tmp_path, task=task, loss=weights(soft_targets=0)))


# What a run depends on


def test_rows_of_transfer_are_known_by_content(tasks: TinyTasks, tmp_path: Path) -> None:
    def identity(**task: Any) -> Any:
        experiment = experiment_of(tasks, tmp_path, task=task)
        parts = assemble_task(experiment, torch.device("cpu"))
        AcceleratorState._reset_state(reset_partial_state=True)
        return TaskRun(experiment).identity(parts, tmp_path / "student")

    before, without = identity(), identity(transfer=None)
    assert before.keys() - without.keys() == {"task.transfer rows"}
    assert changed(without, before) == []
    copy, edited = tmp_path / "copy.jsonl", tmp_path / "edited.jsonl"
    text = (tmp_path / "others.jsonl").read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    edited.write_text(text.replace("ge", "gi", 1), encoding="utf-8")
    assert changed(before, identity(transfer={"files": [str(copy)]})) == []
    found = changed(before, identity(transfer={"files": [str(edited)]}))
    assert found == [f"task.transfer rows ({edited})"]


# What people are told


def invoke(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 0, result.stderr
    return result


def test_rows_without_labels_are_counted_apart(
    tasks: TinyTasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This teacher has learnt nothing, which a dry run would refuse.
    monkeypatch.setattr(TaskObjective, "check_teacher", lambda *_: {})
    train = Path(tasks.task("classification")["train"]["files"][0])
    mixed = tmp_path / "mixed.tsv"
    mixed.write_text(train.read_text(encoding="utf-8") + "ga\tba\t\n", encoding="utf-8")
    task = {"train": {"files": [str(mixed)]}, "labels": ["no", "yes"]}
    experiment = experiment_of(tasks, tmp_path, task=task)
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(experiment.model_dump(mode="json")), encoding="utf-8")
    record = json.loads(invoke("prepare", "--config", str(config), "--json").stdout)
    found = {name: record[name] for name in ("train", "without_labels", "dev")}
    assert [split["examples"] for split in found.values()] == [NUM_TRAIN, 1 + NUM_OTHERS, NUM_DEV]
    assert found["without_labels"]["examples_of"] == {"train": 1, "transfer": NUM_OTHERS}
    assert found["without_labels"]["inputs"] == 1 + NUM_OTHERS
    assert found["without_labels"]["tokens"] == 5 + NUM_OTHERS * 8
    assert record["unknown_share"] == {"train": 0.0, "transfer": 0.0, "dev": 0.0}
    table = invoke("prepare", "--config", str(config)).stdout
    assert [line for line in table.splitlines() if "without labels" in line and "9" in line]
    assert "without labels: 1 of task.train, 8 of task.transfer" in table
    arguments = ["train", "--config", str(config), "--dry-run"]
    tried = json.loads(invoke(*arguments, "--json").stdout)
    assert tried["samples_per_epoch"] == NUM_TRAIN + 1 + NUM_OTHERS
    assert tried["unlabelled_per_epoch"] == 1 + NUM_OTHERS
    shown = invoke(*arguments)
    assert "169 sequences (9 without labels)" in shown.stdout
    assert "160 with a label, 9 without (1 of task.train, 8 of task.transfer)" in shown.stderr
