"""Tokenizer, model and text must fit together, whichever command brings them together."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from tiny_experiments import bert, documents, save, word_tokenizer
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from transformers import (
    BertForSequenceClassification,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner, Result

from distilcli.cli.app import app
from distilcli.corpus.store import TokenStore
from distilcli.errors import DataError, ModelError
from distilcli.models.copying import copy_layers
from distilcli.models.saving import save_model
from distilcli.text import tokenizer_checks
from distilcli.text.tokenizers import load_tokenizer


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


# Token types


@pytest.mark.parametrize("is_bert", [True, False])
@pytest.mark.parametrize("names", [["input_ids"], ["input_ids", "token_type_ids"]])
def test_a_saved_tokenizer_gives_what_its_model_takes(tmp_path, is_bert, names):
    """In transformers 4 a DistilBERT with token types is a TypeError."""
    tokenizer = word_tokenizer()
    tokenizer.model_input_names = names
    model = bert() if is_bert else copy_layers(bert(), [0, 2])
    save_model(model, tokenizer, tmp_path / "student")
    tree = json.loads((tmp_path / "student" / "tokenizer_config.json").read_text())
    types = ["token_type_ids"] if is_bert else []
    assert tree["model_input_names"] == ["input_ids", *types, "attention_mask"]
    given = load_tokenizer(str(tmp_path / "student"))("ba be")
    assert list(given) == ["input_ids", *types, "attention_mask"]
    assert tokenizer.model_input_names == names  # that of the run is as it was


def test_a_students_tokenizer_of_a_task_gives_no_token_types(tmp_path):
    """Neither does that of a distilled classifier."""
    teacher = BertForSequenceClassification(bert().config)
    student = DistilBertForSequenceClassification(copy_layers(bert(), [0, 2]).config)
    for model, types in ((teacher, ["token_type_ids"]), (student, [])):
        save_model(model, pair_tokenizer(), tmp_path / type(model).__name__)
        path = tmp_path / type(model).__name__ / "tokenizer_config.json"
        names = json.loads(path.read_text())["model_input_names"]
        assert names == ["input_ids", *types, "attention_mask"]


# Special tokens


def with_tokens(**tokens: str) -> PreTrainedTokenizerFast:
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    names |= {"sep_token": "[SEP]", "mask_token": "[MASK]"}
    backend = word_tokenizer().backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(names | tokens))


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ({"mask_token": "[UNK]"}, "its mask_token '[UNK]' is its unk_token, too"),
        ({"mask_token": "[SEP]"}, "its mask_token '[SEP]' is its sep_token, too"),
        ({"mask_token": "[PAD]"}, "its mask_token '[PAD]' is its pad_token, too"),
        ({"mask_token": "ba"}, "its mask_token 'ba' is one that ordinary text may hold"),
        ({"mask_token": "."}, "its mask_token '.' is one that ordinary text may hold"),
        ({"mask_token": "##a"}, "its mask_token '##a' is one that ordinary text may hold"),
        ({"mask_token": None}, "its tokenizer has no mask_token"),
    ],
)
def test_a_mask_that_is_something_else_is_refused_by_all(tmp_path, tiny_world, tokens, words):
    save(bert(), tmp_path / "model")
    with_tokens(**tokens).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=re.escape(words)):
        load_tokenizer(str(tmp_path / "model"))
    out = tmp_path / "out"
    model = str(tmp_path / "model")
    for command in (
        ["init-student", "--teacher", model, "--output", str(out)],
        *(
            [
                name,
                "--config",
                str(tiny_world.config),
                f"output_dir={out}",
                f"teacher.model={model}",
            ]
            for name in ("init-student", "train", "prepare")
        ),
    ):
        result = invoke(*command)
        assert result.exit_code == 2
        assert words in result.stderr
        assert not out.exists()


@pytest.mark.parametrize("mask", ["<mask>", "[mask]", "<|MASK|>", "{{M}}"])
def test_other_names_of_the_mask_are_fine(mask):
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"mask_token": mask})
    tokenizer_checks.check_special_tokens(tokenizer, "model")


@pytest.fixture
def unfit(tmp_path) -> Path:
    """A model without an embedding for [MASK], which is the last of its tokenizer's tokens."""
    model = save(bert(vocab_size=len(word_tokenizer())), tmp_path / "model")
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "[mask]"})
    tokenizer.save_pretrained(model)
    return model


