"""Tokenizers that load and fail only when they are used are refused when they are loaded."""

from typing import Any

import pytest
from broken_models import edit_json
from transformers import PreTrainedTokenizerFast

from distilcli.errors import ModelError
from distilcli.models import loading
from distilcli.models.saving import save_model
from distilcli.text.tokenizers import load_tokenizer


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"remark": "half \ud83d a pair"}, "surrogates not allowed"),
        ({"\udcff": "key"}, "surrogates not allowed"),
    ],
)
def test_a_tokenizer_that_cannot_be_saved_is_refused_at_once(saved, changes, words):
    edit_json(saved / "tokenizer_config.json", **changes)
    with pytest.raises(ModelError, match=rf"its tokenizer cannot be loaded \(.*{words}"):
        load_tokenizer(str(saved))


def test_a_tokenizer_that_asks_itself_for_a_token_is_refused(saved, monkeypatch):
    def ask_again(*_: Any) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(PreTrainedTokenizerFast, "convert_tokens_to_ids", ask_again)
    with pytest.raises(ModelError, match=r"its tokenizer cannot be loaded \(maximum recursion"):
        load_tokenizer(str(saved))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unk_token": ""}, "its tokenizer cannot be loaded"),
        ({"padding_side": "x" * 10_000}, "its tokenizer cannot be loaded"),
        ({"mask_token": "x" * 10_000}, "is one that ordinary text may hold"),
        ({"tokenizer_class": 5}, "its tokenizer cannot be loaded"),
        ({"processor_class": "\ud83d"}, "its tokenizer cannot be loaded"),
    ],
    ids=["no text", "a long one", "a long mask", "a number", "half a pair"],
)
def test_a_wrong_value_in_the_tokenizers_config(saved, changes, words):
    edit_json(saved / "tokenizer_config.json", **changes)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(saved))
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 1_000


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a":' * 10_000, b"[" * 100_000])
def test_a_tokenizer_that_is_none(saved, content):
    (saved / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded") as caught:
        load_tokenizer(str(saved))
    assert "\n" not in caught.value.message


def test_a_tokenizer_that_cannot_be_saved_is_named(saved, tmp_path):
    edit_json(saved / "tokenizer_config.json", chat_template={"a": 1})
    model, tokenizer = loading.load_masked_lm(str(saved)), load_tokenizer(str(saved))
    with pytest.raises(ModelError, match="cannot be saved") as caught:
        save_model(model, tokenizer, tmp_path / "student")
    assert f"the tokenizer of {saved}" in caught.value.message
    assert not (tmp_path / "student").exists()
