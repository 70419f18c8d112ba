"""Runs whose terms look inside the models: projections that are learned, and parts that are not.

The student is narrower than its teacher, so that each term has a projection of its own.
"""

from pathlib import Path

import gradient_worker
import pytest
import torch
from accelerate.state import AcceleratorState
from disturbed_runs import assert_same_end, command, finish, kill_at, run_folder
from safetensors.torch import load_file, save_file
from tiny_experiments import (
    TinyWorld,
    bert,
    relative_difference,
    save,
    start_function,
    word_tokenizer,
)

from distilcli.config.reading import load_masked_lm_experiment
from distilcli.training import checkpoints
from distilcli.training.processes import make_accelerator

TERMS = ("hidden_cosine", "hidden_states", "embeddings")
WEIGHTS = [
    "loss.hidden_cosine.weight=0.5",
    "loss.hidden_states.weight=1",
    "loss.embeddings.weight=1",
]
# Then no layer after the first is trained, and no head.
LOW_ALONE = [
    "loss.soft_targets.weight=0",
    "loss.masked_lm.weight=0",
    "loss.hidden_cosine.weight=0",
    "loss.hidden_states.weight=1",
    "loss.hidden_states.layers=[1, null]",
]


@pytest.fixture(scope="module")
def narrow(tiny_world, tmp_path_factory) -> list[str]:
    """The settings of a student of half the teacher's width."""
    folder = save(bert(hidden_size=16, num_hidden_layers=2), tmp_path_factory.mktemp("narrow"))
    word_tokenizer().save_pretrained(folder)
    return ["student.kind=checkpoint", f"student.model={folder}"]


@pytest.mark.slow
def test_a_killed_run_ends_as_if_nothing_had_happened(tiny_world, narrow, tmp_path):
    """Projections and their moments are in checkpoints, to the last bit; the student has none."""
    finish(command(tiny_world, tmp_path / "undisturbed", *narrow, *WEIGHTS))
    arguments = command(tiny_world, tmp_path, *narrow, *WEIGHTS)
    kill_at(10, tmp_path, *arguments)
    finish([*arguments, "--resume"])
    assert_same_end(tmp_path, tmp_path / "undisturbed")

    root = run_folder(tmp_path)
    newest = checkpoints.load_latest(root / "checkpoints", pytest.fail)
    found = newest.tensors("projections")
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        f"{term}.weight": (32, 16) for term in TERMS
    }
    moments = newest.tensors("optimizer")
    assert all(f"projections.{name}.exp_avg" in moments for name in found)
    earlier = checkpoints.load(root / "checkpoints" / "step-00000020").tensors("projections")
    assert not any(torch.equal(found[name], earlier[name]) for name in found)
    student = load_file(root / "student" / "model.safetensors")
    assert not [name for name in student if "projection" in name]
    assert student.keys() == load_file(root / "initial-student" / "model.safetensors").keys()


def work(folder: str, config: str, *overrides: str) -> None:
    """One rank of a step: its gradient, and whether it holds the weights of the others."""
    experiment = load_masked_lm_experiment(Path(config), overrides)
    accelerator = make_accelerator(experiment)
    stepper = gradient_worker.make_stepper(experiment, accelerator)
    gradient = gradient_worker.gradient_of_step(stepper, 0)
    save_file(gradient, Path(folder) / f"gradient-{accelerator.process_index}.safetensors")
    stepper.close()
    accelerator.end_training()


def gradients_of_two(folder: Path, world: TinyWorld, settings: list[str]) -> list[dict]:
    arguments = [str(folder), str(world.config), *settings, f"output_dir={folder}"]
    finished = start_function(work, arguments, num_processes=2).wait()
    assert finished.code == 0, finished.stderr
    return [load_file(folder / f"gradient-{rank}.safetensors") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("terms", [WEIGHTS, LOW_ALONE], ids=["all terms", "the first layer alone"])
def test_two_processes_have_the_gradient_of_one(tiny_world, narrow, tmp_path, terms):
    """Parameters without a gradient, for which they would wait, are frozen on both."""
    finish(["prepare", "--config", str(tiny_world.config)])
    settings = [*narrow, *terms, "student.dropout=0", "student.attention_dropout=0"]
    settings += ["train.global_batch_size=32", "optim.max_grad_norm=1e9"]
    experiment = load_masked_lm_experiment(
        tiny_world.config,
        [*settings, f"output_dir={tmp_path}", "train.tokens_per_micro_batch=9999"],
    )
    stepper = gradient_worker.make_stepper(experiment, make_accelerator(experiment))
    expected = gradient_worker.gradient_of_step(stepper, 0)
    AcceleratorState._reset_state(reset_partial_state=True)
    projections = {name for name in expected if name.startswith("projections.")}
    wanted = TERMS if terms is WEIGHTS else ("hidden_states",)
    assert projections == {f"projections.{term}.weight" for term in wanted}
    trains_last = any(".layer.1." in name for name in expected)
    assert trains_last == (terms is WEIGHTS)
    for found in gradients_of_two(tmp_path, tiny_world, settings):
        assert found.keys() == expected.keys()
        assert relative_difference(found, expected) < 1e-5
