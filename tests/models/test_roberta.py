"""RoBERTa through every command: positions after padding, and a byte-level tokenizer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_level import byte_level_tokenizer
from held_steps import start_held
from safetensors.torch import load_file
from tiny_experiments import MAX_LENGTH, TinyWorld, documents, last_step, metrics, run, weights
from tiny_families import TINY, tiny_config
from tiny_tasks import TinyTasks, make_tasks
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    RobertaForMaskedLM,
    pipeline,
)

from distilcli.corpus.store import TokenStore
from distilcli.models.families import FAMILIES
from distilcli.models.loading import load_masked_lm

pytestmark = pytest.mark.slow  # what is quick of it, `test_families.py` tests

STEPS = 20
POSITIONS = 32  # for tokens; in config.json there are two more
LAYERS = 4
# For each kind of task: a score, and what is above any constant answer.
CHANCE = {
    "classification": ("held_out/accuracy", 0.8),
    "question-answering": ("held_out/exact_match", 0.5),
    "tagging": ("held_out/entity_f1", 0.5),
}
AUTO_CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "question-answering": AutoModelForQuestionAnswering,
    "tagging": AutoModelForTokenClassification,
}


def save_teacher(folder: Path) -> None:
    tokenizer = byte_level_tokenizer()
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48}
    config = tiny_config(FAMILIES["roberta"], POSITIONS, LAYERS, **shape)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> TinyWorld:
    """Text, a RoBERTa with its tokenizer, and an experiment; the store is prepared."""
    world = TinyWorld(tmp_path_factory.mktemp("roberta"))
    world.text.write_text("".join(f"{line}\n" for line in documents()), encoding="utf-8")
    save_teacher(world.teacher)
    train = world.experiment()["train"] | {"max_steps": STEPS}
    world.write_config(world.config, train=train)
    told("prepare", "--config", str(world.config), "--num-proc", "1")
    return world


def told(*arguments: str) -> dict[str, Any]:
    """A command that must succeed; what it says."""
    finished = run(*arguments, "--json")
    assert finished.code == 0, finished.stderr
    return finished.json


def train(world: TinyWorld, folder: Path, *more: str) -> list[str]:
    return ["train", "--config", str(world.config), f"output_dir={folder}", *more]


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("trained")
    told(*train(world, folder))
    return folder / "tiny"


# Text


def test_prepare_makes_sequences_of_a_byte_level_tokenizer(world):
    store = TokenStore.open(world.store)
    tokenizer = byte_level_tokenizer()
    split = store.train
    assert len(split) > 300
    assert split.lengths.max() <= MAX_LENGTH
    lines = set(documents())
    whole = 0
    for index in range(len(split)):
        ids = split.tokens(index).tolist()
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        text = tokenizer.decode(ids[1:-1], clean_up_tokenization_spaces=False)
        assert any(f" {text.strip()} " in f" {line} " for line in lines)  # never within a word
        whole += text in lines
    assert whole > 50


# Students


def test_init_student_makes_a_roberta_of_fewer_layers(world, tmp_path):
    output = tmp_path / "student"
    given = ["--teacher", str(world.teacher), "--output", str(output), "--layers", "0,3"]
    finished = run("init-student", *given)
    assert finished.code == 0, finished.stderr
    assert "layer 1" in finished.stdout
    assert "layer 3" in finished.stdout
    assert "token type" not in finished.stdout
    student = AutoModelForMaskedLM.from_pretrained(output)
    assert type(student) is RobertaForMaskedLM
    assert len(student.roberta.encoder.layer) == 2
    teacher = AutoModelForMaskedLM.from_pretrained(world.teacher)
    copied = student.roberta.encoder.layer[1].state_dict()
    for name, weight in teacher.roberta.encoder.layer[3].state_dict().items():
        assert torch.equal(copied[name], weight)
    assert student.config.type_vocab_size == TINY["roberta"]["type_vocab_size"]
    positions = student.roberta.embeddings.position_embeddings.weight
    assert torch.equal(positions, teacher.roberta.embeddings.position_embeddings.weight)


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
    """Two of the 34 in config.json are before the first token."""
    for length, code in ((POSITIONS, 0), (POSITIONS + 1, 2)):
        settings = [f"data.max_length={length}", f"data.store={tmp_path / str(length)}"]
        finished = run("init-student", "--config", str(world.config), *settings, f"name=s{length}")
        assert finished.code == code, finished.stderr
    assert "data.max_length 33 is over the 32 positions" in finished.stderr


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


# Training


def test_a_run_learns_and_its_student_is_a_plain_roberta(world, trained):
    records = metrics(trained)
    assert len(records) == STEPS
    first, last = (sum(r["loss/mlm"] for r in part) for part in (records[:5], records[-5:]))
    assert last < first
    folder = trained / "student"
    student = AutoModelForMaskedLM.from_pretrained(folder)
    assert type(student) is RobertaForMaskedLM
    assert len(student.roberta.encoder.layer) == LAYERS // 2
    fill = pipeline("fill-mask", model=str(folder), device="cpu")
    answers = fill("ba be<mask> bu .", top_k=3)
    assert len(answers) == 3
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer("ba be<mask> bu .", return_tensors="pt")
    assert set(encoded) == {"input_ids", "attention_mask"}
    with torch.no_grad():
        place = encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        scores = student(**encoded).logits[0, place].softmax(dim=0)
    assert [answer["token"] for answer in answers] == scores.topk(3).indices.tolist()


def test_a_run_that_is_killed_goes_on_to_the_same_student(world, trained, tmp_path):
    running = start_held(11, tmp_path / "never", *train(world, tmp_path))
    assert running.wait_until(lambda: last_step(tmp_path / "tiny") >= 10), running.wait()
    running.kill()
    told(*train(world, tmp_path, "--resume"))
    assert weights(tmp_path / "tiny") == weights(trained)
    assert metrics(tmp_path / "tiny") == metrics(trained)


def test_eval_measures_it_beside_its_teacher(world, trained):
    told("eval", str(trained), "--no-speed")
    record = json.loads((trained / "results.json").read_text())
    losses = {name: found["scores"]["loss"] for name, found in record["models"].items()}
    assert losses.keys() == {"teacher", "tiny at start", "tiny trained"}
    assert losses["tiny trained"] < losses["tiny at start"]


# Tasks


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Iterator[TinyTasks]:
    """The tasks of the other tests, on a RoBERTa."""
    made = make_tasks(tmp_path_factory.mktemp("tasks"))
    for path in made.model.iterdir():
        path.unlink()
    save_teacher(made.model)
    return made


@pytest.mark.parametrize("kind", AUTO_CLASSES)
def test_a_task_is_learnt_and_its_student_is_plain(tasks, kind, tmp_path):
    """Of pairs, of words in a list and of windows: better than always the commonest answer."""
    sections = tasks.experiment(kind, output_dir=str(tmp_path))
    sections["train"] |= {"num_epochs": 8}
    config = tmp_path / "task.yaml"
    config.write_text(json.dumps(sections))
    result = told("train", "--config", str(config))
    model, info = AUTO_CLASSES[kind].from_pretrained(result["student"], output_loading_info=True)
    assert not any(info.values())
    assert type(model).__name__.startswith("Roberta")
    scores, chance = result["held_out"], CHANCE[kind]
    assert scores[chance[0]] > chance[1]
