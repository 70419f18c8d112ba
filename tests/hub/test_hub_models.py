"""Models of the hub: its answers are said in words, and its files are checked like any others."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hub_contents import COMMIT, Repository
from hub_server import hub_of
from huggingface_hub import constants
from tiny_models import word_tokenizer

from distilcli.errors import ModelError
from distilcli.hub import model_files
from distilcli.models import loading
from distilcli.text.tokenizers import load_tokenizer


@pytest.fixture
def hub(saved, tmp_path, monkeypatch) -> Iterator[Any]:
    model_files._commit.cache_clear()
    # The client tries five times, and waits 23 seconds in between.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with hub_of(saved, tmp_path / "cache", monkeypatch) as server:
        yield server
    model_files._commit.cache_clear()


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_model_of_the_hub_is_what_its_folder_is(hub, teacher, ids, revision):
    model = loading.load_masked_lm("someone/some-bert", revision=revision)
    assert torch.equal(model(input_ids=ids).logits, teacher(ids).logits)
    tokenizer = load_tokenizer("someone/some-bert", revision)
    assert tokenizer("w1 w2")["input_ids"] == word_tokenizer()("w1 w2")["input_ids"]
    assert "pytorch_model.bin" not in hub.requests


def test_what_is_in_the_cache_needs_no_hub(hub, teacher, ids, monkeypatch):
    loading.load_masked_lm("someone/some-bert")
    load_tokenizer("someone/some-bert")
    model_files._commit.cache_clear()
    hub.failure = (503, {})
    model = loading.load_masked_lm("someone/some-bert")
    assert torch.equal(model(input_ids=ids).logits, teacher(ids).logits)
    assert load_tokenizer("someone/some-bert").mask_token == "[MASK]"


def test_offline_what_is_in_the_cache_is_enough(hub, teacher, ids, monkeypatch):
    loading.load_masked_lm("someone/some-bert", revision="main")
    load_tokenizer("someone/some-bert")
    model_files._commit.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    model = loading.load_masked_lm("someone/some-bert", revision="main")
    assert torch.equal(model(input_ids=ids).logits, teacher(ids).logits)
    assert load_tokenizer("someone/some-bert").mask_token == "[MASK]"
    assert len(hub.asked) == asked


def test_a_download_that_breaks_is_taken_up_where_it_broke(hub, teacher, ids, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256)  # what it has written down by then
    hub.breaks = 3
    model = loading.load_masked_lm("someone/some-bert")
    assert torch.equal(model(input_ids=ids).logits, teacher(ids).logits)
    assert hub.breaks == 0
    assert hub.ranges


def test_large_files_come_by_plain_http_where_the_hub_has_no_other_storage_for_them(
    hub, teacher, ids, monkeypatch
):
    """With hf_xet installed, too; a hub that only says that it has one is told apart."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    model = loading.load_masked_lm("someone/some-bert")
    assert torch.equal(model(input_ids=ids).logits, teacher(ids).logits)
    hub.says_xet = True
    with pytest.raises(ModelError, match=r"\(Xet\) does not answer here") as caught:
        loading.load_masked_lm("someone/other-bert")
    assert caught.value.hint == "HF_HUB_DISABLE_XET=1 does without it."
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    model = loading.load_masked_lm("someone/other-bert")
    assert torch.equal(model(input_ids=ids).logits, teacher(ids).logits)


def test_a_gated_model_and_a_private_one_say_what_to_do(hub, saved):
    files = {COMMIT: {path.name: path.read_bytes() for path in saved.iterdir()}}
    hub.repositories["lab/gated"] = Repository(files, is_gated=True)
    with pytest.raises(ModelError, match=r"access to it is restricted on the hub \(403\)"):
        loading.load_masked_lm("lab/gated")
    hub.repositories["lab/private"] = Repository(files, is_private=True)
    with pytest.raises(ModelError, match=r"the hub has no such model for you \(401\)"):
        loading.load_masked_lm("lab/private")


