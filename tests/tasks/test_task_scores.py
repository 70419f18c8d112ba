"""Scores of tasks against the rules they are defined by, formulas and cases worked out by hand."""

import math
import string
from itertools import groupby
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from task_rows import open_rows, question
from tiny_tasks import pair_tokenizer

from distilcli.config import tasks
from distilcli.errors import ConfigError
from distilcli.tasks import squad
from distilcli.tasks.entities import entities, entity_f1
from distilcli.tasks.question_answering import best_span

TOKENIZER = pair_tokenizer()
HIGH = 50.0


def near(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def one_hot(ids, number):
    """Logits of which the given ones are the highest, none of them 0."""
    return np.eye(number, dtype=np.float32)[np.asarray(ids)] * 3 - 2


# SQuAD: how answers are compared


def official_words(answer):
    """The words that the rules of SQuAD 1.1 leave of an answer.

    In lower case and without ASCII punctuation, each whole run of letters and digits that is an
    article makes way for a blank, and what is left is divided at blanks.
    """
    kept = [letter for letter in answer.lower() if letter not in string.punctuation]
    runs = ["".join(run) for _, run in groupby(kept, key=str.isalnum)]
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def official_f1(prediction, answers):
    """F1 of two bags of words, shared words crossed out one by one; the best over all answers."""
    best = 0.0
    for answer in answers:
        predicted, left = official_words(prediction), official_words(answer)
        num_predicted, num_expected, shared = len(predicted), len(left), 0
        for word in predicted:
            if word in left:
                left.remove(word)
                shared += 1
        if shared:
            precision, recall = shared / num_predicted, shared / num_expected
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Cat's a hat!", "cats hat"),
        ("theatre, an apple and thean", "theatre apple and thean"),
        ("U.S.A.", "usa"),
        ("A-B", "ab"),  # punctuation leaves no blank
        ("the-end", "theend"),  # and is gone before articles are looked for
        ("_a_", ""),
        ("an", ""),
        ("", ""),
        (" \t\n", ""),
        ("$5,000.00", "500000"),
        ("one\u00a0two\u2003 three\n", "one two three"),
        ("CAF\u00c9 \u00dcber", "caf\u00e9 \u00fcber"),
        ("\u201cThe\u201d end", "\u201c \u201d end"),  # quotes outside ASCII stay
        ("l\u2019a b", "l\u2019 b"),  # and part words
        ("2\u201313", "2\u201313"),
    ],
)
def test_normalized_answers(answer, expected):
    """Answers are compared without case, punctuation and articles, as in SQuAD."""
    assert squad.normalized(answer) == expected
    assert official_words(answer) == expected.split()


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("the Cat", ["cat."], 1, 1),
        ("cat sat", ["the cat sat on a mat"], 0, 2 / 3),  # 2 of 2, 2 of 4
        ("b b b", ["b b c"], 0, 2 / 3),  # 2 of 3, 2 of 3
        ("b b", ["b"], 0, 2 / 3),  # 1 of 2, 1 of 1
        ("b c", ["c b"], 0, 1),  # a bag has no order
        ("red cat", ["dog", "cat", "red cats"], 0, 2 / 3),  # 0, 2/3, 1/2
        ("red cat", ["cat", "The red cat"], 1, 1),
        ("red cat", ["red", "cat"], 0, 2 / 3),  # each by itself, not both together
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", ["cat"], 0, 0),
        ("the", ["An!"], 1, 0),  # equal, but no words are shared
        ("", ["..."], 1, 0),
        ("Beyonc\u00e9", ["BEYONC\u00c9"], 1, 1),
        ("Beyonce", ["Beyonc\u00e9"], 0, 0),  # accents count
        ("1,000 km", ["1000 miles"], 0, 1 / 2),
    ],
)
def test_scores_of_single_answers(prediction, answers, exact, f1):
    assert squad.exact_match(prediction, answers) == exact
    assert squad.f1(prediction, answers) == near(f1)


_PARTS = ["a", "an", "the", "The", "cat", "Cat", "b", "'s", ".", "-", "_", " ", "  ", "\t"]
_PARTS += ["\u00a0", "\u2019", "\u00e9", "\u0301", "\u0130", "7"]
_ANSWERS = st.one_of(st.lists(st.sampled_from(_PARTS), max_size=8).map("".join), st.text())


