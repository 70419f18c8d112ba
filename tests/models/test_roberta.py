"""What RoBERTa's positions after padding refuse, and the names that its checkpoints have."""

import json

import pytest
import torch
from byte_level import byte_level_tokenizer
from family_worlds import NUM_POSITIONS, write_family_world
from safetensors.torch import load_file
from tiny_experiments import TinyWorld, run
from transformers import RobertaForMaskedLM

from distilcli.models.families import FAMILIES
from distilcli.models.loading import load_masked_lm


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> TinyWorld:
    """Text, a RoBERTa with its tokenizer, and an experiment."""
    return write_family_world("roberta", tmp_path_factory.mktemp("roberta"))


def test_a_checkpoint_of_transformers_4_with_one_bias_is_whole(world, tmp_path):
    """There the bias of the head has one name, `lm_head.bias`."""
    model = RobertaForMaskedLM.from_pretrained(world.teacher)
    model.save_pretrained(tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert [name for name in found if name in FAMILIES["roberta"].vocabulary_head.biases] == [
        "lm_head.bias"
    ]
    loaded = load_masked_lm(str(tmp_path))
    assert loaded.lm_head.decoder.bias is loaded.lm_head.bias
    assert torch.equal(loaded.lm_head.bias, model.lm_head.bias)


def test_more_tokens_than_there_are_positions_are_refused(world, tmp_path):
    """In config.json there are two more, which are before the first token."""
    for length, code in ((NUM_POSITIONS, 0), (NUM_POSITIONS + 1, 2)):
        settings = [f"data.max_length={length}", f"data.store={tmp_path / str(length)}"]
        finished = run("init-student", "--config", str(world.config), *settings, f"name=s{length}")
        assert finished.code == code, finished.stderr
    assert f"data.max_length {length} is over the {NUM_POSITIONS} positions" in finished.stderr


def test_a_tokenizer_with_another_padding_is_refused(world, tmp_path):
    """Positions begin after padding: they would be others than the model was trained with."""
    model = RobertaForMaskedLM.from_pretrained(world.teacher)
    model.config.pad_token_id = 3
    model.save_pretrained(tmp_path / "model")
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    given = ["--teacher", str(tmp_path / "model"), "--output", str(tmp_path / "student")]
    finished = run("init-student", *given)
    assert finished.code == 2
    assert "its pad_token_id is 3, but <pad> of the tokenizer" in finished.stderr
    assert not (tmp_path / "student").exists()


def test_no_padding_and_no_room_for_a_token_are_refused(world, tmp_path):
    model = RobertaForMaskedLM.from_pretrained(world.teacher)
    model.save_pretrained(tmp_path / "model")
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    whole = json.loads(path.read_text())
    for changes, message in (
        ({"pad_token_id": None}, "pad_token_id is missing, and positions begin after it"),
        ({"max_position_embeddings": 2}, "max_position_embeddings is 2, and positions begin after"),
    ):
        path.write_text(json.dumps(whole | changes))
        given = ["--teacher", str(path.parent), "--output", str(tmp_path / "student")]
        finished = run("init-student", *given)
        assert finished.code == 2, finished.stderr
        assert message in finished.stderr
