"""Which written words are tokens by name: added ones are, control tokens are not, on every path."""

import json
from pathlib import Path
from typing import Any

import pytest
from byte_level import byte_level_tokenizer
from task_rows import open_rows, question
from tiny_models import word_tokenizer as whole_words
from tiny_tasks import pair_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distilcli.corpus.recipe import make_recipe
from distilcli.corpus.sequences import Sequencer
from distilcli.errors import DataError
from distilcli.tasks.inputs import Inputs
from distilcli.text.tokenizers import TextTokenizer, text_backend, tokenizer_fingerprint

WRITTEN = "ba [MASK] [SEP] [CLS] [PAD] [UNK] bo"


def with_added(*tokens: AddedToken) -> PreTrainedTokenizerFast:
    tokenizer = pair_tokenizer()
    tokenizer.add_tokens(list(tokens))
    return tokenizer


URL = AddedToken("<url>", special=True, normalized=False)
EMOJI = AddedToken(":-)", special=False)


def shown(tokenizer: PreTrainedTokenizerFast, inputs: Inputs) -> list[list[str]]:
    """The tokens of each input."""
    tokens = tokenizer.convert_ids_to_tokens(inputs.token_ids.tolist())
    return [tokens[a:b] for a, b in zip(inputs.offsets, inputs.offsets[1:], strict=False)]


def corpus_tokens(tokenizer: PreTrainedTokenizerFast, text: str, looked_up: bool) -> list[str]:
    tree = text_backend(tokenizer)
    recipe = make_recipe(json.dumps(tree), (2, 3), (64, 3), 0.0)
    assert recipe.word_by_word
    sequencer = Sequencer(recipe)
    if not looked_up:
        object.__setattr__(recipe, "word_by_word", False)
    ids = sequencer([text], "train")["train"].values.tolist()
    return tokenizer.convert_ids_to_tokens(ids)[1:-1]


@pytest.mark.parametrize("looked_up", [True, False])
def test_the_corpus_path_reads_as_the_task_path_does(tmp_path: Path, looked_up: bool) -> None:
    tokenizer = with_added(URL, EMOJI)
    text = "ba <url>:-) [MASK] bo<url> [SEP]"
    rows = [{"text": text, "label": "x"}, {"text": "bo", "label": "y"}]
    task = open_rows(tmp_path, tokenizer, "classification", rows, rows[1:])
    [first, _] = shown(tokenizer, task.train)
    assert first[1:-1] == corpus_tokens(tokenizer, text, looked_up)
    assert first[:4] == ["[CLS]", "ba", "<url>", ":-)"]
    assert first.count("<url>") == 2
    assert "[MASK]" not in first
    assert first.count("[SEP]") == 1


def task_inputs(folder: Path, tokenizer: Any, kind: str) -> Inputs:
    """The inputs of a task whose texts hold control tokens and an added one."""
    written = f"{WRITTEN} <url>"
    if kind == "question-answering":
        row = question(f"{written} fa", "fa", text=f"be {written}")
        rows, other = [row], [question("ba bo", "bo")]
    elif kind == "tagging":
        words = written.split()
        rows = [{"tokens": words, "tags": ["A"] * (len(words) - 1) + ["B"]}]
        other = [{"tokens": ["ba"], "tags": ["A"]}]
    else:
        label = {"regression": 1.0, "multi-label": ["x", "y"]}.get(kind, "x")
        rows = [{"text": f"ba {written}", "label": label, "labels": label}]
        other = [{"text": "bo", "label": label, "labels": label}]
        if kind == "classification":
            rows.append({"text": "fa", "label": "y"})
    return open_rows(folder, tokenizer, kind, rows, other).train


@pytest.mark.parametrize(
    "kind", ["classification", "multi-label", "regression", "tagging", "question-answering"]
)
def test_every_kind_of_task_places_control_tokens_itself(tmp_path: Path, kind: str) -> None:
    tokenizer = with_added(URL)
    tokens = shown(tokenizer, task_inputs(tmp_path, tokenizer, kind))[0]
    texts = 2 if kind == "question-answering" else 1
    counts = {name: tokens.count(f"[{name}]") for name in ("CLS", "SEP", "MASK", "PAD")}
    assert counts == {"CLS": 1, "SEP": texts, "MASK": 0, "PAD": 0}
    assert tokens.count("<url>") == texts


def test_a_model_that_looks_up_whole_words_has_no_control_tokens() -> None:
    tokenizer = whole_words()
    found = TextTokenizer(tokenizer)(["w1 [MASK] w2 [SEP] [UNK]"], add_special_tokens=False)
    unknown = tokenizer.unk_token_id
    w1, w2 = tokenizer.convert_tokens_to_ids(["w1", "w2"])
    assert found["input_ids"] == [[w1, unknown, w2, unknown, unknown]]
    assert TextTokenizer(tokenizer)(["w1"])["input_ids"] == [
        [tokenizer.cls_token_id, w1, tokenizer.sep_token_id]
    ]