def test_a_private_model_is_had_with_a_login(hub, saved, monkeypatch, teacher, ids):
    files = {COMMIT: {path.name: path.read_bytes() for path in saved.iterdir()}}
    hub.repositories["lab/private"] = Repository(files, is_private=True)
    hub.tokens["hf_secret"] = "read"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    model = loading.load_masked_lm("lab/private")
    assert torch.equal(model(input_ids=ids).logits, teacher(ids).logits)


def test_a_cache_that_cannot_be_written(hub, tmp_path):
    """As where there is no home; the path and the setting are named."""
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(ModelError) as caught:
        loading.load_masked_lm("someone/some-bert")
    assert "what the hub sends cannot be kept: " in caught.value.message
    assert f"{tmp_path / 'cache'}" in caught.value.message
    assert caught.value.message.endswith("(Not a directory)")
    assert caught.value.hint == "Set HF_HOME to a folder that you may write to."
    assert caught.value.exit_code == 2


def test_an_index_of_the_hub_is_checked_before_anything_is_fetched(hub, saved):
    (saved / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../../evil.bin"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="which is no safetensors file beside it"):
        loading.load_masked_lm("someone/some-bert")
    assert not [name for name in hub.requests if "evil" in name]


def test_a_model_of_the_hub_without_safetensors(hub, saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"some-bert: its weights are pickled \(.bin\)"):
        loading.load_masked_lm("someone/some-bert")
    (saved / "pytorch_model.bin").rename(saved / "tf_model.h5")
    with pytest.raises(ModelError, match="it has no weights as safetensors"):
        loading.load_masked_lm("someone/other-bert")


ANSWERS = {
    "unknown, or private": (
        (401, {"X-Error-Code": "RepoNotFound"}),
        "no such folder, and the hub has no such model for you (401)",
        "Check the name; for a private model log in: `hf auth login` (or HF_TOKEN).",
    ),
    "unknown": (
        (404, {"X-Error-Code": "RepoNotFound"}),
        "no such folder, and the hub has no such model for you (404)",
        "Check the name; for a private model log in: `hf auth login` (or HF_TOKEN).",
    ),
    "gated": (
        (403, {"X-Error-Code": "GatedRepo"}),
        "access to it is restricted on the hub (403)",
        "Ask for access on the model's page, then log in: `hf auth login` (or HF_TOKEN).",
    ),
    "a bad token": (
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        "the hub does not accept your login (401)",
        "Log in again: `hf auth login` (or HF_TOKEN); or unset HF_TOKEN.",
    ),
    "too many": (
        (429, {}),
        "the hub has had too many requests from here (429)",
        "Wait some minutes, or log in, which allows for more: `hf auth login` (or HF_TOKEN).",
    ),
    "server error": (
        (503, {}),
        "the hub had a server error (503)",
        "Try again later, or give a folder.",
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_the_hub_answers_is_said_in_words(hub, answer):
    hub.failure, message, hint = ANSWERS[answer]
    for load in (loading.load_masked_lm, load_tokenizer):
        with pytest.raises(ModelError) as caught:
            load("someone/some-bert")
        assert caught.value.message.endswith(f"someone/some-bert: {message}")
        assert caught.value.hint == hint


def test_the_tries_of_the_hubs_client_are_not_told(hub, caplog, monkeypatch):
    """A name that the hub does not have is answered by one error, and by nothing before it."""
    client = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(client, "handlers", [*client.handlers, caplog.handler])
    hub.failure = ANSWERS["server error"][0]
    with pytest.raises(ModelError):
        loading.load_masked_lm("someone/some-bert")
    assert caplog.messages == []


def test_a_revision_that_is_not_there(hub):
    with pytest.raises(ModelError, match="the hub has no revision 'v9' of it"):
        loading.load_masked_lm("someone/some-bert", revision="v9")


def test_a_name_that_is_none_of_the_hub():
    with pytest.raises(ModelError, match="no such folder, and not a name of the hub") as caught:
        loading.load_masked_lm("no such model!")
    assert "\n" not in caught.value.message


def test_without_a_network_the_way_out_is_named(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="cannot be read here or on the hub") as caught:
        loading.load_masked_lm("someone/some-bert")
    assert "give a folder" in caught.value.hint
