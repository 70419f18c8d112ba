"""Models that are a body alone: loaded as they are, copied, trimmed and saved, in every family."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_experiments import bert, word_tokenizer
from tiny_families import LAYERS, POSITIONS, VOCAB, fitting, tiny_masked_lm
from torch import Tensor
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel

from distilcli.config.models import CheckpointStudent, CopiedStudent, RandomStudent
from distilcli.errors import ModelError
from distilcli.models.copying import copy_layers
from distilcli.models.families import FAMILIES, family_of, is_encoder, is_masked_lm
from distilcli.models.loading import load_masked_lm
from distilcli.models.saving import save_verified
from distilcli.models.students import build_student
from distilcli.models.vocabulary import bytes_of_a_token, trim_vocabulary
from distilcli.text.trimming import choose_pieces, trim_tokenizer

each_family = pytest.mark.parametrize("family", FAMILIES)


def sentence_encoder(family: str, folder: Path) -> Path:
    """What AutoModel saves, pooler included, of a model with a masked-LM head."""
    whole = tiny_masked_lm(family)
    model = MODEL_MAPPING[type(whole.config)](whole.config)
    model.load_state_dict(whole.base_model.state_dict(), strict=False)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def states(model: PreTrainedModel) -> Tensor:
    ids = torch.arange(6, VOCAB)[None, :POSITIONS]
    return model.eval()(input_ids=ids)[0]


@each_family
def test_a_body_alone_is_loaded_where_no_head_is_needed(family, tmp_path):
    folder = sentence_encoder(family, tmp_path / "encoder")
    model = load_masked_lm(str(folder), needs_head=False)
    assert is_encoder(model)
    assert not is_masked_lm(model)
    assert type(model) is MODEL_MAPPING[type(model.config)]
    torch.testing.assert_close(states(model), states(AutoModel.from_pretrained(folder)))
    with pytest.raises(ModelError, match="it has no masked-LM head"):
        load_masked_lm(str(folder))


@each_family
def test_a_head_that_is_there_is_kept(family, tmp_path):
    tiny_masked_lm(family).save_pretrained(tmp_path)
    assert is_masked_lm(load_masked_lm(str(tmp_path), needs_head=False))


def test_a_damaged_body_is_refused_with_and_without_a_head(tmp_path):
    folder = sentence_encoder("bert", tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match="weights of its body are missing"):
        load_masked_lm(str(folder), needs_head=False)


@each_family
@pytest.mark.parametrize("architecture", ["auto", "same"])
def test_a_copy_of_all_layers_computes_the_same(family, architecture, tmp_path):
    folder = sentence_encoder(family, tmp_path / "encoder")
    source = load_masked_lm(str(folder), needs_head=False)
    whole = copy_layers(source, list(range(LAYERS)), architecture)
    assert is_encoder(whole)
    torch.testing.assert_close(states(whole), states(source), rtol=1e-4, atol=1e-5)
    of_head = load_masked_lm(str(tiny_saved(family, tmp_path)))
    assert family_of(whole) is family_of(copy_layers(of_head, list(range(LAYERS)), architecture))


def tiny_saved(family: str, folder: Path) -> Path:
    tiny_masked_lm(family).save_pretrained(folder / "whole")
    return folder / "whole"


@each_family
def test_a_copied_student_is_a_plain_encoder(family, tmp_path):
    folder = sentence_encoder(family, tmp_path / "encoder")
    source = load_masked_lm(str(folder), needs_head=False)
    student = copy_layers(source, fitting(source, [0, 2]))
    save_verified(student, word_tokenizer(), tmp_path / "student")
    loaded, info = AutoModel.from_pretrained(tmp_path / "student", output_loading_info=True)
    # A pooler is part of a head; families whose AutoModel has one make a new one.
    assert {name for name in info["missing_keys"] if not name.startswith("pooler.")} == set()
    assert not info["unexpected_keys"]
    torch.testing.assert_close(states(loaded), states(student))
    again = load_masked_lm(str(tmp_path / "student"), needs_head=False)
    torch.testing.assert_close(states(again), states(student), rtol=0, atol=0)


def test_students_of_all_kinds_have_no_head(tmp_path):
    folder = sentence_encoder("bert", tmp_path / "encoder")
    teacher = load_masked_lm(str(folder), needs_head=False)
    for section in (
        CopiedStudent(),
        CopiedStudent(source=str(folder)),
        CheckpointStudent(model=str(folder)),
        RandomStudent(),
    ):
        assert is_encoder(build_student(section, teacher, 0, needs_head=False))
    random = [build_student(RandomStudent(), teacher, seed, False) for seed in (1, 1, 2)]
    weights = [states(model) for model in random]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    asked = CheckpointStudent(model=str(folder), new_head=True)
    assert is_masked_lm(build_student(asked, teacher, 0, needs_head=False))


def test_a_part_of_the_vocabulary_is_kept_without_a_head():
    model = load_body()
    tokenizer = word_tokenizer()
    kept = choose_pieces(tokenizer, np.arange(len(tokenizer)), keep=80, min_count=1)
    smaller = trim_vocabulary(model, kept, trim_tokenizer(tokenizer, kept))
    assert is_encoder(smaller)
    new = torch.arange(5, 30)[None]
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(kept)[new])[0]
        torch.testing.assert_close(smaller(input_ids=new)[0], expected, rtol=0, atol=0)
    width = model.config.hidden_size
    assert bytes_of_a_token(model) == 4 * width


def load_body() -> PreTrainedModel:
    return bert().base_model.eval()
