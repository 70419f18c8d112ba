"""Sentence encoders: what their folders say, how vectors are made, and what is written."""

import json
from pathlib import Path

import pytest
import torch
from tiny_embeddings import MAX_LENGTH, PACKAGE, write_sentence_files
from tiny_experiments import bert, word_tokenizer
from transformers import AutoModel, AutoTokenizer

from distilcli.config.embedding import EmbeddingExperiment
from distilcli.errors import ConfigError, ModelError
from distilcli.models.attention import use_packed_attention
from distilcli.models.saving import save_model
from distilcli.models.sentence_encoders import (
    Encoding,
    encode,
    encoding_of,
    load_encoder,
    own_encoding,
    read_folder,
    write_encoder_files,
)
from distilcli.tasks.embedding import Reading
from distilcli.tasks.inputs import join, pack_inputs

TEXTS = ["ba be bi", "da", "fa fe fi fo fu ga ge", "la"]
READING = Reading("", "", "", False, MAX_LENGTH)


@pytest.fixture
def folder(tmp_path) -> Path:
    bert().save_pretrained(tmp_path / "encoder")
    word_tokenizer().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def experiment(folder: Path, **task: object) -> EmbeddingExperiment:
    section = {"kind": "embedding", "train": {"files": "x.txt"}} | task
    return EmbeddingExperiment.model_validate(
        {"name": "x", "task": section, "teacher": {"model": str(folder)}}
    )


# What a folder says


def test_a_plain_folder_says_nothing(folder):
    assert not read_folder(str(folder), None, "teacher").is_sentence_encoder
    found = encoding_of(experiment(folder))
    assert (found.pooling, found.normalizes, found.default_prompt) == ("mean", False, None)
    assert found.reading == Reading("", "", "", False, 32)  # as many as there are positions


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"embedding_dimension": 32}, "mean"),
    ],
)
def test_pooling_is_read_as_older_and_newer_versions_write_it(folder, pooling, expected):
    write_sentence_files(folder, pooling, normalizes=False)
    found = encoding_of(experiment(folder))
    assert (found.pooling, found.normalizes) == (expected, False)
    assert encoding_of(experiment(folder, pooling="max", normalize=True)).pooling == "max"
    assert encoding_of(experiment(folder, normalize=True)).normalizes


def test_length_letters_and_prompts_are_read(folder):
    prompts = {"prompts": {"query": "ba ", "passage": "da ", "plain": "fa "}}
    write_sentence_files(
        folder,
        length={"max_seq_length": 12, "do_lower_case": True},
        prompts=prompts | {"default_prompt_name": "plain"},
    )
    found = encoding_of(experiment(folder))
    assert found.reading == Reading("fa ", "ba ", "da ", True, 12)
    assert found.default_prompt == "plain"
    asked = encoding_of(experiment(folder, prompt="ga ", max_length=16))
    assert asked.reading == Reading("ga ", "ba ", "da ", True, 16)
    assert asked.prompts["text"] == "ga "
    assert asked.default_prompt == "text"


def test_newer_versions_leave_the_length_to_the_tokenizer(folder):
    write_sentence_files(folder, length={"transformer_task": "feature-extraction"})
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 14}))
    assert encoding_of(experiment(folder)).reading.max_length == 14


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"more": ("Dense",)}, "it has a module Dense"),
        ({"pooling": {"pooling_mode": "lasttoken"}}, "its pooling is lasttoken"),
        (
            {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}},
            "its pooling is ['pooling_mode_mean_tokens', 'pooling_mode_cls_token']",
        ),
        ({"prompts": {"default_prompt_name": "query"}}, "'query', no prompt's name"),
        ({"prompts": {"prompts": ["a"]}}, "prompts is not an object of texts"),
        (
            {
                "pooling": {"pooling_mode": "mean", "include_prompt": False},
                "prompts": {"prompts": {"query": "q: "}},
            },
            "it leaves the tokens of prompts out of its vectors",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(folder, files, said):
    write_sentence_files(folder, **files)
    with pytest.raises(ModelError) as caught:
        encoding_of(experiment(folder))
    assert said in caught.value.message
    assert caught.value.exit_code == 2


def test_the_ways_out_that_are_named_lead_out(folder):
    """Without the files that say Dense, and with another pooling than the one that is unknown."""
    write_sentence_files(folder, more=("Dense",))
    with pytest.raises(ModelError) as caught:
        encoding_of(experiment(folder, pooling="cls"))
    assert "copy the folder without its modules.json and set task.pooling" in caught.value.hint
    (folder / "modules.json").unlink()
    assert encoding_of(experiment(folder, pooling="cls")).pooling == "cls"
    write_sentence_files(folder, {"pooling_mode": "lasttoken"})
    with pytest.raises(ModelError) as caught:
        encoding_of(experiment(folder))
    assert "set task.pooling to one of them" in caught.value.hint
    assert encoding_of(experiment(folder, pooling="max")).pooling == "max"


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ("{}", "it has the modules none"),
        ("[1]", "it is no list of modules"),
        ("null", "it is null"),
        ("[", "modules.json is not valid"),
        (
            json.dumps([{"type": f"{PACKAGE}.Transformer", "path": ""}]),
            "it has the modules Transformer",
        ),
        (
            json.dumps(
                [
                    {"type": f"{PACKAGE}.Transformer", "path": "0_BERT"},
                    {"type": f"{PACKAGE}.Pooling", "path": "1_Pooling"},
                ]
            ),
            "its encoder is in the folder 0_BERT",
        ),
    ],
)
def test_damaged_or_unusual_modules(folder, modules, said):
    write_sentence_files(folder)
    (folder / "modules.json").write_text(modules)
    with pytest.raises(ModelError) as caught:
        encoding_of(experiment(folder))
    assert said in caught.value.message


