"""Windows of a context: every token is in one, they overlap, and answers are found in them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from input_rows import CLS, SEP, SPELT, TOKENIZER, pieces_of, positions_of, rows_of, word_lists
from task_rows import open_rows, question
from tiny_experiments import WORDS

from distilcli.config.tasks import QuestionAnsweringTask
from distilcli.errors import DataError
from distilcli.tasks.question_answering import Question, _inputs


def windows_config(**settings):
    shape = {"max_length": 16, "stride": 4, "max_question_length": 4}
    files = {"files": ["unused.json"]}
    section = {"kind": "question-answering", "train": files, "dev": files} | shape | settings
    return QuestionAnsweringTask.model_validate(section)


def windows_of(context, answer=None, text="bo", **settings):
    """Inputs and windows of one question; the answer is (text, first character)."""
    answers = [answer or (context[:1], 0)]
    return _inputs([Question(text, context, answers)], TOKENIZER, windows_config(**settings))[:2]


_TEXTS = word_lists(SPELT).map(" ".join)


@given(_TEXTS, word_lists(SPELT, 6).map(" ".join), st.data())
def test_windows_hold_every_token_and_overlap_by_the_stride(context, text, data):
    stride = data.draw(st.integers(0, 8))
    max_length = data.draw(st.integers(stride + 8, stride + 20).filter(lambda size: size >= 16))
    max_question_length = data.draw(st.integers(1, min(9, max_length - stride - 4)))
    whole = TOKENIZER(context, add_special_tokens=False, return_offsets_mapping=True)
    asked = pieces_of(text)[:max_question_length]
    room = max_length - len(asked) - 3
    inputs, windows = windows_of(
        context,
        text=text,
        stride=stride,
        max_length=max_length,
        max_question_length=max_question_length,
    )
    begin, seen = 0, 0
    for row, types, window in zip(
        rows_of(inputs), rows_of(inputs, "token_types"), windows, strict=True
    ):
        part = whole["input_ids"][begin : begin + room]
        assert row == [CLS, *asked, SEP, *part, SEP]
        assert types == [0] * (len(asked) + 2) + [1] * (len(part) + 1)
        assert window.question == 0
        assert window.first == len(asked) + 2
        spans = [list(span) for span in whole["offset_mapping"][begin : begin + room]]
        assert window.spans.tolist() == spans
        seen = begin + len(part)
        begin += room - stride
    assert seen == len(whole["input_ids"])
    # The last one was needed.
    assert len(windows) == 1 or begin - (room - stride) + stride < seen
    assert positions_of(inputs) == [list(range(len(row))) for row in rows_of(inputs)]


@given(word_lists(WORDS), st.data())
def test_targets_point_to_the_answer_or_to_the_first_token(words, data):
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(len(words) - 1, first + 6)))
    stride = data.draw(st.integers(0, 8))
    context, answer = " ".join(words), " ".join(words[first : last + 1])
    # A word is two letters and a blank, and one token.
    inputs, windows = windows_of(context, (answer, 3 * first), stride=stride)
    room, found = 16 - 1 - 3, 0
    for index, (start, end) in enumerate(inputs.targets.tolist()):
        begin = index * (room - stride)
        if begin <= first and last < begin + room:
            assert [start, end] == [3 + first - begin, 3 + last - begin]
            assert rows_of(inputs)[index][start : end + 1] == pieces_of(answer)
            spans = windows[index].spans
            assert context[spans[start - 3, 0] : spans[end - 3, 1]] == answer
            found += 1
        else:
            assert [start, end] == [0, 0]
    # An answer of no more tokens than the overlap and one is whole in some window.
    assert found or last - first > stride
    assert inputs.targets.dtype == np.int64


@pytest.mark.parametrize(
    ("context", "answer", "expected"),
    [
        ("ba, be", ("be", 4), [5, 5]),
        ("(ba) be", ("ba", 1), [4, 4]),  # punctuation is a token of its own
        ("baxy be", ("xy", 2), [4, 5]),  # the last pieces of a word
        ("baxy be", ("y be", 3), [5, 6]),
        ("babe be", ("abe", 1), [3, 5]),  # not whole pieces: all that it touches
        ("ba be be", ("be", 6), [5, 5]),  # not the first place where the word stands
        ("ba be bi", (" be ", 2), [4, 4]),
        ("\u00e9 ba \u00fc be", ("be", 7), [6, 6]),
    ],
)
def test_targets_of_answers_within_words(context, answer, expected):
    assert context[answer[1] :].startswith(answer[0])
    inputs, _ = windows_of(context, answer)
    assert inputs.targets.tolist() == [expected]


@pytest.mark.parametrize(
    ("context", "answer", "expected"),
    [
        (" ba be", (" ba", 0), [3, 3]),
        ("ba be\n", ("be\n", 3), [4, 4]),
        ("\u200bba be", ("\u200bba be", 0), [3, 4]),
    ],
)
def test_an_answer_with_blanks_at_the_edge_of_the_context_is_found(context, answer, expected):
    """No token holds the blank, but every token of the answer is in the window."""
    inputs, _ = windows_of(context, answer)
    assert inputs.targets.tolist() == [expected]


@pytest.mark.parametrize("blanks", ["", " "])
def test_an_answer_is_found_up_to_the_edge_of_a_window(blanks):
    words = WORDS[:20]  # the windows are of words 0 to 11 and 8 to 19
    context = " ".join(words)
    answer = f"{words[10]} {words[11]}{blanks}"
    inputs, _ = windows_of(context, (answer, 30))
    assert inputs.targets.tolist() == [[13, 14], [5, 6]]
    answer = f"{blanks}{words[8]} {words[9]}"
    inputs, _ = windows_of(context, (answer, 24 - len(blanks)))
    assert inputs.targets.tolist() == [[11, 12], [3, 4]]


def test_an_answer_that_is_partly_in_a_window_is_not_found_in_it():
    words = WORDS[:20]  # the windows are of words 0 to 11 and 8 to 19
    targets = {(11, 12): [[0, 0], [6, 7]], (7, 8): [[10, 11], [0, 0]], (7, 12): [[0, 0]] * 2}
    for (first, last), expected in targets.items():
        answer = " ".join(words[first : last + 1])
        inputs, _ = windows_of(" ".join(words), (answer, 3 * first))
        assert inputs.targets.tolist() == expected


def test_the_first_of_several_answers_is_the_target():
    answers = [("bi", 6), ("ba", 0)]
    inputs, _, _ = _inputs([Question("bo", "ba be bi", answers)], TOKENIZER, windows_config())
    assert inputs.targets.tolist() == [[5, 5]]


def test_windows_belong_to_their_questions_however_many_there_are():
    """Questions are tokenized in parts of 256."""
    long = " ".join(WORDS[:19])  # 20 words are two windows
    asked = []
    for index in range(520):
        word = WORDS[index % 40]
        context = f"{word} {long}" if index % 100 == 7 else f"ki {word}"
        asked.append(Question("bo", context, [(word, context.index(word))]))
    inputs, windows, _ = _inputs(asked, TOKENIZER, windows_config())
    expected = [index for index in range(520) for _ in range(2 if index % 100 == 7 else 1)]
    assert [window.question for window in windows] == expected
    assert len(inputs) == len(expected)
    rows, earlier = rows_of(inputs), -1
    for number, (index, row) in enumerate(zip(expected, rows, strict=True)):
        if index != earlier:  # the answer is in the first window
            start, end = inputs.targets[number]
            assert row[start : end + 1] == pieces_of(WORDS[index % 40])
        earlier = index


def test_a_question_without_tokens_still_has_its_context():
    inputs, windows = windows_of("ba be", ("be", 3), text="\u200b")
    assert rows_of(inputs) == [[CLS, SEP, *pieces_of("ba be"), SEP]]
    assert windows[0].first == 2
    assert inputs.targets.tolist() == [[3, 3]]


def test_a_context_without_tokens_has_no_window():
    asked = [Question("bo", context, [(context, 0)]) for context in ("ba", "\u200b", "be")]
    inputs, windows, _ = _inputs(asked, TOKENIZER, windows_config())
    assert [window.question for window in windows] == [0, 2]
    assert len(inputs) == 2


def test_an_answer_before_the_context_is_a_bad_row(tmp_path):
    """Counted from the end, as Python does, it would be there."""
    row = question("ba be bi", "be")
    row["answers"][0]["answer_start"] -= len("ba be bi")
    with pytest.raises(DataError, match="1 bad row"):
        open_rows(tmp_path, TOKENIZER, "question-answering", [row], [row], **SHAPE)


SHAPE = {"max_length": 16, "stride": 4, "max_question_length": 4}
