"""Loading refuses what is not whole, saving is all or nothing, and the parts make the model."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kill_points import kill_points
from safetensors.torch import load_file, save_file
from tiny_models import VOCAB, make_bert, word_tokenizer
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    BertLMHeadModel,
    BertModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from distilcli import __version__
from distilcli.errors import ModelError, RunFolderError
from distilcli.files import marks
from distilcli.files.atomic import recover
from distilcli.models import families, loading, saving, students


@pytest.fixture(scope="module")
def teacher() -> BertForMaskedLM:
    return make_bert()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, VOCAB, (3, 17), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path, teacher: BertForMaskedLM) -> Path:
    teacher.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# Loading


def test_load_gives_the_asked_dtype_and_eval_mode(saved):
    model = loading.load_masked_lm(str(saved), dtype=torch.bfloat16)
    assert model.dtype is torch.bfloat16
    assert not model.training


def test_load_reads_a_pretraining_checkpoint_and_says_nothing(tmp_path, capfd):
    whole = make_bert(BertForPreTraining)
    whole.save_pretrained(tmp_path)
    capfd.readouterr()
    model = loading.load_masked_lm(str(tmp_path))
    assert capfd.readouterr() == ("", "")
    name = "cls.predictions.transform.dense.weight"
    assert torch.equal(model.get_parameter(name), whole.get_parameter(name))


def test_load_unties_what_the_checkpoint_does_not_tie(tmp_path, capfd):
    make_bert(tie_word_embeddings=False).save_pretrained(tmp_path)
    edit_config(tmp_path, tie_word_embeddings=True)
    capfd.readouterr()
    model = loading.load_masked_lm(str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert model.config.tie_word_embeddings is False
    assert model.cls.predictions.decoder.bias.requires_grad


def test_load_reads_a_checkpoint_in_shards(teacher, tmp_path, ids):
    teacher.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    model = loading.load_masked_lm(str(tmp_path))
    assert torch.equal(model(ids).logits, teacher(ids).logits)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _without_layer(folder: Path) -> None:
    edit_weights(folder, lambda w: w.pop("bert.encoder.layer.2.output.dense.weight"))


def _without_head(folder: Path) -> None:
    make_bert(BertModel).save_pretrained(folder)


def _with_half_a_head(folder: Path) -> None:
    edit_weights(folder, lambda w: w.pop("cls.predictions.transform.dense.weight"))


def _decoder_model(folder: Path) -> None:
    make_bert(BertLMHeadModel, is_decoder=True).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_config, "it has no config.json"),
        (lambda f: edit_config(f, model_type="fnet"), "model_type is fnet, not bert, distilbert"),
        (lambda f: edit_config(f, hidden_size="wide"), "config.json is not valid"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read|not valid"),
        (lambda f: edit_config(f, position_embedding_type="relative_key"), "absolute positions"),
        (lambda f: edit_config(f, vocab_size=98), r"is \[97, 32\], but config.json makes it \[98"),
        (
            lambda f: edit_config(f, num_hidden_layers=3),
            "does not account for bert.encoder.layer.3",
        ),
        (lambda f: edit_config(f, num_hidden_layers=5), "16 weights of its body are missing"),
        (_without_layer, "1 weights of its body are missing, bert.encoder.layer.2.output.dense"),
        (_without_head, "it has no masked-LM head"),
        (_with_half_a_head, "part of its masked-LM head is missing"),
        (_decoder_model, r"is a decoder \(is_decoder\)"),
        (lambda f: edit_config(f, is_causal=True), r"is a decoder \(is_causal\)"),
        (_pickled, "its weights are pickled"),
        (_truncated, "model.safetensors is damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    ],
)
def test_load_refuses_in_one_line(saved, damage, message, capfd):
    damage(saved)
    capfd.readouterr()
    with pytest.raises(ModelError, match=message) as caught:
        loading.load_masked_lm(str(saved), role="teacher")
    assert caught.value.message.startswith(f"teacher {saved}: ")
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "builtin:nothing", "a/b/c"])
def test_load_refuses_a_missing_folder(name):
    with pytest.raises(ModelError, match=f"student {name}: no such folder"):
        loading.load_masked_lm(name, role="student")


def test_load_says_when_the_hub_cannot_be_reached(monkeypatch):
    def offline(*arguments: object, **options: object) -> None:
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr(loading.PreTrainedConfig, "get_config_dict", offline)
    with pytest.raises(ModelError, match="hub") as caught:
        loading.load_masked_lm("someone/some-bert")
    assert "\n" not in caught.value.message
    assert "network" in caught.value.hint


# Saving


def test_fill_mask_pipeline_runs_on_a_saved_student(teacher, tokenizer, tmp_path):
    student = students.copy_layers(teacher, [0, 2])
    saving.save_model(student, tokenizer, tmp_path / "student")
    fill = pipeline("fill-mask", model=str(tmp_path / "student"), device="cpu")
    assert len(fill("w1 [MASK] w3", top_k=3)) == 3


def test_save_replaces_the_old_model_and_leaves_nothing_else(teacher, tokenizer, tmp_path):
    folder = tmp_path / "runs" / "student"
    for layers in ([0], [0, 1]):
        student = students.copy_layers(teacher, layers)
        saving.save_model(student, tokenizer, folder)
        saving.verify_saved(student, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["student"]


@pytest.mark.parametrize("failing", ["tokenizer", "rename"])
def test_a_failed_save_leaves_the_old_model(failing, teacher, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "student"
    old = students.copy_layers(teacher, [0])
    saving.save_model(old, tokenizer, folder)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("disk full")

    rename = os.rename
    if failing == "tokenizer":
        monkeypatch.setattr(type(tokenizer), "save_pretrained", fail)
    else:
        monkeypatch.setattr(
            os, "rename", lambda path, to: fail() if path.name == "new" else rename(path, to)
        )
    with pytest.raises(ModelError, match="disk full"):
        saving.save_model(students.copy_layers(teacher, [1]), tokenizer, folder)
    monkeypatch.undo()
    saving.verify_saved(old, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_no_kill_while_a_model_is_replaced_loses_it(teacher, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "student"
    old, new = (students.copy_layers(teacher, layers) for layers in ([0], [1]))
    weights = {}
    for name, model in (("old", old), ("new", new)):
        saving.save_model(model, tokenizer, folder)
        weights[name] = (folder / "model.safetensors").read_bytes()
    seen = set()
    for _ in kill_points(
        lambda: saving.save_model(new, tokenizer, folder),
        lambda: saving.save_model(old, tokenizer, folder),
        monkeypatch,
    ):
        recover(folder)
        marks.refuse_foreign(folder)  # its mark still says what is in it
        [found] = [
            name
            for name, content in weights.items()
            if (folder / "model.safetensors").read_bytes() == content
        ]
        seen.add(found)
        assert [path.name for path in tmp_path.iterdir()] == ["student"]
    assert seen == {"old", "new"}


def test_a_student_has_the_permissions_of_any_file_and_says_who_wrote_it(
    teacher, tokenizer, tmp_path
):
    saving.save_model(students.copy_layers(teacher, [0]), tokenizer, tmp_path / "student")
    (tmp_path / "any").touch()
    files = list((tmp_path / "student").iterdir())
    assert {path.stat().st_mode for path in files} == {(tmp_path / "any").stat().st_mode}
    mark = json.loads((tmp_path / "student" / "distilcli.json").read_text())
    assert (mark["distilcli"], mark["kind"]) == (__version__, "student")
    assert set(mark["files"]) == {path.name for path in files} - {"distilcli.json"}


def test_a_tokenizer_is_written_without_the_padding_of_its_file(teacher, tokenizer, tmp_path):
    tokenizer.backend_tokenizer.enable_padding(length=128)
    tokenizer.backend_tokenizer.enable_truncation(128)
    saving.save_model(students.copy_layers(teacher, [0]), tokenizer, tmp_path / "student")
    written = json.loads((tmp_path / "student" / "tokenizer.json").read_text(encoding="utf-8"))
    assert written["padding"] is None
    assert written["truncation"] is None


def test_a_folder_with_anything_else_in_it_is_not_replaced(teacher, tokenizer, tmp_path):
    folder = tmp_path / "student"
    model = students.copy_layers(teacher, [0])
    saving.save_model(model, tokenizer, folder)
    (folder / "thesis").mkdir()
    (folder / "config.json").write_text("{}")
    for path in ("notes.txt", "onnx/model.onnx", "link"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    before = sorted(folder.rglob("*"))
    with pytest.raises(RunFolderError) as error:
        saving.save_model(model, tokenizer, folder)
    assert error.value.message == (
        f"{folder}: not replaced, because it holds what distilcli did not write: "
        "config.json (changed since), link, notes.txt, onnx/model.onnx, thesis/"
    )
    assert error.value.hint == "Move that elsewhere, or name another folder."
    assert sorted(folder.rglob("*")) == before


def test_verify_saved_finds_a_changed_weight(teacher, tokenizer, tmp_path):
    student = students.copy_layers(teacher, [0])
    saving.save_model(student, tokenizer, tmp_path / "student")
    with torch.no_grad():
        student.vocab_projector.bias[3] += 1e-3
    with pytest.raises(ModelError, match=r"differ.*vocab_projector.bias"):
        saving.verify_saved(student, tmp_path / "student")


# Accessors and checks


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_accessors_compose_to_the_model(kind, teacher, ids):
    model = teacher if kind == "bert" else students.copy_layers(teacher, [0, 3])
    with torch.inference_mode():
        hidden = families.encoder(model)(input_ids=ids).last_hidden_state
        features = families.head_features(model, hidden.flatten(0, 1))
        logits = families.decoder(model)(features).view(*ids.shape, -1)
        torch.testing.assert_close(logits, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_sizes_count_tied_weights_once(teacher):
    student = students.copy_layers(teacher, [0, 1])
    by_hand = sum(
        weight.numel()
        for name, weight in student.state_dict().items()
        if name != "vocab_projector.weight"
    )
    assert families.num_parameters(student) == by_hand
    assert families.size_mib(student) == by_hand * 4 / 2**20
