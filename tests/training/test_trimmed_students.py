"""A student with a part of its teacher's vocabulary, through all commands.

The teacher knows 40 words; the student keeps some and spells the others, which the teacher reads as
they are.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from disturbed_runs import finish, kill_at, run_folder
from family_tokenizers import tokenizer_of
from family_worlds import write_family_world
from tiny_experiments import (
    WORDS,
    Finished,
    bert,
    documents,
    metrics,
    run,
    save,
    weights,
    word_tokenizer,
)
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from distilcli.corpus.store import TokenStore

KEEP = 75  # of 100, of which 58 are special tokens and single letters
TRAIN = ["train.max_steps=6", "train.save_every=2", "validation.every=3"]


def command(name: str, world, folder: Path, *more: str) -> list[str]:
    places = [f"output_dir={folder}", f"data.store={folder}/store"]
    says_how = any(word.startswith("student") for word in more)
    kept = [] if says_how else [f"student.vocabulary.keep={KEEP}"]
    return [name, "--config", str(world.config), *places, *kept, *more]


@pytest.fixture(scope="module")
def folder(tiny_world, tmp_path_factory) -> Path:
    """What `train` alone leaves: two stores and a run."""
    folder = tmp_path_factory.mktemp("trimmed")
    finish(command("train", tiny_world, folder, *TRAIN))
    return folder


def paired_store(folder: Path) -> TokenStore:
    [path] = folder.glob(f"store-{KEEP}-*")
    return TokenStore.open(path, by_content=True)


def test_the_student_is_an_ordinary_model_of_its_own_vocabulary(folder):
    student = folder / "tiny" / "student"
    model = AutoModelForMaskedLM.from_pretrained(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    assert model.config.vocab_size == len(tokenizer) == KEEP
    assert pipeline("fill-mask", model=str(student))("ba [MASK] be .")[0]["token_str"]
    kept = set(WORDS) & set(tokenizer.get_vocab())
    assert 0 < len(kept) < len(WORDS)


def text_of(tokenizer, ids: np.ndarray) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(ids)).replace(" ##", "")


def test_both_read_the_same_text(folder, tiny_world):
    store = paired_store(folder)
    student = AutoTokenizer.from_pretrained(folder / "tiny" / "student")
    spelled = 0
    for index in range(len(store.train)):
        ids = store.train.tokens(index)
        theirs, places = store.train.teacher(index)
        assert text_of(student, ids) == text_of(word_tokenizer(), theirs)
        spelled += int((places < 0).sum())
    assert spelled, "a case that shows nothing"


def test_the_loss_goes_down_and_is_told_by_characters(folder, tiny_world):
    found = finish(command("eval", tiny_world, folder, "--json", "--no-speed")).json["models"]
    teacher, at_start, trained = found.values()
    losses = [model["scores"]["loss_per_character"] for model in (teacher, at_start, trained)]
    assert losses[0] < losses[1]
    assert losses[2] < losses[1]
    assert teacher["scores"]["agreement"] is None
    assert trained["retained"] is None  # shares of right tokens are of other tokens
    assert 0.0 < trained["scores"]["agreement"] <= 1.0
    assert trained["scores"]["kl"] < at_start["scores"]["kl"]
    table = finish(command("eval", tiny_world, folder, "--no-speed")).stdout
    assert "loss a character" in table


def test_as_many_tokens_are_less_text(folder, tiny_world):
    table = finish(command("eval", tiny_world, folder)).stdout
    assert "as many tokens are less text for a model with a smaller vocabulary" in table


def test_a_student_that_reads_other_tokens_is_refused(folder, tiny_world):
    """It has an embedding for every id of the part, and would take them for its own."""
    student = str(folder / "tiny" / "student")
    finished = run(*command("eval", tiny_world, folder), student, str(tiny_world.teacher))
    assert finished.code == 2
    assert f"{tiny_world.teacher}: its tokenizer is another than that of" in finished.stderr
    assert f"cut down to {KEEP} tokens" in finished.stderr


def test_text_of_ones_own_is_read_by_each_in_its_tokens(folder, tiny_world, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = tmp_path / "own.txt"
    text.write_text("".join(f"{line}\n" for line in documents(30, seed=9)))
    arguments = ["--text", str(text), "--documents", "line", "--json", "--no-speed"]
    found = finish(command("eval", tiny_world, folder, *arguments)).json["models"]
    teacher, _, trained = found.values()
    assert teacher["scores"]["num_masked"] < trained["scores"]["num_masked"]
    assert teacher["scores"]["loss_per_character"] < trained["scores"]["loss_per_character"]
    assert trained["scores"]["agreement"] is None


def test_prepare_says_what_is_kept(folder, tiny_world):
    finished = finish(command("prepare", tiny_world, folder))
    assert f"{KEEP} of 100 pieces are kept" in finished.stdout
    train = paired_store(folder).train
    places = np.concatenate([train.teacher(index)[1][1:-1] for index in range(len(train))])
    share = (places >= 0).mean()
    assert f"{share:.1%} of the tokens to train on are the teacher's, too" in finished.stdout
    assert "already prepared" in finished.stderr


def test_the_vocabulary_may_be_what_the_text_has(folder, tiny_world, tmp_path):
    """All occurs in it but the rare word, and a full stop within a word."""
    finished = finish(
        [
            *("init-student", "--config", str(tiny_world.config), f"output_dir={tmp_path}"),
            *(f"data.store={folder}/store", "student.vocabulary={corpus: true, min_count: 1}"),
            "--json",
        ]
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny" / "initial-student")
    assert len(tokenizer) == 98
    assert finished.json["parameters"]["student"] < finished.json["parameters"]["teacher"]
    costs = {cost["tokens"]: cost for cost in finished.json["vocabulary"]["costs"]}
    assert costs[98]["is_chosen"]
    assert costs[100]["pieces_per_word"] == costs[98]["pieces_per_word"] < 1.1


def test_before_the_text_is_counted_a_dry_run_says_so(tiny_world, tmp_path):
    finished = run(*command("train", tiny_world, tmp_path, "--dry-run"))
    assert finished.code == 2
    assert "student.vocabulary: pieces are counted in the token store" in finished.stderr
    assert "distilcli prepare" in finished.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [90, 120])
def test_a_source_with_another_vocabulary_is_refused(size, folder, tiny_world, tmp_path):
    source = save(bert(vocab_size=size), tmp_path / "source")
    finished = run(
        *command("init-student", tiny_world, tmp_path, f"student.source={source}"),
        *(f"student.vocabulary.keep={KEEP}", f"data.store={folder}/store"),
    )
    assert finished.code == 2
    assert f"the student's vocabulary has {size} tokens, the teacher's 100" in finished.stderr


def test_a_dry_run_finds_nothing_wrong(folder, tiny_world, tmp_path):
    stores = f"data.store={folder}/store"
    finish([*command("train", tiny_world, tmp_path, "--dry-run"), stores])


@pytest.mark.slow
def test_killed_and_resumed_it_ends_the_same(folder, tiny_world, tmp_path):
    arguments = [*command("train", tiny_world, tmp_path, *TRAIN), f"data.store={folder}/store"]
    kill_at(3, tmp_path, *arguments)
    finish([*arguments, "--resume"])
    assert weights(run_folder(tmp_path)) == weights(run_folder(folder))
    assert metrics(run_folder(tmp_path)) == metrics(run_folder(folder))


@pytest.mark.slow
def test_two_processes_train_the_same_student(folder, tiny_world, tmp_path):
    """But for rounding: sums are added in another order."""
    no_dropout = ["student.dropout=0", "student.attention_dropout=0"]
    kept = f"student.vocabulary.keep={KEEP}"
    found = []
    for number in (1, 2):
        place = tmp_path / str(number)
        arguments = command("train", tiny_world, place, *TRAIN, *no_dropout, kept)
        finish([*arguments, f"data.store={folder}/store"], num_processes=number)
        model = AutoModelForMaskedLM.from_pretrained(place / "tiny" / "student")
        found.append(model.state_dict())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, rtol=1e-4, atol=1e-5)


# Other tokenizers


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["roberta", "modernbert", "xlm-roberta", "electra"])
def test_a_student_of_any_tokenizer(model_type, tmp_path):
    """Of byte-level BPE, of Unigram; and of a BERT's pieces in embeddings of another width."""
    world = write_family_world(model_type, tmp_path)
    folder = tmp_path / "runs"
    size = len(tokenizer_of(model_type))
    few = run(*command("prepare", world, folder, "student.vocabulary.keep=10"))
    assert few.code == 2
    least = int(re.search(r"Set student.vocabulary.keep to (\d+) or more", few.stderr)[1])
    keep = (least + size) // 2
    arguments = [f"student.vocabulary.keep={keep}", "train.max_steps=3"]
    finish(command("train", world, folder, *arguments))
    [path] = folder.glob("store-*")
    store = TokenStore.open(path, by_content=True)
    assert store.is_paired
    counts = store.manifest.teacher.counts["train"]
    assert 0 < counts.agreed < counts.text_tokens
    student = AutoModelForMaskedLM.from_pretrained(folder / "tiny" / "student")
    assert student.config.vocab_size == len(store.token_counts) <= keep
    told = finish(command("eval", world, folder, *arguments, "--json", "--no-speed")).json
    assert all(model["scores"]["loss_per_character"] > 0 for model in told["models"].values())


