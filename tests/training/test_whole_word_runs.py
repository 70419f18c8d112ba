"""Masking of whole words through the commands: what is trained on, resumed and refused."""

import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from tiny_experiments import SPECIALS, TinyWorld, bert, documents, metrics, save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from distilcli.cli.app import app

WHOLE = "masking.whole_words=true"


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def spelled(tmp_path_factory) -> Path:
    """Text with words that are spelled letter by letter."""
    path = tmp_path_factory.mktemp("text") / "spelled.txt"
    lines = (line.replace(" ", " xqx ", 2) for line in documents(150))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def invoke(command: str, world: TinyWorld, *arguments: str) -> Result:
    result = CliRunner().invoke(app, [command, "--config", str(world.config), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.slow
def test_words_are_trained_on_and_held_out_text_is_masked_as_ever(tiny_world, spelled, tmp_path):
    source = f"data.sources=[{{files: ['{spelled}'], documents: line}}]"
    settings = [source, f"data.store={tmp_path / 'store'}", f"output_dir={tmp_path}"]
    settings += ["train.max_steps=2", "validation.every=0"]
    losses, teachers = [], []
    for name, masking in (("tokens", []), ("words", [WHOLE])):
        options = [*settings, *masking, f"name={name}"]
        assert invoke("train", tiny_world, *options).exit_code == 0
        losses.append([record["loss/mlm"] for record in metrics(tmp_path / name)])
        dry = invoke("train", tiny_world, *options, "name=other", "--dry-run", "--json")
        assert dry.exit_code == 0, dry.stderr
        teachers.append(json.loads(dry.stdout)["teacher_loss"])
    assert len(losses[0]) == 2
    assert all(one != other for one, other in zip(*losses, strict=True))
    assert teachers[0] == teachers[1] is not None
    changed = invoke("train", tiny_world, *settings, "name=words", "--resume")
    assert changed.exit_code == 2
    assert "these keys differ: masking.whole_words" in changed.stderr
    assert invoke("train", tiny_world, *settings, WHOLE, "name=words", "--resume").exit_code == 0


@pytest.fixture(scope="module")
def unmarked(tmp_path_factory) -> Path:
    """A teacher whose tokenizer marks neither spaces nor the insides of words."""
    pieces = {
        piece: index for index, piece in enumerate([*SPECIALS, *"abcdefghijklmnopqrstuvwxyz."])
    }
    backend = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    folder = save(bert(vocab_size=len(pieces)), tmp_path_factory.mktemp("models") / "unmarked")
    (folder / "vocab.txt").unlink(missing_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, **dict(zip(names, SPECIALS, strict=True))
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_a_vocabulary_that_does_not_tell_words_is_refused_at_once(
    tiny_world, unmarked, tmp_path, command
):
    settings = [f"teacher.model={unmarked}", f"data.store={tmp_path / 'out' / 'store'}"]
    result = invoke(command, tiny_world, *settings, f"output_dir={tmp_path / 'out'}", WHOLE)
    assert result.exit_code == 2
    words = f"masking.whole_words: the vocabulary of {unmarked} does not tell where words begin"
    assert words in result.stderr
    assert "Leave masking.whole_words out" in result.stderr
    assert not (tmp_path / "out" / "store").exists()
    assert not list((tmp_path / "out").glob("*/*"))
