"""SQuAD: the forms of answers, and how they are compared, by the rules of the official script."""

import string
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_files import question, section, squad_file, write
from score_values import near
from task_reading import refusal

from distilcli.errors import DataError
from distilcli.tasks import squad
from distilcli.tasks.squad import answers_of


def test_answers_come_as_a_list_or_as_lists():
    rows = [{"text": "a", "answer_start": 4}, {"text": "b", "answer_start": "0", "id": 1}]
    columns = {"text": ["a", "b"], "answer_start": [4, 0]}
    assert answers_of(rows) == answers_of(columns) == [("a", 4), ("b", 0)]
    assert answers_of([]) == answers_of({"text": [], "answer_start": []}) == []


@pytest.mark.parametrize(
    "value",
    [
        *(None, 3, "be", [{}], ["be"], {}, {"text": ["a"]}, {"text": ["a"], "answer_start": []}),
        [{"text": "a", "answer_start": "first"}],
        [{"text": "a", "answer_start": None}],
    ],
)
def test_answers_of_another_form_are_refused(value):
    with pytest.raises(ValueError, match="answers are not of SQuAD's form"):
        answers_of(value)


def test_an_answer_is_not_counted_from_the_end_of_the_context(tmp_path):
    path = write(tmp_path / "rows.json", squad_file(question("be", start=-5)))  # "ba be bi"[-5:-3]
    assert refusal(section("question-answering", path, path), DataError).message.endswith(
        "the answer 'be' is not in the context at character -5"
    )


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
