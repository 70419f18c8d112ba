"""Students load elsewhere: in transformers 5 and 4, as pipelines, as plain tensors, exported.

For embeddings in sentence-transformers see `test_sentence_encoders.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import loading_elsewhere
import pytest
import torch
from family_tokenizers import tokenizer_of
from safetensors.torch import load_file, save_file
from tiny_families import tiny_config, with_weights
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.models.families import FAMILIES, without_head
from distilcli.models.saving import save_model

pytestmark = pytest.mark.slow
HEADS = tuple(loading_elsewhere.AUTO)
TYPED = {"bert", "electra", "ernie"}  # have token types that matter
OLDER = Path(sys.prefix) / "transformers4"  # made by scripts/test.sh
TOLERANCE = 1e-5


def model_of(
    model_type: str, head: str, tokenizer: PreTrainedTokenizerFast, **more: Any
) -> PreTrainedModel:
    family = FAMILIES[model_type]
    sizes = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    config = tiny_config(family, **sizes, **more)
    if head in ("masked-lm", "encoder"):
        model = with_weights(family.masked_lm, config)
        return model if head == "masked-lm" else without_head(model)
    return with_weights(family.task_heads[head].model_class, config)


@pytest.fixture(scope="module")
def students(tmp_path_factory) -> Path:
    """Each family with each head, and what the model computes of the tokenizer's inputs."""
    root = tmp_path_factory.mktemp("students")
    for model_type in FAMILIES:
        tokenizer = tokenizer_of(model_type)
        for head in HEADS:
            folder = root / f"{model_type}-{head}"
            model = model_of(model_type, head, tokenizer)
            save_model(model, tokenizer, folder)
            save_file(computed(model, tokenizer), root / f"{folder.name}.safetensors")
    return root


def computed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    found = {}
    for number, text in enumerate(loading_elsewhere.TEXTS):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            result = model(input_ids=ids)
        found[f"{number} ids"] = ids
        found |= {f"{number} {name}": tensor for name, tensor in result.items()}
    return {name: tensor for name, tensor in found.items() if "pooler" not in name}


def check(found: dict[str, Any], major: str) -> None:
    assert found["transformers"].split(".")[0] == major
    assert found["differences"].keys() == {
        f"{family}-{head}" for family in FAMILIES for head in HEADS
    }
    assert max(found["differences"].values()) < TOLERANCE, found["differences"]


def test_every_student_loads_in_transformers_5(students):
    """And in its pipelines; that of answers is gone from it."""
    check(loading_elsewhere.compare(students), "5")


@pytest.mark.skipif(not OLDER.exists(), reason="transformers 4 is not installed")
def test_every_student_loads_in_transformers_4(students):
    """`model(**tokenizer(text))` and every pipeline, in a process that has the older packages."""
    finished = subprocess.run(
        [sys.executable, loading_elsewhere.__file__, str(students)],
        env=os.environ | {"PYTHONPATH": str(OLDER), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    check(json.loads(finished.stdout), "4")


def test_weights_are_plain_tensors(students):
    """safetensors alone reads them: every weight once, by the name that transformers has for it."""
    for model_type in FAMILIES:
        for head in HEADS:
            folder = students / f"{model_type}-{head}"
            model = model_of(model_type, head, tokenizer_of(model_type))
            tensors = load_file(folder / "model.safetensors")
            weights = dict(model.named_parameters())
            assert tensors.keys() <= model.state_dict().keys()
            assert {w.data_ptr() for w in weights.values()} == {
                model.state_dict()[name].data_ptr() for name in tensors
            }
            for name, tensor in tensors.items():
                torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model_type", "head"),
    [("distilbert", "sequence"), ("roberta", "span"), ("modernbert", "token")],
)
def test_a_student_goes_through_torch_export(students, model_type, head):
    """For any number of texts and any length."""
    auto = getattr(loading_elsewhere.transformers, loading_elsewhere.AUTO[head])
    model = auto.from_pretrained(students / f"{model_type}-{head}").eval()
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2, max=32)
    axes = {0: batch, 1: length}
    example = (torch.randint(5, 50, (3, 9)), torch.ones(3, 9, dtype=torch.long))
    program = torch.export.export(model, example, dynamic_shapes=(axes, axes))
    for size, width in ((1, 5), (4, 17)):
        ids, mask = torch.randint(5, 50, (size, width)), torch.ones(size, width, dtype=torch.long)
        mask[-1, width // 2 :] = 0
        with torch.no_grad():
            expected = model(ids, mask).to_tuple()
            found = program.module()(ids, mask)
        for name, tensor in zip(found, expected, strict=True):
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_reranker_is_a_cross_encoder(model_type, tmp_path):
    """sentence-transformers scores pairs as the model does: what it ranks by is its output."""
    package = pytest.importorskip("sentence_transformers")
    tokenizer = tokenizer_of(model_type)
    model = model_of(model_type, "sequence", tokenizer, num_labels=1)
    save_model(model, tokenizer, tmp_path / "student")
    pairs = [("ba be", "bi bo bu"), ("ba be", "du"), ("ku", "bo ba be bi")]
    expected = []
    for query, text in pairs:
        ids = torch.tensor([tokenizer(query, text)["input_ids"]])
        types = tokenizer(query, text, return_token_type_ids=True)["token_type_ids"]
        given = {"token_type_ids": torch.tensor([types])} if model_type in TYPED else {}
        with torch.no_grad():
            expected.append(float(model(input_ids=ids, **given).logits))
    ranker = package.CrossEncoder(str(tmp_path / "student"), device="cpu")
    found = ranker.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    assert found.tolist() == pytest.approx(expected, abs=TOLERANCE)
