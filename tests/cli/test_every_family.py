"""Every family in the table through the commands, with the kind of tokenizer its models have.

A new row in `FAMILIES` is taken through them by itself; a tokenizer that is not like BERT's is a
row of `TOKENIZERS` (`tests/helpers/family_tokenizers.py`). What is true of the models alone stands
in `tests/models/test_families.py`.
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_tokenizers import tokenizer_of
from family_worlds import (
    NUM_LAYERS,
    NUM_POSITIONS,
    STEPS,
    corpus,
    save_model,
    told,
    write_family_world,
)
from held_steps import start_held
from tiny_experiments import MAX_LENGTH, WORDS, TinyWorld, last_step, metrics, run, weights
from tiny_tasks import TinyTasks, make_tasks
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BatchEncoding,
    pipeline,
)

from distilcli.batches.packing import PackedSequences, positions
from distilcli.corpus.sequences import is_held_out
from distilcli.corpus.store import TokenStore
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.copying import copy_layers
from distilcli.models.families import FAMILIES, student_family
from distilcli.models.loading import load_masked_lm
from distilcli.models.running import run_encoder, vocabulary_projection
from distilcli.models.saving import first_difference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=FAMILIES)
def model_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def world(model_type, tmp_path_factory) -> TinyWorld:
    """Text, a teacher, and an experiment; the store is prepared."""
    made = write_family_world(model_type, tmp_path_factory.mktemp(model_type))
    told("prepare", "--config", str(made.config), "--num-proc", "1")
    return made


def train(world: TinyWorld, folder: Path, *more: str) -> list[str]:
    return ["train", "--config", str(world.config), f"output_dir={folder}", *more]


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("trained")
    told(*train(world, folder))
    return folder / "tiny"


# Text


def inner(sequences: list[list[int]]) -> list[int]:
    """All tokens but the first and the last of each."""
    return [index for ids in sequences for index in ids[1:-1]]


def words_of(encoded: BatchEncoding) -> list[tuple[int, Any]]:
    """For each token of some texts: the text, and its word there or, without one, itself."""
    return [
        (text, place if word is None else word)
        for text in range(len(encoded["input_ids"]))
        for place, word in list(enumerate(encoded.word_ids(text), 1000))[1:-1]
    ]


def test_the_store_has_the_tokens_of_the_tokenizer(model_type, world):
    """Of all the text, in its order; and no word that fits into a sequence is cut."""
    tokenizer = AutoTokenizer.from_pretrained(world.teacher)
    assert type(tokenizer) is type(tokenizer_of(model_type))
    fraction, room = world.experiment()["data"]["held_out_fraction"], MAX_LENGTH - 2
    store = TokenStore.open(world.store)
    for split, held_out in ((store.train, False), (store.held_out, True)):
        encoded = tokenizer([line for line in corpus() if is_held_out(line, fraction) == held_out])
        sequences = [split.tokens(index).tolist() for index in range(len(split))]
        for ids in (*sequences, *encoded["input_ids"]):
            assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert inner(sequences) == inner(encoded["input_ids"])
        assert max(map(len, sequences)) <= MAX_LENGTH
        words = words_of(encoded)
        for end in np.cumsum([len(ids) - 2 for ids in sequences])[:-1]:
            assert words[end - 1] != words[end] or words.count(words[end]) > room


# Students


def test_init_student_copies_every_second_layer(model_type, world, tmp_path):
    output = tmp_path / "student"
    given = ["--teacher", str(world.teacher), "--output", str(output)]
    finished = run("init-student", *given)
    assert finished.code == 0, finished.stderr
    assert "saved, loaded again and run once" in finished.stdout
    expected = copy_layers(load_masked_lm(str(world.teacher)), [0, 2])
    found, info = AutoModelForMaskedLM.from_pretrained(output, output_loading_info=True)
    assert not any(info.values())
    assert type(found) is student_family(FAMILIES[model_type]).masked_lm
    assert first_difference(found, expected) is None


# Training


def test_a_run_comes_nearer_to_its_teacher(trained):
    records = metrics(trained)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    for name in ("loss/kl", "loss/total"):
        first, last = (sum(r[name] for r in part) for part in (records[:5], records[-5:]))
        assert last < first


def test_a_run_that_is_killed_goes_on_to_the_same_student(world, trained, tmp_path):
    running = start_held(11, tmp_path / "never", *train(world, tmp_path))
    assert running.wait_until(lambda: last_step(tmp_path / "tiny") >= 10), running.wait()
    running.kill()
    told(*train(world, tmp_path, "--resume"))
    assert weights(tmp_path / "tiny") == weights(trained)
    assert metrics(tmp_path / "tiny") == metrics(trained)


def test_eval_puts_it_beside_its_teacher(trained):
    told("eval", str(trained), "--no-speed")
    models = json.loads((trained / "results.json").read_text())["models"]
    assert list(models) == ["teacher", "tiny at start", "tiny trained"]
    for model in models.values():
        assert all(math.isfinite(score) for score in model["scores"].values())
        assert 0 < model["scores"]["loss_per_character"] <= model["scores"]["loss"]
    kl = {name: model["scores"]["kl"] for name, model in models.items()}
    assert kl.pop("teacher") == 0 < min(kl.values())
    assert kl["tiny trained"] != kl["tiny at start"]


# Plain transformers


def our_logits(folder: Path, ids: list[int]) -> Tensor:
    """Logits [tokens, vocab] of one sequence, as training computes them."""
    model = load_masked_lm(str(folder))
    use_packed_attention(model)
    position_ids, boundaries = positions(np.array([len(ids)]))
    batch = PackedSequences(torch.tensor([ids]), position_ids, boundaries, (len(ids),), (0,))
    with torch.no_grad():
        head = vocabulary_projection(model, run_encoder(model, batch, Packing.of(batch)))
        return head.features @ head.weight.T + head.bias


def test_the_student_is_a_plain_masked_lm(model_type, world, trained):
    """Of the auto class, with the teacher's tokenizer; in a pipeline it says what it says here."""
    folder = trained / "student"
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is student_family(FAMILIES[model_type]).masked_lm
    assert model.config.num_hidden_layers == NUM_LAYERS // 2
    tokenizer, of_teacher = map(AutoTokenizer.from_pretrained, (folder, world.teacher))
    assert type(tokenizer) is type(of_teacher)
    assert tokenizer.backend_tokenizer.to_str() == of_teacher.backend_tokenizer.to_str()
    text = f"ba be {tokenizer.mask_token} bu . {' '.join(WORDS[:16])}"
    encoded = tokenizer(text, return_tensors="pt")
    ids = encoded["input_ids"][0].tolist()
    assert 20 < len(ids) <= NUM_POSITIONS
    ours = our_logits(folder, ids)
    with torch.no_grad():
        torch.testing.assert_close(model(**encoded).logits[0], ours)
    fill = pipeline("fill-mask", model=str(folder), device="cpu")
    answers = {answer["token"]: answer["score"] for answer in fill(text, top_k=len(tokenizer))}
    scores = ours[ids.index(tokenizer.mask_token_id)].softmax(dim=0).tolist()
    assert answers == pytest.approx(dict(enumerate(scores)), rel=1e-4)