def test_a_length_over_the_positions_is_refused(folder):
    with pytest.raises(ConfigError, match=r"task\.max_length 40 is over the 32 positions"):
        encoding_of(experiment(folder, max_length=40))


# How vectors are made


def padded_vectors(folder: Path, pooling: str, normalizes: bool) -> torch.Tensor:
    """What transformers computes, padded."""
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    found = {
        "cls": states[:, 0],
        "mean": (states * mask).sum(1) / mask.sum(1),
        "max": states.masked_fill(mask == 0, -torch.inf).amax(1),
    }[pooling]
    return found / found.norm(dim=-1, keepdim=True) if normalizes else found


def packed_vectors(folder: Path, encoding: Encoding) -> torch.Tensor:
    model = load_encoder(str(folder))
    use_packed_attention(model)
    ids = [word_tokenizer()(text)["input_ids"] for text in TEXTS]
    inputs = join(ids, [[0] * len(row) for row in ids], [[0]] * len(ids), torch.zeros(4).numpy())
    with torch.no_grad():
        return encode(model, pack_inputs(inputs, range(4)), encoding)[0]


@pytest.mark.parametrize("normalizes", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_packed_vectors_are_those_of_padded_texts(folder, pooling, normalizes):
    found = packed_vectors(folder, Encoding(pooling, normalizes, READING, {}, None))
    torch.testing.assert_close(found, padded_vectors(folder, pooling, normalizes))


@pytest.mark.parametrize(
    ("pooling", "normalizes", "default"),
    [("mean", True, None), ("cls", False, "text"), ("max", True, "text")],
)
def test_the_package_makes_the_same_vectors_of_what_is_written(
    folder, tmp_path, pooling, normalizes, default
):
    """To 1e-6, with its own prompts; the length and the prompts are kept."""
    package = pytest.importorskip("sentence_transformers")
    prompts = {"text": "ga ge "} if default else {}
    encoding = Encoding(pooling, normalizes, READING, prompts, default)
    written = tmp_path / "written"
    save_model(
        load_encoder(str(folder)),
        word_tokenizer(),
        written,
        add_files=lambda new: write_encoder_files(new, encoding, 32),
    )
    model = package.SentenceTransformer(str(written), device="cpu")
    shown = [(prompts[default] if default else "") + text for text in TEXTS]
    ids = [word_tokenizer()(text)["input_ids"] for text in shown]
    inputs = join(ids, [[0] * len(row) for row in ids], [[0]] * len(ids), torch.zeros(4).numpy())
    ours = load_encoder(str(written))
    use_packed_attention(ours)
    with torch.no_grad():
        expected = encode(ours, pack_inputs(inputs, range(4)), encoding)[0]
    found = torch.from_numpy(model.encode(TEXTS))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert model.max_seq_length == MAX_LENGTH
    assert model.get_embedding_dimension() == 32


@pytest.mark.parametrize(
    ("of_teacher", "asked", "query", "document"),
    [
        ({}, {"prompt": "ga "}, "ga ", "ga "),
        # As the package itself writes a folder without prompts.
        ({"prompts": {"query": "", "document": ""}}, {"prompt": "ga "}, "ga ", "ga "),
        ({"prompts": {"query": "ba ", "passage": "da "}}, {}, "ba ", "da "),
        ({"prompts": {"query": "ba "}}, {"prompt": "ga "}, "ba ", "ga "),
        ({"prompts": {"old": "ba "}, "default_prompt_name": "old"}, {}, "ba ", "ba "),
        # As an earlier student has them: all say the same.
        (
            {
                "prompts": {"text": "ba ", "query": "ba ", "document": "ba "},
                "default_prompt_name": "text",
            },
            {"prompt": "ga "},
            "ga ",
            "ga ",
        ),
        ({}, {}, "", ""),
    ],
)
def test_the_package_puts_the_same_prompts_before_queries_and_documents(
    folder, tmp_path, of_teacher, asked, query, document
):
    package = pytest.importorskip("sentence_transformers")
    write_sentence_files(folder, prompts=of_teacher)
    encoding = encoding_of(experiment(folder, **asked))
    assert (encoding.reading.query_prompt, encoding.reading.document_prompt) == (query, document)
    written = tmp_path / "written"
    save_model(
        load_encoder(str(folder)),
        word_tokenizer(),
        written,
        add_files=lambda new: write_encoder_files(new, encoding, 32),
    )
    model = package.SentenceTransformer(str(written), device="cpu")
    for encode_role, prompt in ((model.encode_query, query), (model.encode_document, document)):
        expected = model.encode([prompt + text for text in TEXTS], prompt="")
        torch.testing.assert_close(encode_role(TEXTS), expected, atol=1e-6, rtol=0)
    again = encoding_of(experiment(written))
    assert again.reading == encoding.reading


def test_what_is_written_is_read_again(folder):
    reading = Reading("da ", "ba ", "da ", False, 20)
    encoding = Encoding("max", True, reading, {"query": "ba ", "text": "da "}, "text")
    write_encoder_files(folder, encoding, 32)
    found = encoding_of(experiment(folder))
    assert found == Encoding("max", True, reading, found.prompts, "text")
    assert dict(found.prompts) == {"query": "ba ", "text": "da ", "document": "da "}
    other = Encoding("mean", False, READING, {}, None)
    assert own_encoding(str(folder), other).pooling == "max"
    (folder / "modules.json").unlink()
    assert own_encoding(str(folder), other) == other
