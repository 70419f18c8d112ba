"""What outputs decide, for each kind of task: the answers, their probabilities, which are right."""

import math

import numpy as np
import pytest
from score_values import near
from task_rows import labelled_rows, open_rows, question
from tiny_tasks import pair_tokenizer

from distilcli.tasks.decisions import any_of, one_of

TOKENIZER = pair_tokenizer()


def log(*probabilities):
    return np.log(np.array([probabilities], np.float64)) + 7.0  # a shift changes nothing


def test_one_class_is_said_with_its_probability():
    logits = np.concatenate([log(0.2, 0.7, 0.1), log(0.5, 0.1, 0.4)])
    found = one_of(logits, np.array([1, 2]))
    assert found.said.tolist() == [1, 0]
    assert found.is_right.tolist() == found.is_right_decision.tolist() == [True, False]
    assert found.probabilities == near([0.7, 0.5])


def test_logits_of_any_size_have_probabilities():
    found = one_of(np.array([[2000.0, -2000.0]], np.float32), np.array([0]))
    assert found.probabilities.tolist() == [1.0]
    found = any_of(np.array([[2000.0, -2000.0]], np.float32), np.array([[1, 0]]))
    assert found.probabilities.tolist() == [1.0, 1.0]


def test_each_of_many_classes_is_a_decision():
    odds = np.array([[4.0, 1 / 3], [1 / 9, 1 / 9]])  # 0.8, 0.25; 0.1, 0.1
    found = any_of(np.log(odds), np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert found.said.tolist() == [[True, False], [False, False]]
    assert found.is_right.tolist() == [False, True]
    # "No" has what is left of the probability.
    assert found.probabilities == near([0.8, 0.75, 0.9, 0.9])
    assert found.is_right_decision.tolist() == [True, False, True, True]


def test_classes_are_held_against_the_labels_of_the_dev_examples(tmp_path):
    rows = labelled_rows(["a", "b", "b", "a"])
    task = open_rows(tmp_path, TOKENIZER, "classification", rows, rows)
    found = task.decisions(np.array([[3.0, 0], [3, 0], [0, 3], [3, 0]]))
    assert found.is_right.tolist() == [True, False, True, True]


def test_sets_of_classes_are_held_against_those_of_the_dev_examples(tmp_path):
    rows = labelled_rows([["a"], ["a", "b"], []], "labels")
    task = open_rows(tmp_path, TOKENIZER, "multi-label", rows, rows)
    found = task.decisions(np.array([[3.0, -3], [3, -3], [-3, -3]]))
    assert found.is_right.tolist() == [True, False, True]
    assert found.is_right_decision.tolist() == [True, True, True, False, True, True]


def test_of_words_without_a_tag_nothing_is_decided(tmp_path):
    rows = [{"tokens": ["ba", "be", "bi"], "tags": ["X", -100, "Y"]}]
    task = open_rows(tmp_path, TOKENIZER, "tagging", rows, rows)
    found = task.decisions(np.array([[3.0, 0], [3, 0]]))
    assert found.is_right.tolist() == [True, False]


def test_of_numbers_nothing_is_decided(tmp_path):
    rows = labelled_rows([0.5, 1.5])
    task = open_rows(tmp_path, TOKENIZER, "regression", rows, rows)
    assert task.decisions(np.array([[0.5], [1.5]])) is None


def spans(folder, dev, **settings):
    shape = {"max_length": 16, "stride": 4, "max_question_length": 4} | settings
    train = [question("ba be", "be")]
    return open_rows(folder, TOKENIZER, "question-answering", train, dev, **shape)


def brute_force(task, outputs, answer, max_length):
    """The share that spans with these characters have of exp(start + end) of all spans."""
    parts = {}
    for window, first in zip(task._windows, task.dev.output_offsets[:-1], strict=True):
        start, end = outputs[first + window.first :][: len(window.spans)].astype(np.float64).T
        for i in range(len(start)):
            for j in range(i, min(len(start), i + max_length)):
                key = int(window.spans[i, 0]), int(window.spans[j, 1])
                parts[key] = parts.get(key, 0.0) + math.exp(start[i] + end[j])
    return parts[answer] / sum(parts.values())


@pytest.mark.parametrize("max_answer_length", [1, 3, 12, 30])
def test_an_answer_has_the_probability_of_its_span(tmp_path, max_answer_length):
    context = "ba be bi bo bu da de di do du fa fe fi fo fu ga ge gi go gu"
    task = spans(tmp_path, [question(context, "du fa")], max_answer_length=max_answer_length)
    assert len(task.dev) == 2
    outputs = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    # "du fa", which stands in both windows.
    for begin in (3 + 9, 16 + 3 + 1):
        outputs[begin, 0] = 4.0
        outputs[begin + (max_answer_length > 1), 1] = 4.0
    found = task.decisions(outputs)
    text = "du fa" if max_answer_length > 1 else "du"
    assert found.said.tolist() == [text] == task.answers(outputs)
    assert found.is_right.tolist() == [max_answer_length > 1]
    begin = context.index(text)
    expected = brute_force(task, outputs, (begin, begin + len(text)), max_answer_length)
    assert found.probabilities == near([expected])
    assert 0.2 < expected < 1.0


def test_an_answer_is_right_by_the_rules_of_squad(tmp_path):
    task = spans(tmp_path, [question("Ba  BE, bi", "BE, bi"), question("da de", "da", "de")])
    outputs = np.zeros((8 + 7, 2), np.float32)
    outputs[3 + 1, 0] = outputs[3 + 3, 1] = 9.0
    outputs[8 + 3 + 1] = 9.0
    found = task.decisions(outputs)
    assert found.said.tolist() == ["BE, bi", "de"]
    assert found.is_right.tolist() == [True, True]


def test_a_question_without_tokens_to_choose_from_has_no_probability(tmp_path):
    dev = [question("ba be", "be"), question("\u200b\u200b", "\u200b")]
    task = spans(tmp_path, dev)
    outputs = np.zeros((int(task.dev.output_offsets[-1]), 2), np.float32)
    found = task.decisions(outputs)
    assert found.said.tolist() == ["ba", ""]
    assert found.is_right.tolist() == [False, False]
    # "ba", "be" and "ba be" alike.
    assert found.probabilities == near([1 / 3])
    assert found.is_right_decision.tolist() == [False]