@given(_ANSWERS, st.lists(_ANSWERS, min_size=1, max_size=4))
def test_scores_follow_the_rules(prediction, answers):
    words = official_words(prediction)
    assert squad.normalized(prediction) == " ".join(words)
    exact = any(words == official_words(answer) for answer in answers)
    assert squad.exact_match(prediction, answers) == exact
    assert squad.f1(prediction, answers) == near(official_f1(prediction, answers))


# The answer that logits give


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


# Classes


def classification(folder, train, dev, **settings):
    rows = [[{"text": "ba", "label": label} for label in labels] for labels in (train, dev)]
    return open_rows(folder, TOKENIZER, "classification", *rows, **settings)


def test_scores_of_two_classes(tmp_path):
    # 3 found, 2 missed, 1 found in error, 4 rightly left.
    dev = ["yes"] * 5 + ["no"] * 5
    chosen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    task = classification(tmp_path, ["yes", "no"], dev)
    assert task.labels == ["no", "yes"]
    f1, f1_of_no = 6 / (6 + 1 + 2), 8 / (8 + 2 + 1)
    assert task.scores(one_hot(chosen, 2)) == {
        "accuracy": near(0.7),
        "f1": near(f1),
        "macro_f1": near((f1 + f1_of_no) / 2),
        "accuracy_f1": near((0.7 + f1) / 2),
        "matthews": near((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 6 * 5)),
    }


def test_f1_is_of_the_last_class_that_the_experiment_lists(tmp_path):
    task = classification(tmp_path, ["yes", "no"], ["yes", "no", "no"], labels=["yes", "no"])
    scores = task.scores(one_hot([0, 0, 1], 2))
    assert scores["f1"] == near(2 / 3)  # of "no": 1 found, 1 missed
    assert scores["accuracy"] == near(2 / 3)


def f1_of(truth, chosen, kind):
    pairs = list(zip(truth, chosen, strict=True))
    both = pairs.count((kind, kind))
    wrong = sum((kind in pair) and pair[0] != pair[1] for pair in pairs)
    return 2 * both / (2 * both + wrong) if both else 0.0


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    """Opens a task of three classes with these dev labels."""
    folder = tmp_path_factory.mktemp("classes")

    def make(truth):
        return classification(folder, "012", [str(kind) for kind in truth])

    return make


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_scores_of_many_classes_are_the_formulas(three_classes, pairs):
    truth, chosen = zip(*pairs, strict=True)
    assume(len({*truth, *chosen}) > 1)  # see the next test
    scores = three_classes(truth).scores(one_hot(chosen, 3))
    count, right = len(pairs), sum(a == b for a, b in pairs)
    # Matthews' coefficient of several classes (Gorodkin 2004): the correlation of indicators.
    true = np.array([truth.count(kind) for kind in range(3)])
    found = np.array([chosen.count(kind) for kind in range(3)])
    spread = (count**2 - (true**2).sum()) * (count**2 - (found**2).sum())
    matthews = (right * count - (true * found).sum()) / math.sqrt(spread) if spread else 0.0
    assert scores == {
        "accuracy": near(right / count),
        "macro_f1": near(np.mean([f1_of(truth, chosen, kind) for kind in {*truth, *chosen}])),
        "matthews": near(matthews),
    }


def test_dev_examples_of_one_class_are_scored_without_a_warning(tmp_path):
    task = classification(tmp_path, ["yes", "no"], ["no", "no"])
    assert task.scores(one_hot([0, 0], 2)) == {
        "accuracy": 1.0,
        "f1": 0.0,
        "macro_f1": 1.0,
        "accuracy_f1": 0.5,
        "matthews": 0.0,
    }


def test_constant_classes_are_the_most_frequent(tmp_path):
    task = classification(tmp_path, ["b", "a", "c", "b", "b", "c"], ["a", "b", "b", "c"])
    outputs = task.constant_outputs()
    assert outputs.shape == (4, 3)
    assert outputs.argmax(axis=1).tolist() == [1, 1, 1, 1]
    assert np.array_equal(outputs[0].argsort(), [0, 2, 1])  # 1, 3 and 2 of 6
    scores = task.scores(outputs)
    assert scores["accuracy"] == 0.5
    assert scores["matthews"] == 0.0
    assert scores["macro_f1"] == near((2 * 2 / (2 * 2 + 2)) / 3)


# Several classes at once


def multi_label(folder, train, dev):
    rows = [
        [{"text": "ba", "labels": sorted(label)} for label in labels] for labels in (train, dev)
    ]
    return open_rows(folder, TOKENIZER, "multi-label", *rows)