# A student that was trimmed before


@pytest.fixture(scope="module")
def trimmed(tiny_world, tmp_path_factory) -> Path:
    """What `init-student` without an experiment makes."""
    output = tmp_path_factory.mktemp("alone") / "student"
    arguments = ["--teacher", str(tiny_world.teacher), "--output", str(output)]
    finish(["init-student", *arguments, "--vocabulary", str(KEEP)])
    return output


def test_it_is_trained_by_a_teacher_with_the_whole_vocabulary(trimmed, tiny_world, tmp_path):
    student = f"student={{kind: checkpoint, model: {trimmed}}}"
    finished = finish(command("train", tiny_world, tmp_path, *TRAIN, student))
    assert finished.code == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "tiny" / "student")) == KEEP
    assert np.all(paired_store(tmp_path).train.lengths > 0)


def refused(world, folder: Path, student: Path) -> Finished:
    return run(*command("train", world, folder, f"student={{kind: checkpoint, model: {student}}}"))


def test_a_vocabulary_that_is_no_part_of_the_teachers_is_refused(trimmed, tiny_world, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(trimmed)
    tokenizer = AutoTokenizer.from_pretrained(trimmed)
    other = tmp_path / "other"
    model.save_pretrained(other)
    tokenizer.save_pretrained(other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"##z"', '"##zz"'))
    finished = refused(tiny_world, tmp_path, other)
    assert finished.code == 2
    assert "is no part of that of" in finished.stderr
    assert "'##zz'" in finished.stderr
    tree = json.loads(text)
    tree["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(tree))
    finished = refused(tiny_world, tmp_path, other)
    assert finished.code == 2
    assert "finds other words than that of" in finished.stderr


@pytest.mark.parametrize("key", ["source", "model"])
def test_as_many_tokens_that_are_others_are_refused(key, tiny_world, tmp_path):
    """Their embeddings would be taken for those of the teacher's tokens of these ids."""
    other = tmp_path / "other"
    shutil.copytree(tiny_world.teacher, other)
    tree = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tree["model"]["vocab"]
    vocabulary["ba"], vocabulary["be"] = vocabulary["be"], vocabulary["ba"]
    (other / "tokenizer.json").write_text(json.dumps(tree))
    student = {"source": f"{{source: {other}}}", "model": f"{{kind: checkpoint, model: {other}}}"}
    finished = run(*command("train", tiny_world, tmp_path / "runs", f"student={student[key]}"))
    assert finished.code == 2
    assert "its tokenizer has other tokens than that of" in finished.stderr
    assert not (tmp_path / "runs").exists()
