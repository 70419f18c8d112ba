"""`predict` with a model that has a tokenizer of its own, and its classes in another order."""

from pathlib import Path
from typing import Any

import pytest
import torch
from own_tokenizer_models import TOKENIZERS, random_model, save
from predicting import config, predict, rows_of, run
from tiny_tasks import TinyTasks, make_tasks

pytestmark = pytest.mark.usefixtures("alone_and_offline")
# Of each kind the model, where its outputs are read, and its classes: those of the task, reversed.
MODELS: dict[str, tuple[str, Any, list[str]]] = {
    "classification": ("albert", "sequence", ["yes", "no"]),
    "tagging": ("deberta-v2", "token", ["O", "I-X", "B-X"]),
}

LONGEST = 32  # tokens of an input, as many as the student has positions


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def plain_logits(model: Any, kind: str, row: dict[str, Any]) -> torch.Tensor:
    """What transformers' own call says of a row, as it is read alone: [words or 1, classes]."""
    tokenizer = TOKENIZERS[model.config.model_type]()
    if kind == "classification":
        encoded = tokenizer(*_texts(row), return_tensors="pt")
        found: torch.Tensor = model(**encoded).logits
        return found
    encoded = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
    words = encoded.word_ids()
    places = [words.index(word) for word in range(len(row["tokens"]))]
    tags: torch.Tensor = model(**encoded).logits[0, places]
    return tags


@pytest.mark.parametrize("kind", MODELS)
def test_outputs_are_the_models_own_by_the_names_of_its_classes(kind, tasks, tmp_path):
    """A student that learns from the file is the one that learns from the model."""
    model_type, head, names = MODELS[kind]
    model = random_model(model_type, head, names)
    teacher = save(model, tmp_path / "teacher")
    labels = {"labels": names[::-1], "max_length": LONGEST}
    own = {"student": {"source": str(tasks.model)}, "task": labels}
    settings = config(tmp_path, tasks, kind, teacher, **own)
    tree = {"name": "of-model", "teacher": {"precision": "fp32"}}
    of_model = config(tmp_path, tasks, kind, teacher, **own, **tree)
    scored = predict(tmp_path, teacher, settings, "s.jsonl", "teacher.precision=fp32")
    rows = rows_of(scored)
    checked = 0
    with torch.no_grad():
        for row in rows[:80]:
            if _is_long(model_type, row):
                continue  # it is cut, or read in several parts
            found = row["logits"] if kind == "tagging" else [row["logits"]]
            for one, expected in zip(found, plain_logits(model, kind, row), strict=True):
                assert list(one) == names[::-1]
                assert [one[name] for name in names] == pytest.approx(expected.tolist(), abs=1e-5)
                checked += 1
    assert checked >= 40
    taught = {"teacher_outputs": {"files": str(scored)}}
    changes = own | {"name": "of-file", "teacher": None, "task": labels | taught}
    of_file = config(tmp_path, tasks, kind, teacher, **changes)
    found_weights = []
    for path in (of_model, of_file):
        run("train", "--config", path)
        found_weights.append(_weights(tmp_path / "runs" / path.stem))
    assert found_weights[0] == found_weights[1]


def _is_long(model_type: str, row: dict[str, Any]) -> bool:
    if "tokens" in row:
        return len(row["tokens"]) > 12
    return len(TOKENIZERS[model_type]()(*_texts(row))["input_ids"]) > LONGEST


def _texts(row: dict[str, Any]) -> tuple[str, str]:
    return row["first"], row["second"]


def _weights(folder: Path) -> bytes:
    return (folder / "student" / "model.safetensors").read_bytes()
