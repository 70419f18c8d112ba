"""What inputs are made of is kept beside them, so that another tokenizer can read the same."""

import numpy as np
from input_rows import TOKENIZER, pieces_of, rows_of
from task_rows import open_rows, question

from distilcli.config.tasks import Augmentation
from distilcli.tasks.augmentation import augment
from distilcli.tasks.shown import ShownWindow, ShownWords, digest_of_shown


def test_texts_are_shown_whole_however_they_are_cut(tmp_path):
    rows = [
        {"text": "ba be bi bo ba be bi bo", "other": "du da", "label": "a"},
        {"text": "Fo.", "other": "gu", "label": "b"},
    ]
    task = open_rows(
        tmp_path, TOKENIZER, "classification", rows, rows[::-1], text_pair="other", max_length=8
    )
    expected = [("ba be bi bo ba be bi bo", "du da"), ("Fo.", "gu")]
    assert task.train.shown == expected
    assert task.dev.shown == expected[::-1]


def test_words_are_those_of_each_input_and_outputs_are_read_at_those_with_a_tag(tmp_path):
    words = ["ba", "bexy", "bixy", "foxy", "gu"]
    rows = [
        {"tokens": words, "tags": ["a", "b", -100, "a", "b"]},
        {"tokens": ["ka", "be"], "tags": [-100, "a"]},
    ]
    train = open_rows(tmp_path, TOKENIZER, "tagging", rows, rows[:1], max_length=8).train
    assert train.shown == [
        ShownWords(["ba", "bexy"], [0, 1]),
        ShownWords(["bixy", "foxy"], [1]),
        ShownWords(["gu"], [0]),
        ShownWords(["ka", "be"], [1]),
    ]
    # The words, cut as the student's tokenizer cuts them, are the input.
    for row, shown in zip(rows_of(train), train.shown, strict=True):
        assert isinstance(shown, ShownWords)
        assert row[1:-1] == [piece for word in shown.words for piece in pieces_of(word)]
    assert [len(shown.read) for shown in train.shown] == train.num_outputs_of.tolist()


def test_a_window_shows_its_question_and_its_piece_of_the_context(tmp_path):
    context = "ba be  bi. bo ba be bi bo du da do fo"
    rows = [question(context, "bi", text="bo ba be bi bo")]
    train = open_rows(
        tmp_path,
        TOKENIZER,
        "question-answering",
        rows,
        rows,
        max_length=16,
        stride=2,
        max_question_length=4,
    ).train
    assert len(train.shown) == len(train) > 1
    for row, shown in zip(rows_of(train), train.shown, strict=True):
        assert isinstance(shown, ShownWindow)
        assert shown.question == "bo ba be bi"
        assert shown.num_tokens == len(row)
        assert TOKENIZER(shown.question, shown.piece)["input_ids"] == row
        assert context[shown.begin :].startswith(shown.piece)
        texts = [context[begin:end] for begin, end in shown.spans.tolist()]
        assert texts == TOKENIZER.convert_ids_to_tokens(row[shown.first : -1])


def test_inputs_with_other_tokens_show_nothing(tmp_path):
    """A changed copy is of no text."""
    rows = [{"text": "ba be", "label": "a"}, {"text": "bi", "label": "b"}]
    train = open_rows(tmp_path, TOKENIZER, "classification", rows, rows).train
    assert augment(train, Augmentation(copies=1), TOKENIZER, 1).shown == ()


def test_the_digest_sees_every_part_and_where_it_ends():
    spans = np.array([[3, 5], [6, 8]], np.int32)
    different = [
        [("ab",)],
        [("a", "b")],
        [("a",), ("b",)],
        [("b",), ("a",)],
        [ShownWords(["a", "b"], [0])],
        [ShownWords(["a", "b"], [1])],
        [ShownWords(["ab"], [0])],
        [ShownWindow("q", "ba be bi", spans, 3, 6)],
        [ShownWindow("q", "ba be bi", spans, 4, 6)],
        [ShownWindow("q", "ba be bi", spans, 3, 7)],
        [ShownWindow("q", "ba be bi", spans[:1], 3, 6)],
        [ShownWindow("o", "ba be bi", spans, 3, 6)],
        [ShownWindow("q", "ba bo bi", spans, 3, 6)],
        [],
    ]
    assert len({digest_of_shown(shown) for shown in different}) == len(different)
    assert digest_of_shown([("a", "b")]) == digest_of_shown([("a", "b")])
