"""`init-student --vocabulary`: a student with a part of its teacher's vocabulary, and its price."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from byte_level import byte_level_tokenizer
from refusals import invoke
from tiny_experiments import WORDS, bert, documents, save, word_tokenizer
from tiny_families import tiny_masked_lm
from tiny_models import word_tokenizer as whole_words
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from distilcli.models.families import size_mib
from distilcli.models.loading import load_masked_lm

NUM_TOKENS = len(word_tokenizer())
MADE_OF_LETTERS = 5 + 27 + 26  # special tokens, a letter or full stop alone or within a word


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return save(bert(), tmp_path_factory.mktemp("teacher") / "bert")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Words with one consonant only, in a compressed file of rows and one of lines."""
    folder = tmp_path_factory.mktemp("text")
    lines = [line for line in documents() if line.startswith("b")]
    with gzip.open(folder / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": line}) + "\n" for line in lines)
    (folder / "lines.txt").write_text("ku ku\nku\n", encoding="utf-8")
    return folder


def made(teacher: Path, output: Path, *options: str) -> dict:
    given = ["--teacher", str(teacher), "--output", str(output), *options, "--json"]
    result = invoke("init-student", *given)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("layers", [[], ["--num-layers", "4"]], ids=["half", "all layers"])
def test_the_student_is_that_of_the_whole_vocabulary_with_fewer_rows(teacher, tmp_path, layers):
    whole = made(teacher, tmp_path / "whole", *layers)
    found = made(teacher, tmp_path / "part", *layers, "--vocabulary", "80")
    assert whole["vocabulary"] is None
    assert found["layers"] == whole["layers"]
    tokenizers = [AutoTokenizer.from_pretrained(tmp_path / name) for name in ("whole", "part")]
    models = [AutoModelForMaskedLM.from_pretrained(tmp_path / name) for name in ("whole", "part")]
    assert len(tokenizers[1]) == models[1].config.vocab_size == 80
    text = " ".join(word for word in WORDS if word in tokenizers[1].get_vocab())
    inputs = [tokenizer(text, return_tensors="pt") for tokenizer in tokenizers]
    with torch.no_grad():
        one, other = (
            model(**given, output_hidden_states=True).hidden_states[-1]
            for model, given in zip(models, inputs, strict=True)
        )
    assert one.shape[1] > 20
    assert torch.equal(one, other)
    assert [cost["tokens"] for cost in found["vocabulary"]["costs"] if cost["is_chosen"]] == [80]
    [guess, *_] = pipeline("fill-mask", model=str(tmp_path / "part"))("ba [MASK] bi zu bo .")
    assert guess["token"] < 80


def test_the_costs_are_those_of_the_models_and_of_the_text(teacher, text, tmp_path):
    files = [str(text / "rows.jsonl.gz"), str(text / "lin*.txt")]
    options = [word for file in files for word in ("--text", file)]
    found = made(teacher, tmp_path / "part", "--vocabulary", "62", *options)
    costs = found["vocabulary"].pop("costs")
    assert [cost["tokens"] for cost in costs] == [NUM_TOKENS, 62]
    made(teacher, tmp_path / "whole")
    for name, cost in zip(["whole", "part"], costs, strict=True):
        megabytes = size_mib(load_masked_lm(str(tmp_path / name))) * 2**20 / 1e6
        assert cost["megabytes"] == pytest.approx(megabytes)
        assert cost["unknown_share"] == 0.0
    rows = gzip.decompress((text / "rows.jsonl.gz").read_bytes()).splitlines()
    lines = [json.loads(row)["text"] for row in rows]
    lines += ["ku ku", "ku"]
    num_words = sum(len(line.split()) for line in lines)
    told = {"tokens": 62, "counted_in": files, "counted_words": num_words, "min_count": 1}
    assert found["vocabulary"] == told
    for cost, folder in zip(costs, ("whole", "part"), strict=True):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
        pieces = sum(len(tokenizer.tokenize(line)) for line in lines)
        assert cost["pieces_per_word"] == pytest.approx(pieces / num_words)
    # Four of the words that occur: the most frequent ones.
    kept = set(AutoTokenizer.from_pretrained(tmp_path / "part").get_vocab()) & set(WORDS)
    words = " ".join(lines).split()
    often = sorted({*words} - {"."}, key=words.count)
    assert kept == set(often[-4:])


def test_all_that_occurs_often_enough_is_kept_without_a_number(teacher, text, tmp_path):
    options = ["--text", str(text / "lines.txt")]
    made(teacher, tmp_path / "once", *options, "--min-count", "3")
    made(teacher, tmp_path / "never", *options, "--min-count", "4")
    once, never = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("once", "never"))
    assert set(once.get_vocab()) - set(never.get_vocab()) == {"ku"}
    assert len(never) == MADE_OF_LETTERS


