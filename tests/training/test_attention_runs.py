"""Runs with the terms on attention: the gradient belongs to the step, and the terms are learnt."""

import json
from pathlib import Path

import gradient_worker
import pytest
from safetensors.torch import load_file
from task_models import make_model
from tiny_experiments import relative_difference, start_function
from tiny_tasks import make_tasks, pair_tokenizer
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.config.experiment import BaseExperiment, TaskExperiment
from distilcli.config.reading import load_masked_lm_experiment
from distilcli.distillation.task_parts import assemble_task
from distilcli.distillation.tasks import TaskObjective
from distilcli.training.processes import make_accelerator
from distilcli.training.steps import Stepper

TOLERANCE = 1e-5  # of the difference's norm over the gradient's
WRONG = 1e-3  # far above it
LOSSES = {
    "relations": {"attention_relations": {"weight": 1.0}},
    "values of another layer": {
        "attention_relations": {
            "weight": 1.0,
            "relations": ["value"],
            "num_heads": 2,
            "teacher_layer": 2,
        }
    },
    "distributions": {"attention_distributions": {"weight": 1.0}},
    "scores": {"attention_distributions": {"weight": 1.0, "distance": "mse", "layers": "uniform"}},
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def alone(loss: dict, *names: str) -> dict:
    """The section of the losses where those by default are off."""
    return {name: {"weight": 0.0} for name in names} | loss


@pytest.fixture(autouse=True)
def _fresh(fresh_accelerator) -> None:
    """Every test wraps models of its own."""


def settings_of(folder: Path, loss: dict, tokens: int) -> list[str]:
    """Of masked-LM training with some losses alone."""
    return [
        "student.dropout=0",
        "student.attention_dropout=0",
        "teacher.precision=fp32",
        "train.precision=fp32",
        "train.max_steps=3",
        "optim.lr=1e-3",
        "optim.max_grad_norm=1e9",
        f"train.tokens_per_micro_batch={tokens}",
        f"loss={json.dumps(alone(loss, 'soft_targets', 'masked_lm', 'hidden_cosine'))}",
        f"output_dir={folder}",
    ]


def masked_lm(world, folder: Path, loss: dict, tokens: int) -> Stepper:
    experiment = load_masked_lm_experiment(world.config, settings_of(folder, loss, tokens))
    return gradient_worker.make_stepper(experiment, make_accelerator(experiment))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    tasks = make_tasks(tmp_path_factory.mktemp("tasks"))
    teacher = tasks.root / "teacher"
    make_model("bert", "token", 3, 4, vocab=len(pair_tokenizer())).save_pretrained(teacher)
    pair_tokenizer().save_pretrained(teacher)
    return tasks


def tagging(tasks, folder: Path, loss: dict, tokens: int) -> Stepper:
    sections = {
        "output_dir": str(folder),
        "teacher": {"model": str(tasks.root / "teacher"), "precision": "fp32", "cache": None},
        "student": {"num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0},
        "loss": alone(loss, "soft_targets", "labels"),
        "optim": {"lr": 1e-3, "max_grad_norm": 1e9},
        "train": {
            "precision": "fp32",
            "global_batch_size": 16,
            "tokens_per_micro_batch": tokens,
            "max_steps": 3,
        },
    }
    experiment: BaseExperiment
    experiment = TaskExperiment.model_validate(tasks.experiment("tagging", **sections))
    accelerator = make_accelerator(experiment)
    parts = assemble_task(experiment, accelerator.device)
    stepper = Stepper(experiment, TaskObjective(experiment, parts, accelerator), accelerator)
    stepper.distillation.train()
    return stepper


def same_steps(whole: Stepper, parts: Stepper) -> None:
    """Three steps with the same gradients, which make the term smaller."""
    sums = []
    for step in range(3):
        assert len(whole.step_batches[step]) == 1 < len(parts.step_batches[step])
        gradients = [gradient_worker.gradient_of_step(one, step) for one in (whole, parts)]
        # Adam makes more of the rounding of a step in the steps after it.
        assert relative_difference(*gradients) < TOLERANCE * 10**step
        sums.append(gradients[0])
    assert relative_difference(sums[2], sums[0]) > WRONG  # so the student has moved


@each_loss
def test_masked_lm_on_two_cuts(tiny_world, tmp_path, loss):
    same_steps(*(masked_lm(tiny_world, tmp_path, loss, tokens) for tokens in (100_000, 60)))


@each_loss
def test_a_task_on_two_cuts(tasks, tmp_path, loss):
    same_steps(*(tagging(tasks, tmp_path, loss, tokens) for tokens in (100_000, 60)))


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tiny_world, tmp_path):
    """No process waits for what relations alone give no gradient: the head, parts of a layer."""
    arguments = settings_of(tmp_path, LOSSES["relations"], 60)
    alone = masked_lm(tiny_world, tmp_path, LOSSES["relations"], 60)
    expected = gradient_worker.gradient_of_step(alone, 0)
    everything = [str(tmp_path), str(tiny_world.config), *arguments]
    finished = start_function(gradient_worker.work, everything, 2).wait()
    assert finished.code == 0, finished.stderr
    frozen = set(dict(alone.distillation.student.named_parameters())) - set(expected)
    assert any(".attention.self.value." in name or ".v_lin." in name for name in expected)
    assert len(frozen) > 5
    for rank in range(2):
        found = load_file(tmp_path / f"gradient-{rank}.safetensors")
        assert relative_difference(found, expected) < TOLERANCE


@pytest.mark.slow
def test_a_run_learns_relations_and_says_how_far_they_are(tiny_world, tmp_path):
    """Beside the losses of the default, with the record of each step."""
    settings = [
        "loss.attention_relations.weight=1",
        "loss.attention_distributions.weight=1",
        "train.max_steps=30",
        "optim.lr=2e-3",
        f"output_dir={tmp_path}",
        "name=relations",
    ]
    result = CliRunner().invoke(app, ["train", "--config", str(tiny_world.config), *settings])
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "relations" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "loss/kl" in record]
    for name in ("loss/attention_relations", "loss/attention_distributions"):
        assert 0 < records[-1][name] < 0.7 * records[0][name]