def test_a_model_without_an_embedding_for_the_mask(unfit, tiny_world, tmp_path):
    number = len(word_tokenizer())
    words = f"its vocabulary has {number} tokens, but [mask] of the tokenizer of {unfit} has the id"
    out = tmp_path / "out"
    store = f"data.store={tmp_path / 'store'}"
    for command in (
        ["init-student", "--teacher", str(unfit), "--output", str(out)],
        ["init-student", "--config", str(tiny_world.config), f"teacher.model={unfit}"],
        ["train", "--config", str(tiny_world.config), f"teacher.model={unfit}", store],
    ):
        result = invoke(*command, *([f"output_dir={out}"] if "--config" in command else []))
        assert result.exit_code == 2, result.stderr
        assert f"{words} {number}" in result.stderr
        assert "Use the tokenizer that was saved with the model." in result.stderr
        assert not (out / "tiny" / "student").exists()
        assert not (out / "tiny" / "initial-student").exists()
        assert not (out / "model.safetensors").exists()


def test_a_model_of_a_task_without_an_embedding_for_the_mask(unfit, tasks, tmp_path):
    config = tasks.write_config(
        tmp_path / "a.yaml",
        "regression",
        output_dir=str(tmp_path / "out"),
        student={"kind": "copied", "source": str(unfit), "num_layers": 2},
    )
    result = invoke("train", "--config", str(config))
    assert result.exit_code == 2
    assert "the student: its vocabulary has " in result.stderr
    assert "but [mask] of the tokenizer of" in result.stderr


def test_any_token_needs_an_embedding():
    tokenizer = word_tokenizer()
    size = len(tokenizer)
    tokenizer_checks.check_tokens(tokenizer, size, "model")
    tokenizer.add_tokens(["<url>"])
    with pytest.raises(ModelError, match=f"but <url> of the tokenizer of .* has the id {size}"):
        tokenizer_checks.check_tokens(tokenizer, size, "model")
    tokenizer_checks.check_tokens(tokenizer, size + 1, "model")


# Unknown tokens


def test_the_share_of_unknown_tokens_is_of_the_text_alone():
    tokenizer = word_tokenizer()
    ids = [2, 1, 50, 51, 52, 3, 0, 0, 2, 1, 50, 51, 52, 3]  # two of eight
    assert tokenizer_checks.unknown_share(np.bincount(ids), tokenizer) == 0.25
    assert tokenizer_checks.unknown_share(np.bincount([2, 3]), tokenizer) == 0.0
    tokenizer.unk_token = None
    assert tokenizer_checks.unknown_share(np.bincount(ids), tokenizer) == 0.0


@pytest.mark.parametrize(("share", "warns", "refuses"), [(0.03, 0, 0), (0.031, 1, 0), (0.51, 1, 1)])
def test_a_few_unknown_tokens_are_nothing_many_a_warning_most_an_error(share, warns, refuses):
    tokenizer = word_tokenizer()
    warning = tokenizer_checks.unknown_warning(share, tokenizer)
    assert bool(warning) == bool(warns)
    if warns:
        assert warning.startswith(f"{share:.1%} of the tokens are unknown ([UNK])")
    if refuses:
        with pytest.raises(DataError, match=r"51.0% of the tokens are unknown"):
            tokenizer_checks.refuse_unknown(share, tokenizer)
    else:
        tokenizer_checks.refuse_unknown(share, tokenizer)