def test_ids_stay_where_a_control_token_was_added_last() -> None:
    tree = json.loads(pair_tokenizer().backend_tokenizer.to_str())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if t["content"] != "[MASK]"]
    mask = tree["model"]["vocab"].pop("[MASK]")
    tree["model"]["vocab"]["spare"] = mask
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(tree)),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    tokenizer.add_tokens([URL])
    expected = tokenizer.convert_tokens_to_ids("<url>")
    assert expected == tokenizer.mask_token_id + 1
    assert TextTokenizer(tokenizer)(["<url>"], add_special_tokens=False)["input_ids"] == [
        [expected]
    ]


def test_the_tokenizer_of_the_student_is_left_as_it_is() -> None:
    tokenizer = with_added(URL)
    before = tokenizer.backend_tokenizer.to_str()
    TextTokenizer(tokenizer)([WRITTEN])
    assert tokenizer.backend_tokenizer.to_str() == before
    assert "[MASK]" in tokenizer.tokenize(WRITTEN)


def test_only_stores_whose_content_would_differ_are_of_another_tokenizer() -> None:
    """The fingerprint of an ordinary BERT's tokenizer is what it always was."""
    assert tokenizer_fingerprint(pair_tokenizer()) == "b314de19f622a0fc55c96fcf35d72308"
    special, ordinary = with_added(URL), with_added(AddedToken("<url>", special=False))
    assert tokenizer_fingerprint(special) != tokenizer_fingerprint(ordinary)


def test_a_regular_expression_that_takes_too_long_is_named_on_both_paths():
    """The expression tries every way of cutting a run of letters; its engine panics."""
    tokenizer = pair_tokenizer()
    exploding = pre_tokenizers.Split(Regex("(b+)+$"), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = exploding
    text = "b" * 40 + "!"
    expected = r"the tokenizer gives up on a text \(Onig: Regex search error: retry-limit"
    with pytest.raises(DataError, match=expected) as caught:
        TextTokenizer(tokenizer)(text)
    assert "use another tokenizer" in caught.value.hint
    recipe = make_recipe(json.dumps(text_backend(tokenizer)), (2, 3), (64, 3), 0.0)
    with pytest.raises(DataError, match=expected):
        Sequencer(recipe)([text], None)


# Byte-level tokenizers


def test_words_of_a_list_have_the_tokens_that_they_have_within_a_text() -> None:
    """After a space, that is, as all words of a text but its first one are."""
    tokenizer = byte_level_tokenizer()
    texts = TextTokenizer(tokenizer)
    words = ["ba", "be", "zu", "bi"]
    found = texts([words], is_split_into_words=True, add_special_tokens=False)
    [whole] = texts(["".join(f" {word}" for word in words)], add_special_tokens=False)["input_ids"]
    assert found["input_ids"] == [whole]
    assert tokenizer.decode(whole) == " ba be zu bi"
    assert found.word_ids(0) == sorted(found.word_ids(0))
    # A text by itself is read as it stands.
    [alone] = texts(["ba be zu bi"], add_special_tokens=False)["input_ids"]
    assert alone != whole
    assert tokenizer.decode(alone) == "ba be zu bi"


def test_control_tokens_are_text_to_a_byte_level_tokenizer_too() -> None:
    tokenizer = byte_level_tokenizer()
    texts = ["ba <mask> </s> <s> <pad> bo"]
    [ids] = TextTokenizer(tokenizer)(texts)["input_ids"]
    special = set(tokenizer.all_special_ids)
    assert [index for index in ids if index in special] == [
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
    ]
    assert tokenizer.decode(ids, skip_special_tokens=True) == texts[0]


def test_sequences_of_a_byte_level_tokenizer_end_between_words() -> None:
    tokenizer = byte_level_tokenizer()
    backend = json.dumps(text_backend(tokenizer))
    recipe = make_recipe(backend, (tokenizer.cls_token_id, tokenizer.sep_token_id), (12, 3), 0.0)
    text = "zuzu bizu badefigo zubazu zuzuzu bo " * 4
    found = Sequencer(recipe)([text], "train")["train"]
    ends = [sum(found.lengths[: i + 1]) for i in range(len(found.lengths))]
    rows = [
        found.values.tolist()[end - length : end]
        for end, length in zip(ends, found.lengths, strict=True)
    ]
    assert len(rows) > 5
    pieces = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    assert "".join(pieces) == text
    assert all(piece.startswith(" ") for piece in pieces[1:])


def test_the_end_of_its_last_line_is_no_token_of_a_document() -> None:
    """Of the lines within one it is: a byte-level tokenizer reads them as they stand."""
    tokenizer = byte_level_tokenizer()
    backend = json.dumps(text_backend(tokenizer))
    recipe = make_recipe(backend, (tokenizer.cls_token_id, tokenizer.sep_token_id), (64, 3), 0.0)
    found = Sequencer(recipe)(["ba be\n", "ba be\r\n", "ba be", "ba\nbe\n"], "train")["train"]
    text = tokenizer.decode(found.values.tolist())
    assert text == "<s>ba be</s>" * 3 + "<s>ba\nbe</s>"