def test_scores_of_several_classes_at_once(tmp_path):
    task = multi_label(tmp_path, ["abc"], ["a", "ab", "", "b"])
    outputs = np.array(
        [
            [0.1, -1, -9],  # a
            [2, -0.1, 0.2],  # a c
            [-1, 0, -1],  # none: 0 is no yes
            [-1, 5, -1],  # b
        ],
        np.float32,
    )
    # a: 2 of 2; b: 1 found, 1 missed; c: never true, once found.
    assert task.scores(outputs) == {
        "micro_f1": near(2 * 3 / (2 * 3 + 1 + 1)),
        "macro_f1": near((1 + 2 / 3 + 0) / 3),
        "exact_match": near(3 / 4),
    }


def test_no_class_at_all_has_no_f1(tmp_path):
    task = multi_label(tmp_path, ["ab"], ["", ""])
    outputs = np.full((2, 2), -1.0, np.float32)
    assert task.scores(outputs) == {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": 1.0}


def test_constant_sets_have_the_classes_of_more_than_half(tmp_path):
    task = multi_label(tmp_path, ["ab", "a", "a", "bc", "a"], ["a", "ab", "b"])
    outputs = task.constant_outputs()
    # a in 4 of 5, b in 2, c in 1: log-odds.
    expected = [math.log(4), math.log(2 / 3), math.log(1 / 4)]
    assert outputs.shape == (3, 3)
    assert np.allclose(outputs, expected, atol=1e-5)
    assert task.scores(outputs)["exact_match"] == near(1 / 3)


def test_classes_that_are_always_or_never_there_have_finite_odds(tmp_path):
    task = multi_label(tmp_path, ["ab", "a"], ["a"])
    outputs = task.constant_outputs()
    assert np.isfinite(outputs).all()
    assert outputs[0, 0] > 5


# Numbers


def regression(folder, train, dev):
    rows = [[{"text": "ba", "label": label} for label in labels] for labels in (train, dev)]
    return open_rows(folder, TOKENIZER, "regression", *rows)


def column(values):
    return np.array(values, np.float32)[:, None]


def pearson(first, second):
    first, second = (np.array(side, np.float64) - np.mean(side) for side in (first, second))
    return (first * second).sum() / math.sqrt((first**2).sum() * (second**2).sum())


def test_correlations_by_hand(tmp_path):
    """Pearson and Spearman, with ties, are what a calculation by hand gives."""
    task = regression(tmp_path, [0], [1, 2, 2, 4, 5])
    found = [1, 1, 5, 4, 9]
    # From the means 2.8 and 4: (-1.8 -0.8 -0.8 1.2 2.2) and (-3 -3 1 0 5).
    by_value = (5.4 + 2.4 - 0.8 + 0 + 11) / math.sqrt(10.8 * 44)
    # Ranks 1 2.5 2.5 4 5 and 1.5 1.5 4 3 5, of mean 3: squares are 9.5 on both sides.
    by_rank = (3 + 0.75 - 0.5 + 0 + 4) / 9.5
    scores = task.scores(column(found))
    assert scores == pytest.approx(
        {
            "pearson": by_value,
            "spearman": by_rank,
            "pearson_spearman": (by_value + by_rank) / 2,
        },
        abs=1e-6,
    )


def test_correlations_have_a_sign_and_ranks_know_no_scale(tmp_path):
    task = regression(tmp_path, [0], [1, 2, 3, 4])
    assert task.scores(column([8, 6, 4, 2]))["pearson"] == pytest.approx(-1, abs=1e-6)
    scores = task.scores(column([1, 10, 100, 1000]))
    assert scores["spearman"] == pytest.approx(1, abs=1e-6)
    assert scores["pearson"] == pytest.approx(pearson([1, 2, 3, 4], [1, 10, 100, 1000]), abs=1e-6)
    assert scores["pearson"] < 0.9


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Opens a task of numbers with these dev labels."""
    folder = tmp_path_factory.mktemp("numbers")
    return lambda truth: regression(folder, [0], truth)


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=12))
def test_correlations_are_the_formulas(numbers, pairs):
    truth, found = zip(*pairs, strict=True)
    scores = numbers(truth).scores(column(found))

    def ranks(values):
        less = [sum(other < value for other in values) for value in values]
        equal = [values.count(value) for value in values]
        return [below + (same + 1) / 2 for below, same in zip(less, equal, strict=True)]

    if len(set(truth)) == 1 or len(set(found)) == 1:
        expected = 0.0, 0.0
    else:
        expected = pearson(truth, found), pearson(ranks(truth), ranks(found))
    names = ("pearson", "spearman", "pearson_spearman")
    values = (*expected, sum(expected) / 2)
    assert scores == pytest.approx(dict(zip(names, values, strict=True)), abs=1e-5)


def test_outputs_that_hardly_differ_are_correlated_exactly(tmp_path):
    """What single precision keeps of the differences from their mean is too little."""
    task = regression(tmp_path, [0], [1, 2, 3])
    last = np.nextafter(np.float32(2.5), np.float32(3))
    assert task.scores(column([2.5, 2.5, last]))["pearson"] == pytest.approx(3**0.5 / 2, abs=1e-6)


def test_a_constant_number_is_the_mean_and_has_no_correlation(tmp_path):
    task = regression(tmp_path, [1, 2, 6], [1, 2])
    assert task.constant_outputs().tolist() == [[3.0], [3.0]]
    assert set(task.scores(task.constant_outputs()).values()) == {0.0}
    same = regression(tmp_path, [1, 2], [2, 2])
    assert set(same.scores(column([1, 2])).values()) == {0.0}


# Entities


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", set()),
        ("O O", set()),
        ("B-X", {("X", 0, 0)}),
        ("O B-X I-X O", {("X", 1, 2)}),
        ("O B-X I-X", {("X", 1, 2)}),  # the end of a sentence ends it
        ("B-X B-X I-X", {("X", 0, 0), ("X", 1, 2)}),
        ("I-X I-X O", {("X", 0, 1)}),  # begins without B-
        ("O I-X O I-X", {("X", 1, 1), ("X", 3, 3)}),
        ("B-X I-Y I-Y", {("X", 0, 0), ("Y", 1, 2)}),
        ("I-X B-X", {("X", 0, 0), ("X", 1, 1)}),
        ("B-X I-Y I-X", {("X", 0, 0), ("Y", 1, 1), ("X", 2, 2)}),
        ("B-X I-X B-Y I-Y I-Y", {("X", 0, 1), ("Y", 2, 4)}),
        ("B-a-b I-a-b I-a", {("a-b", 0, 1), ("a", 2, 2)}),  # a type may have a hyphen
    ],
)
def test_entities_of_tags(tags, expected):
    """Which spans a row of tags marks, in every scheme."""
    assert entities(tags.split()) == expected


_TAGS = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), max_size=10)


def entities_by_definition(tags):
    """Every stretch that begins as an entity does, goes on with I- and cannot be made longer."""
    found = set()
    for kind in "XY":
        inside = [tag == f"I-{kind}" for tag in tags]
        any_of_kind = [tag[2:] == kind for tag in tags]
        for first in range(len(tags)):
            follows = first > 0 and any_of_kind[first - 1]
            if not any_of_kind[first] or (inside[first] and follows):
                continue
            for last in range(first, len(tags)):
                is_whole = last + 1 == len(tags) or not inside[last + 1]
                if all(inside[first + 1 : last + 1]) and is_whole:
                    found.add((kind, first, last))
    return found


@given(_TAGS)
def test_entities_are_those_of_the_definition(tags):
    assert entities(tags) == entities_by_definition(tags)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        (["B-X I-X O"], ["B-X I-X O"], 1),
        (["B-X I-X O"], ["B-X O O"], 0),  # too short
        (["B-X I-X O"], ["B-Y I-Y O"], 0),  # of another type
        (["B-X I-X O"], ["I-X I-X O"], 1),  # the same entity, written in another way
        (["B-X O B-X"], ["B-X O O"], 2 / 3),  # 1 of 1, 1 of 2
        (["B-X O B-X", "B-Y O"], ["B-X B-X O", "B-Y B-Y"], 4 / 7),  # 2 of 4, 2 of 3
        (["O O", "B-X"], ["B-X O", "O"], 0),  # the same place in another sentence
        (["O O"], ["O O"], 0),
        (["O O"], ["B-X O"], 0),
    ],
)
def test_entity_f1(truth, predicted, expected):
    """F1 over whole entities is what counting by hand gives."""
    sides = [[sentence.split() for sentence in side] for side in (truth, predicted)]
    assert entity_f1(*sides) == near(expected)


# Tags of words

_NAMES = ["B-X", "I-X", "O"]


def tagging(folder, dev, **settings):
    """A task whose dev sentences have these tags; each word is one token."""
    rows = [
        [{"tokens": ["ba"] * len(tags.split()), "tags": tags.split()} for tags in split]
        for split in ([" ".join(settings.get("labels", _NAMES))], dev)
    ]
    return open_rows(folder, TOKENIZER, "tagging", *rows, **settings)


def tag_logits(task, *sentences):
    chosen = [task.labels.index(tag) for sentence in sentences for tag in sentence.split()]
    return one_hot(chosen, len(task.labels))


def test_scores_of_tags(tmp_path):
    """Accuracy, macro F1 and entity F1 of tags are what counting by hand gives."""
    task = tagging(tmp_path, ["B-X I-X O O", "O B-X"])
    outputs = tag_logits(task, "B-X O O O", "O B-X")
    # B-X: all of 2; I-X: its one missed; O: 3 found, 1 in error.
    assert task.scores(outputs) == {
        "accuracy": near(5 / 6),
        "macro_f1": near((1 + 0 + 6 / 7) / 3),
        "entity_f1": near(2 * 1 / (2 + 2)),
    }


def test_tags_without_entities_have_no_score_of_entities(tmp_path):
    task = tagging(tmp_path, ["NOUN VERB", "NOUN"], labels=["VERB", "NOUN"])
    outputs = tag_logits(task, "NOUN VERB", "VERB")
    assert task.scores(outputs) == {"accuracy": near(2 / 3), "macro_f1": near(2 / 3)}


def test_entities_do_not_run_over_the_end_of_a_sentence(tmp_path):
    task = tagging(tmp_path, ["O B-X", "I-X O"])
    outputs = tag_logits(task, "O B-X", "O O")
    assert task.scores(outputs)["entity_f1"] == near(2 / 3)  # one of two; together, none of one


def test_a_sentence_in_several_inputs_is_scored_as_one(tmp_path):
    """Inputs of 8 tokens have room for 6 words: the entity lies in two inputs."""
    task = tagging(tmp_path, ["O O O O O B-X I-X O O", "B-X O"], max_length=8)
    assert task.dev.lengths.tolist() == [8, 5, 4]
    whole = tag_logits(task, "O O O O O B-X I-X O O", "B-X O")
    assert task.scores(whole)["entity_f1"] == 1
    # By inputs, the part in the first one would count as found.
    part = tag_logits(task, "O O O O O B-X O O O", "B-X O")
    assert task.scores(part)["entity_f1"] == near(1 / 2)


def test_constant_tags_are_the_most_frequent(tmp_path):
    rows = [{"tokens": ["ba"] * 5, "tags": ["O", "B-X", "O", "I-X", "O"]}]
    task = open_rows(tmp_path, TOKENIZER, "tagging", rows, [rows[0], rows[0]])
    outputs = task.constant_outputs()
    assert outputs.shape == (10, 3)
    assert task.scores(outputs) == {
        "accuracy": near(0.6),
        "macro_f1": near(6 / 8 / 3),
        "entity_f1": 0.0,
    }


# What all tasks have in common

_ROWS = {
    "classification": [{"text": "ba", "label": label} for label in ("no", "yes")],
    "multi-label": [{"text": "ba", "labels": label} for label in (["a"], ["b"])],
    "regression": [{"text": "ba", "label": label} for label in (1, 2)],
    "question-answering": [question("ba be", "be")],
    "tagging": [{"tokens": ["ba", "be", "bi"], "tags": ["B-X", "I-X", "O"]}],
}


@pytest.mark.parametrize(
    "config",
    [
        tasks.ClassificationTask,
        tasks.MultiLabelTask,
        tasks.RegressionTask,
        tasks.QuestionAnsweringTask,
        tasks.TaggingTask,
    ],
)
def test_every_score_that_can_be_chosen_is_computed(tmp_path, config):
    (kind,) = get_args(config.model_fields["kind"].annotation)
    for score in get_args(config.model_fields["score"].annotation):
        task = open_rows(tmp_path, TOKENIZER, kind, _ROWS[kind], _ROWS[kind], score=score)
        assert task.score == score
        scores = task.scores(task.constant_outputs())
        assert all(isinstance(value, float) for value in scores.values())
        assert score in scores


@pytest.mark.parametrize(
    ("kind", "score", "rows"),
    [
        ("classification", "f1", [{"text": "ba", "label": label} for label in "abc"]),
        ("classification", "accuracy_f1", [{"text": "ba", "label": label} for label in "abc"]),
        ("tagging", "entity_f1", [{"tokens": ["ba", "be"], "tags": ["NOUN", "VERB"]}]),
    ],
)
def test_a_score_that_the_classes_do_not_have_is_refused(tmp_path, kind, score, rows):
    """Here, not after hours of training."""
    with pytest.raises(ConfigError, match=r"task\.score"):
        open_rows(tmp_path, TOKENIZER, kind, rows, rows, score=score)