def foreign_text(tmp_path: Path, share: float) -> Path:
    """Documents of which every so many words have a letter that the tokenizer does not know."""
    path = tmp_path / "foreign.txt"
    lines = []
    for number, line in enumerate(documents(60)):
        words = line.split()
        for place in range(len(words)):
            if (number * 7 + place * 3) % 10 < share * 10:
                words[place] = "\u0434\u0430"
        lines.append(" ".join(words) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_unknown_text_is_seen_in_prepare_and_train_and_the_dry_run(tiny_world, tmp_path, share):
    text = foreign_text(tmp_path, share)
    source = f"data.sources=[{{files: ['{text}'], documents: line}}]"
    settings = [f"output_dir={tmp_path}", f"data.store={tmp_path / 'store'}", source]
    settings += ["train.max_steps=2", "validation.every=0", "data.held_out_fraction=0"]
    prepared = invoke("prepare", "--config", str(tiny_world.config), *settings)
    assert prepared.exit_code == 0, prepared.stderr
    store = TokenStore.open(tmp_path / "store")
    found = store.manifest.unknown_share
    assert found == pytest.approx(share, abs=0.1)
    assert f"{found:.2%}" in prepared.stdout
    warning = f"{tmp_path / 'store'}: {found:.1%} of the tokens are unknown ([UNK]): the tokenizer"
    assert warning in prepared.stderr
    dry = invoke("train", "--config", str(tiny_world.config), *settings, "--dry-run")
    assert warning in dry.stderr
    assert dry.exit_code == (2 if share > 0.5 else 0), dry.stderr
    if share > 0.5:
        assert f"error: {found:.1%} of the tokens are unknown" in dry.stderr
        assert "do_lower_case" in dry.stderr
        return
    trained = invoke("train", "--config", str(tiny_world.config), *settings)
    assert trained.exit_code == 0, trained.stderr
    assert warning in trained.stderr


def test_known_text_warns_of_nothing(tiny_world, tmp_path):
    prepared = invoke("prepare", "--config", str(tiny_world.config), "--json")
    assert json.loads(prepared.stdout)["unknown_share"] == 0.0
    assert "unknown" not in prepared.stderr


@pytest.mark.parametrize("split", ["train", "dev"])
def test_unknown_rows_of_a_task(tasks, tmp_path, split):
    path = tmp_path / "foreign.csv"
    path.write_text("text,label\n" + "\u0434\u0430 \u043d\u0435\u0442 ba,0.5\n\u0434\u0430,1\n" * 9)
    task = tasks.task("regression") | {split: {"files": [str(path)]}}
    config = tasks.write_config(
        tmp_path / "a.yaml", "regression", output_dir=str(tmp_path / "out"), task=task
    )
    prepared = invoke("prepare", "--config", str(config), "--json")
    assert prepared.exit_code == 0, prepared.stderr
    record = json.loads(prepared.stdout)
    assert record["unknown_share"][split] == pytest.approx(0.75)
    other = {"train": "dev", "dev": "train"}[split]
    assert record["unknown_share"][other] == 0.0
    warning = f"task.{split}: 75.0% of the tokens are unknown ([UNK])"
    assert [found for found in record["warnings"] if found.startswith(warning)]
    dry = invoke("train", "--config", str(config), "--dry-run")
    assert dry.exit_code == 2
    assert "error: 75.0% of the tokens are unknown" in dry.stderr


# Held-out text


def test_a_file_is_not_held_out_from_itself(tiny_world, tmp_path):
    link = tmp_path / "link.txt"
    link.symlink_to(tiny_world.text)
    held_out = f"data.held_out_sources=[{{files: ['{link}'], documents: line}}]"
    settings = [f"output_dir={tmp_path}", f"data.store={tmp_path / 'store'}", held_out]
    for command in ("prepare", "train"):
        result = invoke(command, "--config", str(tiny_world.config), *settings)
        assert result.exit_code == 2
        assert f"data.held_out_sources: {link} is in data.sources, too" in result.stderr
        assert "data.held_out_fraction" in result.stderr
        assert not (tmp_path / "store").exists()
        assert not (tmp_path / "tiny").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 20, 400])
def test_documents_that_are_held_out_and_trained_on_are_counted(tiny_world, tmp_path, number):
    """All of them, and no others: refused. Some: a warning."""
    lines = tiny_world.text.read_text(encoding="utf-8").splitlines()
    fresh = documents(30, seed=9) if number < 400 else []
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("".join(f"  {line} \n" for line in [*lines[:number], *fresh]))
    source = f"data.held_out_sources=[{{files: ['{held_out}'], documents: line}}]"
    settings = [f"output_dir={tmp_path}", f"data.store={tmp_path / 'store'}", source]
    settings += ["train.max_steps=1"]
    result = invoke("prepare", "--config", str(tiny_world.config), *settings)
    if number == 400:
        assert result.exit_code == 2
        assert "data.held_out_sources: the same documents as data.sources" in result.stderr
        assert not (tmp_path / "store").exists()
        return
    assert result.exit_code == 0, result.stderr
    shared = len([line for line in [*lines[:number], *fresh] if line in set(lines)])
    assert TokenStore.open(tmp_path / "store").manifest.held_out_in_train == shared
    warning = f"{shared} of the {number + 30} documents of data.held_out_sources"
    trained = invoke("train", "--config", str(tiny_world.config), *settings)
    for found in (result, trained):
        assert (warning in found.stderr) == (shared > 0), found.stderr
