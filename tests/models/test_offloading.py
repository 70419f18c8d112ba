"""A teacher in host memory teaches what it teaches anywhere."""

from copy import deepcopy

import pytest
import torch
from tiny_experiments import metrics, run, weights

from distilcli.models.copying import copy_layers
from distilcli.models.families import encoder_layers
from distilcli.models.placement import offload_layers


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_only_the_layers_are_elsewhere(tiny_bert, architecture):
    model = tiny_bert(num_layers=3)
    if architecture == "distilbert":
        model = copy_layers(model, [0, 2])
    original = deepcopy(model)
    offload_layers(model.requires_grad_(False), torch.device("cpu"))
    inside = {id(p) for layer in encoder_layers(model) for p in layer.parameters()}
    assert inside
    for _ in range(2):  # and again once they were used
        assert all(p.is_meta == (id(p) in inside) for p in model.parameters())
        ids = torch.arange(8)[None]
        assert torch.equal(model(input_ids=ids).logits, original(input_ids=ids).logits)
        inside = {id(p) for layer in encoder_layers(model) for p in layer.parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_run_is_the_same(tiny_world, tmp_path, num_processes):
    for folder, offload in (("here", "false"), ("elsewhere", "true")):
        finished = run(
            *("train", "--config", str(tiny_world.config), f"output_dir={tmp_path / folder}"),
            *("train.max_steps=6", f"teacher.offload={offload}"),
            num_processes=num_processes,
        )
        assert finished.code == 0, finished.stderr
    here, elsewhere = (tmp_path / folder / "tiny" for folder in ("here", "elsewhere"))
    assert weights(elsewhere) == weights(here)
    assert metrics(elsewhere) == metrics(here)


@pytest.mark.slow
def test_a_dry_run_and_a_compiled_student_go_with_it(tiny_world, tmp_path):
    """Compiled layers draw dropout's numbers otherwise, so it is off."""
    arguments = ("train", "--config", str(tiny_world.config), f"output_dir={tmp_path}", "--json")
    arguments += ("--dry-run", "student.dropout=0", "student.attention_dropout=0")
    plain = run(*arguments)
    offloaded = run(*arguments, "teacher.offload=true", "train.compile=true")
    assert offloaded.code == 0, offloaded.stderr
    assert offloaded.json["teacher_loss"] == plain.json["teacher_loss"]
    assert offloaded.json["losses"] == pytest.approx(plain.json["losses"], rel=1e-4)
