"""Scores of question answering: the best span of logits, over all windows of a question."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from score_values import near
from task_rows import open_rows, question
from tiny_tasks import pair_tokenizer

from distilcli.tasks.question_answering import best_span

TOKENIZER = pair_tokenizer()
HIGH = 50.0


@given(st.data(), st.integers(1, 12), st.integers(1, 15))
def test_best_span_is_that_of_brute_force(data, size, max_length):
    # Few different values, so that there are equals, of which the first is to be taken.
    logits = arrays.arrays(np.float32, size, elements=st.integers(-3, 3))
    start, end = data.draw(logits), data.draw(logits)
    expected = (-math.inf, 0, 0)
    for first in range(size):
        for last in range(first, min(size, first + max_length)):
            value = float(start[first]) + float(end[last])
            if value > expected[0]:
                expected = (value, first, last)
    assert best_span(start, end, max_length) == expected


# Windows of 16 tokens: [CLS] question [SEP], 12 tokens of context or fewer, [SEP]; 4 are in two.
_FIRST = 3
_CONTEXT = "ba be bi bo bu da de di do du fa fe fi fo fu ga ge gi go gu"


def questions(folder, dev, **settings):
    shape = {"max_length": 16, "stride": 4, "max_question_length": 4} | settings
    train = [question("ba be", "be")]
    return open_rows(folder, TOKENIZER, "question-answering", train, dev, **shape)


def logits_of(lengths, chosen):
    """Logits 0, but those of (window, start, end, height), tokens counted in its context."""
    rows = np.zeros((sum(lengths), 2), np.float32)
    for window, start, end, height in chosen:
        begin = sum(lengths[:window]) + _FIRST
        rows[begin + start, 0] = height
        rows[begin + end, 1] = height
    return rows


def test_scores_of_answers_are_means_over_questions(tmp_path):
    task = questions(
        tmp_path,
        [
            question("Ba  BE, bi", "Ba", "be bi".replace("be", "BE,")),
            question("da de di do", "de di do"),
            question("fa fe", "fe"),
        ],
    )
    # Tokens: [CLS] bo [SEP] ba be , bi [SEP], and so on.
    lengths = [8, 8, 6]
    assert task.dev.lengths.tolist() == lengths
    outputs = logits_of(lengths, [(0, 0, 1, 5), (1, 1, 3, 5), (2, 0, 0, 5)])
    assert task.answers(outputs) == ["Ba  BE", "de di do", "fa"]  # as the context has them
    # The first has one word of two right, whichever answer it is held against: 1/2 and 1, or 1/2
    # and 1/2.
    assert task.scores(outputs) == {"exact_match": near(1 / 3), "f1": near((2 / 3 + 1 + 0) / 3)}


def test_only_tokens_of_the_context_are_answers(tmp_path):
    task = questions(tmp_path, [question("ba be bi", "be")])
    outputs = logits_of([7], [(0, 1, 1, 5)])
    for place in (0, 1, 2, 6):  # [CLS], the question, both [SEP]
        outputs[place] = HIGH
    assert task.answers(outputs) == ["be"]


def test_an_answer_does_not_end_before_it_starts(tmp_path):
    task = questions(tmp_path, [question("ba be bi bo", "be")])
    outputs = logits_of([8], [])
    outputs[_FIRST + 2, 0] = outputs[_FIRST + 1, 1] = 5  # bi is the start, be the end
    outputs[_FIRST + 3, 1] = 1
    assert task.answers(outputs) == ["bi bo"]


@pytest.mark.parametrize(
    ("max_answer_length", "expected"), [(1, "ba"), (3, "bi bo bu"), (5, "ba be bi bo bu")]
)
def test_an_answer_is_not_too_long(tmp_path, max_answer_length, expected):
    task = questions(
        tmp_path, [question("ba be bi bo bu", "be")], max_answer_length=max_answer_length
    )
    outputs = logits_of([9], [])
    outputs[_FIRST + np.arange(5), 0] = [9, 0, 7, 0, 0]
    outputs[_FIRST + np.arange(5), 1] = [1, 0, 0, 0, 8]
    # Of one token: ba has 9 + 1, bu 8. Of three: from bi on, 7 + 8. Of five: all, 9 + 8.
    assert task.answers(outputs) == [expected]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([(0, 1, 2, 5), (1, 6, 7, 6)], "fu ga"),
        ([(0, 1, 2, 6), (1, 6, 7, 5)], "be bi"),
        ([(0, 1, 2, 5), (1, 6, 7, 5)], "be bi"),  # of equals the first
        ([(0, 9, 9, 5), (1, 1, 2, 6)], "du fa"),  # both windows have these tokens
    ],
)
def test_the_best_of_all_windows_of_a_question_is_its_answer(tmp_path, chosen, expected):
    task = questions(tmp_path, [question(_CONTEXT, "be bi"), question("ba be", "be")])
    lengths = [16, 16, 6]
    assert task.dev.lengths.tolist() == lengths
    outputs = logits_of(lengths, [*chosen, (2, 1, 1, 40)])
    assert task.answers(outputs) == [expected, "be"]


def test_start_and_end_are_of_one_window(tmp_path):
    task = questions(tmp_path, [question(_CONTEXT, "be bi")], max_answer_length=20)
    outputs = logits_of([16, 16], [])
    outputs[_FIRST + 8, 0], outputs[_FIRST + 8, 1] = 5, 2  # "do" of the first window
    outputs[16 + _FIRST + 5, 1] = 6  # "fo" of the second
    # 5 + 2 in the first; 0 + 6 in the second; across both it would be 5 + 6.
    assert task.answers(outputs) == ["do"]


def test_windows_go_to_their_questions_however_many_there_are(tmp_path):
    """Questions are tokenized in parts of 256."""
    words = [f"{first}{last}" for first in "bdfgklmn" for last in "aeiou"]
    chosen = [words[index % 37] for index in range(600)]
    task = questions(tmp_path, [question(word, word) for word in chosen])
    assert task.answers(np.zeros((600 * 5, 2))) == chosen


def test_a_context_without_tokens_has_an_empty_answer(tmp_path):
    """The tokenizer keeps no zero-width blanks; the question still counts."""
    task = questions(
        tmp_path,
        [question("ba", "ba"), question("\u200b", "\u200b"), question("be", "be")],
    )
    outputs = np.zeros((10, 2))
    assert task.answers(outputs) == ["ba", "", "be"]
    assert task.scores(outputs) == {"exact_match": near(2 / 3), "f1": near(2 / 3)}


def test_constant_answers_are_the_first_tokens(tmp_path):
    task = questions(tmp_path, [question(_CONTEXT, "be"), question("be bi", "be")])
    assert task.answers(task.constant_outputs()) == ["ba", "be"]
    assert task.scores(task.constant_outputs()) == {"exact_match": 0.5, "f1": 0.5}