# A task


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def base(model_type, tmp_path_factory) -> Path:
    """A model that has learnt nothing, and learns a task within some steps."""
    return save_model(model_type, tmp_path_factory.mktemp("base"), untrained=True)


def learn(
    tasks: TinyTasks, folder: Path, kind: str = "classification", **sections: Any
) -> dict[str, Any]:
    """Train on a task; what is told of it."""
    experiment = tasks.experiment(kind, output_dir=str(folder), **sections)
    experiment["train"] |= {"num_epochs": 6}
    experiment["optim"] |= {"lr": 6e-3}  # at which 4 epochs are enough
    folder.mkdir(exist_ok=True)
    config = folder / "task.yaml"
    config.write_text(json.dumps(experiment), encoding="utf-8")
    return told("train", "--config", str(config))


@pytest.fixture(scope="module")
def finetuned(base, tasks, tmp_path_factory) -> dict[str, Any]:
    """A teacher: the model, fine-tuned."""
    folder = tmp_path_factory.mktemp("finetuned")
    student = {"kind": "checkpoint", "model": str(base)}
    return learn(tasks, folder, student=student)


@pytest.fixture(scope="module")
def distilled(finetuned, tasks, tmp_path_factory) -> dict[str, Any]:
    """A student of half its layers."""
    folder = tmp_path_factory.mktemp("distilled")
    teacher = {"model": finetuned["student"], "precision": "fp32", "cache": str(folder / "cache")}
    return learn(tasks, folder, teacher=teacher, student={"num_layers": NUM_LAYERS // 2})


def test_a_task_is_learnt_from_a_teacher(finetuned, distilled):
    """Whoever always says "no" is right about two of three; `eval` comes to the same score."""
    accuracies = [result["held_out"]["held_out/accuracy"] for result in (finetuned, distilled)]
    assert min(accuracies) > 0.8
    measured = told("eval", distilled["run_folder"], "--no-speed")["models"]
    assert list(measured) == ["teacher", "classification"]
    assert [model["scores"]["accuracy"] for model in measured.values()] == accuracies
    assert measured["classification"]["agreement"] > 0.8


def test_the_student_of_a_task_is_a_plain_classifier(model_type, tasks, distilled):
    """Of the auto class; a pipeline that reads the dev file by itself comes to its score."""
    model, info = AutoModelForSequenceClassification.from_pretrained(
        distilled["student"], output_loading_info=True
    )
    assert not any(info.values())
    assert type(model) is FAMILIES[model_type].task_heads["sequence"].model_class
    assert model.config.num_hidden_layers == NUM_LAYERS // 2
    [file] = tasks.task("classification")["dev"]["files"]
    with Path(file).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    classify = pipeline("text-classification", distilled["student"], device="cpu")
    answers = classify([{"text": row["first"], "text_pair": row["second"]} for row in rows])
    right = [answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)]
    assert np.mean(right) == pytest.approx(distilled["held_out"]["held_out/accuracy"])


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "score"), [("question-answering", "exact_match"), ("tagging", "entity_f1")]
)
def test_answers_and_tags_are_found_where_the_tokenizer_says(base, tasks, kind, score, tmp_path):
    """By a tokenizer of each kind; those of other tests are like BERT's."""
    student = {"source": str(base), "num_layers": NUM_LAYERS // 2}
    result = learn(tasks, tmp_path / kind, kind, student=student)
    assert result["held_out"][f"held_out/{score}"] > 0.5
