"""Inputs of texts, pairs and sentences: cut where they are to be, with targets in their place."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from input_rows import CLS, SEP, SPELT, TOKENIZER, UNK, pieces_of, positions_of, rows_of
from task_rows import open_rows
from tiny_experiments import WORDS


def texts(folder, rows, max_length=128, **settings):
    """The training inputs of texts or pairs, with a class each."""
    rows = [
        {"first": row[0], "second": row[-1], "label": "ab"[index % 2]}
        for index, row in enumerate([*rows, rows[0]] if len(rows) == 1 else rows)
    ]
    columns = {"text": "first", "max_length": max_length} | settings
    return open_rows(folder, TOKENIZER, "classification", rows, rows[:1], **columns).train


def test_a_text_is_cut_at_its_end(tmp_path):
    words = WORDS[:9]
    inputs = texts(tmp_path, [[" ".join(words)], ["ba be"]], max_length=8)
    assert rows_of(inputs) == [
        [CLS, *pieces_of(" ".join(words[:6])), SEP],
        [CLS, *pieces_of("ba be"), SEP],
    ]
    assert rows_of(inputs, "token_types") == [[0] * 8, [0] * 4]
    assert positions_of(inputs) == [[0], [0]]  # where [CLS] is
    assert inputs.targets.tolist() == [0, 1]


@given(st.lists(st.tuples(st.integers(1, 14), st.integers(1, 14)), min_size=2, max_size=5))
def test_of_a_pair_the_longer_text_is_cut_first(sizes):
    max_length = 12
    pairs = [(WORDS[:first], WORDS[20 : 20 + second]) for first, second in sizes]
    with tempfile.TemporaryDirectory() as folder:
        inputs = texts(
            Path(folder),
            [[" ".join(text) for text in pair] for pair in pairs],
            max_length=max_length,
            text_pair="second",
        )
    for row, types, (first, second) in zip(
        rows_of(inputs), rows_of(inputs, "token_types"), pairs, strict=True
    ):
        middle = row.index(SEP)
        kept = middle - 1, len(row) - middle - 2
        assert row == [
            CLS,
            *pieces_of(" ".join(first[: kept[0]])),
            SEP,
            *pieces_of(" ".join(second[: kept[1]])),
            SEP,
        ]
        assert types == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)
        # Token by token off the longer one; of equals either.
        left = [len(first), len(second)]
        while sum(left) > max_length - 3:
            left[left.index(max(left))] -= 1
        assert sum(kept) == sum(left)
        assert abs(kept[0] - left[0]) <= (abs(left[0] - left[1]) == 1)


def test_texts_keep_their_order_however_many_there_are(tmp_path):
    """They are tokenized in parts of 1,024."""
    words = [WORDS[index % 37] for index in range(2100)]
    inputs = texts(tmp_path, [[word] for word in words])
    assert [row[1] for row in rows_of(inputs)] == [pieces_of(word)[0] for word in words]
    assert inputs.targets.tolist() == [index % 2 for index in range(2100)]


@pytest.mark.parametrize(
    ("kind", "labels", "expected", "dtype"),
    [
        ("classification", ["b", "a", "c"], [1, 0, 2], np.int64),
        ("classification", [10, 2, 2], [1, 0, 0], np.int64),  # 2 is before 10
        ("multi-label", [["b"], [], ["c", "a"]], [[0, 1, 0], [0, 0, 0], [1, 0, 1]], np.float32),
        ("multi-label", ["b", "", "c, a"], [[0, 1, 0], [0, 0, 0], [1, 0, 1]], np.float32),
        ("regression", ["0.5", 2, -3.25], [0.5, 2, -3.25], np.float32),
    ],
)
def test_targets_of_texts(tmp_path, kind, labels, expected, dtype):
    """Labels of texts become targets in the type that the loss takes."""
    rows = [{"text": "ba", "label": label} for label in labels]
    inputs = open_rows(tmp_path, TOKENIZER, kind, rows, rows, label="label").train
    assert inputs.targets.tolist() == expected
    assert inputs.targets.dtype == dtype
    assert inputs.targets_are_of_rows


# Words


def tagged(folder, sentences, max_length):
    """Training inputs of sentences; the tags of all words in turn are a, b and c."""
    rows, number = [], 0
    for words in sentences:
        tags = ["abc"[(number + index) % 3] for index in range(len(words))]
        rows.append({"tokens": words, "tags": tags})
        number += len(words)
    return open_rows(
        folder,
        TOKENIZER,
        "tagging",
        rows,
        rows[:1],
        max_length=max_length,
        labels=["a", "b", "c"],
    ).train


def test_outputs_are_read_at_the_first_piece_of_each_word(tmp_path):
    inputs = tagged(tmp_path, [["ba", "bexy", "BI.", "fo"], ["xyz"]], 16)
    assert [TOKENIZER.convert_ids_to_tokens(row) for row in rows_of(inputs)] == [
        ["[CLS]", "ba", "be", "##x", "##y", "bi", ".", "fo", "[SEP]"],
        ["[CLS]", "x", "##y", "##z", "[SEP]"],
    ]
    assert positions_of(inputs) == [[1, 2, 5, 7], [1]]
    assert inputs.targets.tolist() == [0, 1, 2, 0, 1]
    assert not inputs.token_types.any()


@pytest.mark.parametrize("dropped", ["\u200b", "\ufeff", "\x07", "\u200b\u200d", "\ufffd"])
def test_a_word_that_the_tokenizer_drops_is_unknown(tmp_path, dropped):
    """Its tag stays with it, and the tags of the other words stay with theirs."""
    assert pieces_of(dropped) == []
    inputs = tagged(tmp_path, [["ba", dropped, "be"], [dropped], [dropped, "bi"]], 16)
    (ba,), (be,), (bi,) = map(pieces_of, ("ba", "be", "bi"))
    assert rows_of(inputs) == [[CLS, ba, UNK, be, SEP], [CLS, UNK, SEP], [CLS, UNK, bi, SEP]]
    assert positions_of(inputs) == [[1, 2, 3], [1], [1, 2]]
    assert inputs.targets.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_long_sentence_is_cut_between_words(tmp_path):
    # Room for 6 pieces: 1 + 3, and 3 more do not fit; 3 + 3 do; then a word is left.
    words = ["ba", "bexy", "bixy", "foxy", "gu"]
    inputs = tagged(tmp_path, [words, ["ka"]], 8)
    assert [TOKENIZER.convert_ids_to_tokens(row) for row in rows_of(inputs)] == [
        ["[CLS]", "ba", "be", "##x", "##y", "[SEP]"],
        ["[CLS]", "bi", "##x", "##y", "fo", "##x", "##y", "[SEP]"],
        ["[CLS]", "gu", "[SEP]"],
        ["[CLS]", "ka", "[SEP]"],  # another sentence is another input
    ]
    assert positions_of(inputs) == [[1, 2], [1, 4], [1], [1]]
    assert inputs.targets.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_word_longer_than_an_input_is_cut(tmp_path, place):
    words = ["ba", "be"]
    words.insert(place, "xxxxxxxx")
    inputs = tagged(tmp_path, [words], 8)
    pieces = [pieces_of(word)[:6] for word in words]
    cut = {
        0: [pieces[0], pieces[1] + pieces[2]],
        1: [pieces[0], pieces[1], pieces[2]],
        2: [pieces[0] + pieces[1], pieces[2]],
    }[place]
    assert rows_of(inputs) == [[CLS, *row, SEP] for row in cut]
    assert len(inputs.output_positions) == len(inputs.targets) == 3
    assert max(inputs.lengths) == 8


_ANY_WORDS = [*SPELT, "\u200b", "\x07", "xxxxxxxxxxxx", "b\u200ba"]


@given(
    st.lists(
        st.lists(st.sampled_from(_ANY_WORDS), min_size=1, max_size=15), min_size=1, max_size=4
    ),
    st.integers(8, 20),
)
def test_every_word_is_in_one_input_once(sentences, max_length):
    with tempfile.TemporaryDirectory() as folder:
        inputs = tagged(Path(folder), sentences, max_length)
    room = max_length - 2
    # Each word by itself, then as many words in an input as fit.
    expected, positions = [], []
    for words in sentences:
        tokens, firsts = [], []
        for word in words:
            pieces = (pieces_of(word) or [UNK])[:room]
            if len(tokens) + len(pieces) > room:
                expected.append(tokens)
                positions.append(firsts)
                tokens, firsts = [], []
            firsts = [*firsts, 1 + len(tokens)]
            tokens = tokens + pieces
        expected.append(tokens)
        positions.append(firsts)
    assert rows_of(inputs) == [[CLS, *tokens, SEP] for tokens in expected]
    assert positions_of(inputs) == positions
    num_words = sum(map(len, sentences))
    assert inputs.targets.tolist() == [index % 3 for index in range(num_words)]
    assert inputs.targets_are_of_rows


def test_sentences_keep_their_order_however_many_there_are(tmp_path):
    """They are tokenized in parts of 1,024."""
    words = [WORDS[index % 37] for index in range(2100)]
    inputs = tagged(tmp_path, [[word] for word in words], 8)
    assert [row[1] for row in rows_of(inputs)] == [pieces_of(word)[0] for word in words]
    assert inputs.targets.tolist() == [index % 3 for index in range(2100)]
