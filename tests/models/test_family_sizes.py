"""Families whose embeddings have another width than their hidden states, or a table more."""

import json
from pathlib import Path

import pytest
import torch
from head_models import experiment_of, task_of
from tiny_families import HIDDEN, LAYERS, tiny_config, tiny_masked_lm, with_weights
from transformers import AutoModelForMaskedLM, ElectraForPreTraining, PreTrainedModel

from distilcli.errors import ModelError
from distilcli.models.copying import copy_layers
from distilcli.models.families import FAMILIES
from distilcli.models.loading import load_masked_lm
from distilcli.models.task_models import build_task_student

IDS = torch.randint(5, 60, (2, 11), generator=torch.Generator().manual_seed(0))


def saved(model: PreTrainedModel, folder: Path, **changes: object) -> Path:
    """A folder of the model, whose config.json then says something else."""
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("width", [8, HIDDEN])
def test_embeddings_are_projected_only_where_they_are_narrower(width, tmp_path):
    source = tiny_masked_lm("electra", embedding_size=width)
    student = copy_layers(source, list(range(LAYERS)))
    assert hasattr(student.electra, "embeddings_project") == (width != HIDDEN)
    assert student.generator_lm_head.weight.shape[1] == student.config.embedding_size == width
    assert student.generator_lm_head.weight is student.electra.embeddings.word_embeddings.weight
    assert torch.equal(logits(student), logits(source))
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForMaskedLM.from_pretrained(tmp_path)), logits(source))


@pytest.mark.parametrize("folder", ["electra", "ernie"])
def test_a_model_of_transformers_is_loaded_whole(folder, tmp_path):
    source = tiny_masked_lm(folder)
    assert torch.equal(logits(load_masked_lm(str(saved(source, tmp_path)))), logits(source))


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("electra", {"embedding_size": 9}, "is [40, 8], but config.json makes it [40, 9]"),
        ("electra", {"embedding_size": 10**9}, "but config.json makes it [40, 1000000000]"),
        ("electra", {"embedding_size": 0}, "embedding_size is 0, not a whole number from 1"),
        ("electra", {"hidden_size": 8}, "is [24, 16], but config.json makes it [24, 8]"),
        ("ernie", {"task_type_vocab_size": 10**9}, "but config.json makes it [1000000000, 16]"),
        ("ernie", {"task_type_vocab_size": -1}, "task_type_vocab_size is -1, not a whole number"),
        # transformers would leave the embedding out, and compute something else.
        ("ernie", {"use_task_id": False}, "is [3, 16], but config.json makes it [0, 16]"),
    ],
)
def test_a_wrong_size_is_refused(family, changes, words, tmp_path):
    folder = saved(tiny_masked_lm(family), tmp_path, **changes)
    with pytest.raises(ModelError) as refusal:
        load_masked_lm(str(folder))
    assert words in refusal.value.message


def test_a_table_that_is_missing_is_refused(tmp_path):
    folder = saved(tiny_masked_lm("ernie", use_task_id=False), tmp_path, use_task_id=True)
    with pytest.raises(ModelError, match=r"1 weights of its body are missing, .*task_type"):
        load_masked_lm(str(folder))


def test_a_student_keeps_what_its_source_adds_to_every_token():
    source = tiny_masked_lm("ernie", task_type_vocab_size=5, type_vocab_size=4)
    student = copy_layers(source, [1])
    assert (student.config.use_task_id, student.config.task_type_vocab_size) == (True, 5)
    table = student.ernie.embeddings.task_type_embeddings.weight
    assert torch.equal(table, source.ernie.embeddings.task_type_embeddings.weight)
    assert student.config.type_vocab_size == 4


# A discriminator


@pytest.fixture
def discriminator(tmp_path) -> str:
    config = tiny_config(FAMILIES["electra"])
    return str(saved(with_weights(ElectraForPreTraining, config), tmp_path / "discriminator"))


def test_a_discriminator_cannot_be_a_masked_lm_teacher(discriminator):
    with pytest.raises(ModelError, match="it has no masked-LM head") as refusal:
        load_masked_lm(discriminator)
    assert "Use a checkpoint of class ElectraForMaskedLM." in refusal.value.hint
    assert "take its generator, or teach it a task (`task:`)" in refusal.value.hint


@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_a_discriminator_serves_tasks(discriminator, head):
    student = {"kind": "checkpoint", "model": discriminator}
    experiment = experiment_of(student)
    model = build_task_student(experiment, task_of(head), None)
    assert type(model) is FAMILIES["electra"].task_heads[head].model_class
    body = ElectraForPreTraining.from_pretrained(discriminator).electra.state_dict()
    assert body.keys() == model.electra.state_dict().keys()
    assert all(torch.equal(body[name], w) for name, w in model.electra.state_dict().items())
