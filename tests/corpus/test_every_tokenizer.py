"""What `prepare` stores is what the tokenizer makes of each text, for tokenizers of every kind."""

import json
import re

import pytest
from corpus_files import all_sequences
from every_tokenizer import AWKWARD, KINDS, LOOKED_UP, tokenizer_of
from token_stores import data_config
from tokenizers import Tokenizer

import distilcli.corpus.recipe as recipes
from distilcli.corpus.prepare import prepare
from distilcli.errors import ModelError
from distilcli.text.tokenizer_checks import check_special_tokens, check_tokens
from distilcli.text.tokenizers import (
    TextTokenizer,
    load_tokenizer,
    text_backend,
    tokenizer_fingerprint,
)

# What a tokenizer by itself takes for its control tokens, where they are written in a text.
CONTROL = re.compile(r"\[(MASK|SEP|CLS|PAD|UNK)\]|</?(s|pad|unk|mask)>")


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_looked_up_where_they_stand_alone(kind):
    tokenizer = tokenizer_of(kind)
    backend = json.dumps(text_backend(tokenizer))
    special_ids = tokenizer.cls_token_id, tokenizer.sep_token_id
    recipe = recipes.make_recipe(backend, special_ids, (128, 8), 0.0)
    assert recipe.word_by_word == (kind in LOOKED_UP)


@pytest.mark.parametrize(
    ("kind", "looked_up"),
    [*((kind, False) for kind in KINDS), *((kind, True) for kind in sorted(LOOKED_UP))],
)
def test_the_store_is_what_the_tokenizer_says(tmp_path, monkeypatch, kind, looked_up):
    """One sequence for each text, in order, with the text's own tokens between [CLS] and [SEP]."""
    if not looked_up:
        monkeypatch.setattr(recipes, "splits_at_spaces", lambda _: False)
    tokenizer = tokenizer_of(kind)
    # Twice, so that words are found which were learned from another text.
    texts = [*AWKWARD, *(f"the {text}cat" for text in AWKWARD)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = data_config(tmp_path / "s", path, max_length=8192, min_length=3, held_out_fraction=0.0)
    found = all_sequences(prepare(data, tokenizer, 1).train)
    assert found == [sequence for text in texts if (sequence := expected(tokenizer, text))]


def expected(tokenizer, text: str) -> list[int]:
    """The sequence of a text; empty if it has no tokens."""
    text = text.rstrip("\r\n")
    reader = Tokenizer.from_str(json.dumps(text_backend(tokenizer)))
    ids = reader.encode(text, add_special_tokens=False).ids
    control = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id}
    if CONTROL.search(text):
        assert not control & set(ids), text
    else:
        own = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        assert ids == own.ids, text
    if not ids or not text.strip():
        return []
    return [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_a_list_are_read_as_within_a_text(kind):
    """The tokens that they have after another word and a space."""
    texts = TextTokenizer(tokenizer_of(kind))
    words = ["the", "cats", "na\xefve", "1998", "\u4e16\u754c", "x1.", "cat"]
    [of_list] = texts([words], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    [of_text] = texts(["x " + " ".join(words)], add_special_tokens=False)["input_ids"]
    [before] = texts(["x"], add_special_tokens=False)["input_ids"]
    assert before + of_list == of_text


MODEL_TYPES = {
    "RoBERTa": "roberta",
    "ModernBERT": "modernbert",
    "XLM-RoBERTa": "xlm-roberta",
    "CamemBERT": "camembert",
    "Unigram, always marked": "xlm-roberta",
    "mmBERT": "modernbert",
    "uncased WordPiece": "bert",
}


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_tokenizer_saved_beside_a_student_is_the_same(tmp_path, kind):
    """So a store that was made with one fits the other; <mask> still takes the space before it."""
    tokenizer = tokenizer_of(kind)
    for folder in (tmp_path / "once", tmp_path / "twice"):
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[kind]}))
        loaded = load_tokenizer(str(folder))
        assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)
        for text in AWKWARD:
            assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        tokenizer = loaded


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_of_every_kind_are_checked(kind):
    """<mask> may take the space before it, and padding may be the end of a text."""
    tokenizer = tokenizer_of(kind)
    check_special_tokens(tokenizer, "model")
    tokenizer.pad_token = tokenizer.sep_token
    check_special_tokens(tokenizer, "model")
    tokenizer.mask_token = tokenizer.sep_token
    with pytest.raises(ModelError, match="is its sep_token, too"):
        check_special_tokens(tokenizer, "model")


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_of_every_kind_needs_an_embedding(kind):
    tokenizer = tokenizer_of(kind)
    check_tokens(tokenizer, len(tokenizer), "model")
    with pytest.raises(ModelError, match=f"has the id {len(tokenizer) - 1}"):
        check_tokens(tokenizer, len(tokenizer) - 1, "model")