def test_people_are_told_how_pieces_were_chosen(teacher, text, tmp_path):
    def shown(name: str, *options: str) -> str:
        given = ["--teacher", str(teacher), "--output", str(tmp_path / name), *options]
        result = invoke("init-student", *given)
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())

    alone = shown("a", "--vocabulary", "80")
    assert "80 (chosen)" in alone
    assert "pieces were kept in the order of the tokenizer, not by how often they occur" in alone
    assert "pieces a word" not in alone
    counted = shown("b", "--vocabulary", "80", "--text", str(text / "lines.txt"))
    assert "pieces were counted in 3 words of" in counted
    assert "59 (chosen)" in counted
    assert "no more than 59 tokens occur that often, or always stay" in counted
    assert "1.000" in counted
    assert f"all {NUM_TOKENS} tokens of the vocabulary are kept" in shown(
        "c", "--vocabulary", "999"
    )
    assert "vocabulary" not in shown("d")


def test_a_student_of_another_family_and_tokenizer(tmp_path):
    """Bytes and merges, and positions that begin after padding."""
    tokenizer = byte_level_tokenizer()
    model = tiny_masked_lm("roberta", vocab_size=len(tokenizer) + 6)
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    made(tmp_path / "teacher", tmp_path / "student", "--vocabulary", "270")
    student = pipeline("fill-mask", model=str(tmp_path / "student"))
    assert student.model.config.vocab_size == len(student.tokenizer) == 270
    assert student.model.config.pad_token_id == student.tokenizer.pad_token_id
    text = "b\u00e9 \u4f60 zu"
    assert student.tokenizer.decode(student.tokenizer(text)["input_ids"][1:-1]) == text
    assert student("ba <mask>")[0]["token"] < 270


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            ["--vocabulary", "57"],
            "--vocabulary 57: the special tokens and single characters of the tokenizer of",
            f"Set --vocabulary to {MADE_OF_LETTERS} or more.",
        ),
        (["--min-count", "3"], "--min-count can only be used with --text", "Name text to count in"),
        (
            ["--vocabulary", "80", "--text", "nowhere*.txt"],
            "--text: nowhere*.txt matches no file",
            "Relative paths are relative to the working directory.",
        ),
        (["--text", "FOLDER/picture.png"], "--text: ", "Name it .txt, .jsonl, .csv, .tsv or"),
        (["--text", "FOLDER/empty.txt"], "--text: there is no text in these files", "Name files"),
        (["--text", "FOLDER/other.jsonl"], "no column 'text'", "Name the columns as the file"),
        (["student.vocabulary.keep=80"], "overrides can only be used", "Give --vocabulary 80"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(teacher, tmp_path, options, message, hint):
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "picture.png").write_text("x")
    (tmp_path / "other.jsonl").write_text('{"body": "ba"}\n')
    options = [option.replace("FOLDER", str(tmp_path)) for option in options]
    output = tmp_path / "student"
    result = invoke("init-student", "--teacher", str(teacher), "--output", str(output), *options)
    assert result.exit_code == 2
    error, hinted = result.stderr.splitlines()[-2:]
    assert message in error
    assert "student." not in error.replace("student.vocabulary.keep=80", "")
    assert hinted.startswith(hint)
    assert not output.exists()


@pytest.mark.parametrize(
    "options", [["--vocabulary", "80"], ["--text", "a.txt"], ["--min-count", "2"]]
)
def test_an_experiment_has_settings_for_it(options):
    result = invoke("init-student", "--config", "any.yaml", *options)
    assert result.exit_code == 2
    assert f"{options[0]} can only be used with --teacher, not with --config" in result.stderr


def test_a_vocabulary_of_whole_words_is_refused(tmp_path):
    tokenizer = whole_words()
    save(bert(vocab_size=len(tokenizer)), tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    given = ["--teacher", str(tmp_path / "model"), "--output", str(tmp_path / "student")]
    result = invoke("init-student", *given, "--vocabulary", "50")
    assert result.exit_code == 2
    assert "is a WordLevel: what is removed from its vocabulary would be unknown" in result.stderr
    assert not (tmp_path / "student").exists()
