"""Folders of models that are not what they say: one clear error, and nothing is run."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_models import edit_json, refused, rename_weights
from safetensors.torch import load_file, save_file
from tiny_models import make_bert
from transformers import BertForSequenceClassification

from distilcli.errors import ModelError
from distilcli.hub import model_files
from distilcli.models import loading, students
from distilcli.models.weights import read_weights
from distilcli.text.tokenizers import load_tokenizer

# config.json

CONFIGS = {
    "hidden_act": ("foo", "'foo' is no activation of transformers"),
    "vocab_size": (0, "vocab_size is 0, not a whole number from 1"),
    "hidden_size": (-32, "hidden_size is -32, not a whole number from 1"),
    "num_hidden_layers": (10**6, "config.json says 1,000,000 layers, but its weights are of 4"),
    "num_attention_heads": (5, "5 attention heads do not divide a width of 32"),
    "max_position_embeddings": (10**9, "but config.json makes it [1000000000, 32]"),
    "type_vocab_size": (10**9, "but config.json makes it [1000000000, 32]"),
    "intermediate_size": (10**9, "but config.json makes it [1000000000, 32]"),
    "num_labels": (10**9, "num_labels is 1000000000, not a whole number from 1 to 1,048,576"),
    "pad_token_id": (10**9, "pad_token_id 1000000000 is not one of 97 tokens"),
    "layer_norm_eps": ("tiny", "config.json is not valid"),
    "hidden_dropout_prob": (7, "cannot be loaded"),
    "initializer_range": (-1, "initializer_range is -1, not a number from 0"),
    "architectures": (5, "architectures is not a list of names"),
    "id2label": ([1], "id2label is not an object"),
    "tie_word_embeddings": ("yes", "tie_word_embeddings is not true or false"),
    "model_type": (["bert"], "its model_type is ['bert'], not bert, distilbert, "),
    "finetuning_task": ("\ud83d", "config.json is not valid (half a surrogate pair"),
    "quantization_config": ({"quant_method": "gptq"}, "its weights are quantized"),
}


@pytest.mark.parametrize("key", CONFIGS)
def test_a_wrong_value_in_the_config(saved, key):
    value, words = CONFIGS[key]
    edit_json(saved / "config.json", **{key: value})
    assert words in refused(saved).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "its config.json is not valid (nested too deeply)"),
        (b'{"a":' * 100_000, "its config.json is not valid (nested too deeply)"),
        (b"[]", "its config.json is not valid (it is not a JSON object)"),
        (b"", "its config.json is not valid (Expecting value"),
        (b'{"model_type": "b\xe9rt"}', "its config.json is not valid (byte 18 is not UTF-8)"),
        (b'{"model_type": "bert", "hidden_size": NaN}', "NaN is no number of JSON"),
        (b'{"model_type": "bert", "hidden_size": 1' + b"0" * 9_999 + b"}", "is not valid (Exceeds"),
    ],
    ids=[
        "deep",
        "deep objects",
        "a list",
        "empty",
        "not UTF-8",
        "NaN",
        "a long number",
    ],
)
def test_a_config_that_is_no_config(saved, content, words):
    (saved / "config.json").write_bytes(content)
    assert words in refused(saved).message
    with pytest.raises(ModelError, match=r"config.json is not valid"):
        load_tokenizer(str(saved))


def test_a_config_without_a_kind_says_what_to_add(saved):
    config = json.loads((saved / "config.json").read_text())
    del config["model_type"]
    (saved / "config.json").write_text(json.dumps(config))
    error = refused(saved)
    assert error.message.endswith("its config.json has no model_type")
    assert 'add "model_type": "bert"' in error.hint


def test_what_a_config_says_of_how_to_run_it_is_not_heeded(saved, teacher, ids):
    settings = {"_attn_implementation": "flash_attention_9", "attn_implementation": "foo"}
    settings |= {"dtype": "float17", "torch_dtype": 3, "transformers_weights": "../other.bin"}
    settings |= {"return_dict": False, "torchscript": True, "output_hidden_states": True}
    settings |= {"auto_map": {"AutoModel": "evil.Model"}, "fusion_config": {"a": 1}}
    edit_json(saved / "config.json", **settings)
    model = loading.load_masked_lm(str(saved))
    assert torch.equal(model(input_ids=ids).logits, teacher(ids).logits)
    assert model(input_ids=ids).hidden_states is None


def test_unreadable_files_are_named(saved, monkeypatch):
    """Permissions do not stop root, so they are played here."""
    read_bytes = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "config.json":
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert refused(saved).message.endswith(": config.json cannot be read (Permission denied)")


def test_a_folder_whose_name_is_not_utf8(saved):
    folder = saved.with_name(os.fsdecode(b"t\xe9acher"))
    saved.rename(folder)
    for load in (loading.load_masked_lm, load_tokenizer):
        with pytest.raises(ModelError, match="a name in this path is not UTF-8") as caught:
            load(str(folder))
        assert caught.value.hint == "Rename the folder."


# Weights


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_names_of_wrappers_are_taken_off(saved, teacher, ids, prefix):
    rename_weights(saved, lambda name: prefix + name)
    assert torch.equal(
        loading.load_masked_lm(str(saved))(input_ids=ids).logits, teacher(ids).logits
    )


def test_names_of_wrappers_of_layers_are_taken_off(saved, teacher, ids):
    """As they are where layers were compiled one by one."""
    rename_weights(saved, lambda name: name.replace("layer.1.", "layer.1._orig_mod."))
    assert torch.equal(
        loading.load_masked_lm(str(saved))(input_ids=ids).logits, teacher(ids).logits
    )


def test_one_weight_under_two_names_is_refused(saved):
    weights = load_file(saved / "model.safetensors")
    name = "bert.embeddings.LayerNorm.weight"
    weights[f"module.{name}"] = weights[name] + 1
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert refused(saved).message.endswith(f"{name} is in its weights twice")


def test_an_untied_head_with_one_bias_is_whole(tmp_path, ids):
    """transformers 4 has one tensor for both names of the bias, and saves it once."""
    whole = make_bert(tie_word_embeddings=False)
    with torch.no_grad():
        whole.cls.predictions.bias.copy_(whole.cls.predictions.decoder.bias)
    whole.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["cls.predictions.decoder.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = loading.load_masked_lm(str(tmp_path))
    assert torch.equal(model(input_ids=ids).logits, whole(ids).logits)
    student = students.copy_layers(model, [0, 1, 2, 3])
    logits = student(input_ids=ids).logits
    torch.testing.assert_close(logits, whole(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_missing_shard_is_named(in_shards):
    last = sorted(in_shards.glob("*-of-*"))[-1]
    last.unlink()
    error = refused(in_shards)
    assert error.message.endswith(f"{last.name}, a part of its weights, is missing")
    (in_shards / last.name).symlink_to("nowhere")
    assert f"{last.name} is a link to a file that is not there" in refused(in_shards).message


def test_shards_without_their_index(in_shards):
    (in_shards / "model.safetensors.index.json").unlink()
    error = refused(in_shards)
    assert "model-00001-of-" in error.message
    assert error.message.endswith("which names all parts, is missing")


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


INDEXES = {
    "empty": (b"", "index.json is not valid (Expecting value"),
    "not JSON": (b"weights", "index.json is not valid (Expecting value"),
    "a list": (b"[]", "index.json is not valid (it is not a JSON object)"),
    "deep": (b'{"a":' * 100_000, "index.json is not valid (nested too deeply)"),
    "nothing": (b"{}", "has no weight_map of names"),
    "no names": (b'{"weight_map": 5}', "has no weight_map of names"),
    "numbers": (b'{"weight_map": {"a": 5}}', "names 5, which is no safetensors file beside it"),
    "a pickle": (b'{"weight_map": {"a": "evil.bin"}}', "names 'evil.bin', which is no safetensors"),
    "outside": (
        b'{"weight_map": {"a": "../evil.safetensors"}}',
        "names '../evil.safetensors', which is no safetensors file beside it",
    ),
    "a pickle in other clothes": (
        b'{"weight_map": {"a": "evil.safetensors"}}',
        "evil.safetensors is damaged",
    ),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_leads_to_safetensors_beside_it_or_nowhere(in_shards, kind):
    """No pickle is ever read, whatever it is called and wherever it lies."""
    content, words = INDEXES[kind]
    touched = in_shards.parent / "touched"
    for name in ("evil.bin", "evil.safetensors", "../evil.safetensors", "pytorch_model.bin"):
        (in_shards / name).write_bytes(pickle.dumps(Touch(touched)))
    (in_shards / "model.safetensors.index.json").write_bytes(content)
    assert words in refused(in_shards).message
    assert not touched.exists()


def test_files_that_transformers_would_follow_are_left_alone(saved, teacher, ids):
    """An adapter names another model; the metadata of a distributed checkpoint is a pickle."""
    adapter = {"base_model_name_or_path": "someone/else", "peft_type": "LORA", "r": 1}
    (saved / "adapter_config.json").write_text(json.dumps(adapter))
    touched = saved.parent / "touched"
    for name in (".metadata", "pytorch_model.bin", "training_args.bin"):
        (saved / name).write_bytes(pickle.dumps(Touch(touched)))
    assert torch.equal(
        loading.load_masked_lm(str(saved))(input_ids=ids).logits, teacher(ids).logits
    )
    assert not touched.exists()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantized_weights_are_refused(saved, dtype):
    weights = load_file(saved / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    weights[name] = weights[name].to(dtype)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    error = refused(saved)
    assert f"{name} is of {dtype}: these weights are quantized" in error.message


def test_weights_of_another_kind_of_model(saved):
    rename_weights(saved, lambda name: f"model.language.{name.replace('embeddings', 'wte')}")
    error = refused(saved)
    assert (
        "no word embeddings among its weights (found, for example, model.language." in error.message
    )


def test_weights_do_not_change_with_their_file(saved):
    """They are copied: a file that is cut short while it is mapped ends the process."""
    weights = read_weights(model_files.model_files(str(saved), None, "teacher"))
    before = {name: tensor.clone() for name, tensor in weights.items()}
    size = (saved / "model.safetensors").stat().st_size
    with (saved / "model.safetensors").open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\0" * (size - size // 2))
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_a_head_of_a_task_is_read_the_same_way(tmp_path, ids):
    from distilcli.models.loading import load_weights, read_config

    whole = make_bert(BertForSequenceClassification, num_labels=3)
    whole.save_pretrained(tmp_path)
    rename_weights(tmp_path, lambda name: f"module.{name}")
    config = read_config(str(tmp_path), None, "teacher")
    model, missing = load_weights(
        BertForSequenceClassification, config, str(tmp_path), None, torch.float32, "teacher"
    )
    assert missing == set()
    assert torch.equal(model(input_ids=ids).logits, whole(input_ids=ids).logits)
