"""Tokenizers without a tokenizer.json: made fast when they are loaded, or refused."""

import json
import re
from pathlib import Path
from unicodedata import normalize

import pytest
from every_tokenizer import AWKWARD, roberta, wordpiece
from tiny_experiments import bert, save
from tokenizers import Tokenizer
from transformers import BertJapaneseTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.errors import ModelError
from distilcli.text import tokenizer_files
from distilcli.text.tokenizers import load_tokenizer, tokenizer_fingerprint

ROOT = Path(__file__).parents[2]


def folder_of(
    path: Path, model_type: str, files: dict[str, str], **tokenizer_config: object
) -> str:
    """A model's folder with these files of a tokenizer, and its configuration if it has one."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if tokenizer_config:
        (path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    for name, content in files.items():
        (path / name).write_text(content, encoding="utf-8")
    return str(path)


def vocab_txt(lowercase: bool = True) -> str:
    vocabulary = wordpiece(lowercase=lowercase).get_vocab()
    return "".join(f"{piece}\n" for piece in sorted(vocabulary, key=vocabulary.__getitem__))


def byte_level_files() -> dict[str, str]:
    model = json.loads(roberta().backend_tokenizer.to_str())["model"]
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    return {"vocab.json": json.dumps(model["vocab"]), "merges.txt": f"#version: 0.2\n{merges}"}


def assert_saved_as_it_is(tokenizer, folder: Path) -> None:
    """What is saved beside a student has a tokenizer.json, and is the same tokenizer."""
    tokenizer.save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()
    assert tokenizer_fingerprint(load_tokenizer(str(folder))) == tokenizer_fingerprint(tokenizer)


@pytest.mark.parametrize("model_type", ["bert", "electra", "ernie", "distilbert"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocabulary_of_wordpieces_alone(tmp_path, model_type, lowercase):
    """The tokens are those of the slow tokenizer that BERT had."""
    config = {} if lowercase else {"do_lower_case": False}
    folder = folder_of(tmp_path / "m", model_type, {"vocab.txt": vocab_txt(lowercase)}, **config)
    tokenizer = load_tokenizer(folder)
    slow = BertTokenizerLegacy(f"{folder}/vocab.txt", do_lower_case=lowercase)
    for text in AWKWARD:
        text = normalize("NFC", text)  # as only the slow one does where accents are kept
        assert tokenizer(text)["input_ids"] == slow(text)["input_ids"], text
    assert_saved_as_it_is(tokenizer, Path(folder))


def test_a_vocabulary_of_bytes_with_its_merges(tmp_path):
    folder = folder_of(tmp_path / "m", "roberta", byte_level_files())
    tokenizer = load_tokenizer(folder)
    whole: Tokenizer = roberta().backend_tokenizer
    for text in AWKWARD:
        if "<mask>" not in text:  # which has the spaces before it in the one of the helper
            assert (
                tokenizer(text, add_special_tokens=False)["input_ids"]
                == whole.encode(text, add_special_tokens=False).ids
            )
    assert_saved_as_it_is(tokenizer, Path(folder))


SENTENCE_PIECE = {"sentencepiece.bpe.model": "binary"}


@pytest.mark.parametrize(
    ("model_type", "files", "config", "words"),
    [
        ("bert", {}, {}, "it has no tokenizer (none of tokenizer.json, vocab.txt, vocab.json with"),
        ("modernbert", {}, {"cls_token": "[CLS]"}, "it has no tokenizer (none of"),
        ("roberta", {"vocab.json": "{}"}, {}, "its tokenizer has vocab.json, but no merges.txt"),
        ("roberta", {"merges.txt": "a b"}, {}, "its tokenizer has merges.txt, but no vocab.json"),
        (
            "roberta",
            {"vocab.txt": "a\nb\n"},
            {},
            "its tokenizer is a RobertaTokenizer, which reads merges.txt and vocab.json; there is "
            "vocab.txt",
        ),
        (
            "bert",
            {"vocab.json": '{"a": 0}', "merges.txt": ""},
            {},
            "its tokenizer is a BertTokenizer, which reads vocab.txt; there is vocab.json, merges",
        ),
        (
            "bert",
            {"vocab.txt": "a\nb\n"},
            {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic"},
            "its tokenizer, a BertJapaneseTokenizer, is Python code without a fast form",
        ),
        (
            "bert",
            {"vocab.txt": "a\nb\n"},
            {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"},
            "its tokenizer, a BertJapaneseTokenizer, is Python code without a fast form",
        ),
        (
            "roberta",
            {"vocab.txt": "a 1\nb 2\n", "bpe.codes": "a b 3\n"},
            {"tokenizer_class": "PhobertTokenizer"},
            "its tokenizer, a PhobertTokenizer, is Python code without a fast form",
        ),
        ("flaubert", byte_level_files(), {}, "its tokenizer, a FlaubertTokenizer, is Python code"),
        (
            "bert",
            {"vocab.txt": "a\nb\n"},
            {"auto_map": {"AutoTokenizer": ["code.Mine", None]}, "tokenizer_class": "Mine"},
            "its tokenizer cannot be loaded",
        ),
    ],
)
def test_files_of_which_no_fast_tokenizer_is_made(tmp_path, model_type, files, config, words):
    folder = folder_of(tmp_path / "m", model_type, files, **config)
    with pytest.raises(ModelError, match=re.escape(f"{folder}: {words}")) as caught:
        load_tokenizer(folder)
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize("lacking", [["sentencepiece"], ["google.protobuf"], ["google"]])
def test_a_sentencepiece_model_without_its_package(tmp_path, monkeypatch, lacking):
    """The message says what to install, and how to convert it for good."""

    def find(package: str) -> object:
        if package.partition(".")[0] in lacking and "." in package:
            raise ModuleNotFoundError(package)
        return None if package in lacking else object()

    monkeypatch.setattr(tokenizer_files, "find_spec", find)
    folder = folder_of(tmp_path / "m", "xlm-roberta", SENTENCE_PIECE)
    with pytest.raises(ModelError, match="its tokenizer is a SentencePiece model") as caught:
        load_tokenizer(folder)
    assert "(sentencepiece.bpe.model), which cannot be read without" in caught.value.message
    assert "pip install sentencepiece protobuf" in caught.value.hint
    command = f"AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')"
    assert command in caught.value.hint


def test_every_command_refuses_them(tmp_path, tiny_world):
    """With exit code 2, before anything is written."""
    model = save(bert(), tmp_path / "model")
    for file in model.glob("*token*"):
        file.unlink()
    out = tmp_path / "out"
    settings = [f"teacher.model={model}", f"output_dir={out}", f"data.store={out / 'store'}"]
    commands = [["init-student", "--teacher", str(model), "--output", str(out)]]
    for name in ("prepare", "train"):
        commands.append([name, "--config", str(tiny_world.config), *settings])
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, result.stderr
        assert f"error: {model}: it has no tokenizer" in result.stderr
        assert not list(out.rglob("*.json"))


def test_the_docs_convert_a_japanese_bert(tmp_path, monkeypatch):
    """Its tokens of text with spaces between words are those of the original's words."""
    monkeypatch.chdir(tmp_path)
    config = {"tokenizer_class": "BertJapaneseTokenizer"}
    folder = folder_of(
        tmp_path / "my-japanese-bert", "bert", {"vocab.txt": vocab_txt(False)}, **config
    )
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    section = page.partition("### A tokenizer that is Python code")[2]
    [converting, _] = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    exec(compile(converting, "families.md", "exec"), {})
    tokenizer = load_tokenizer(folder)
    # Words of MeCab are cut off by spaces here: no dictionary of it is needed.
    original = BertJapaneseTokenizer(
        f"{folder}/vocab.txt", do_lower_case=False, word_tokenizer_type="basic"
    )
    for text in (text for text in AWKWARD if "[MASK]" not in text):
        text = normalize("NFKC", text)  # which MeCab is given
        spaced = " ".join(original.word_tokenizer.tokenize(text))
        assert tokenizer(spaced)["input_ids"] == original(text)["input_ids"], text
