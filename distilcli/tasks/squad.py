"""SQuAD 1.1: its files, and the official scores of its answers (Rajpurkar et al. 2016, sec. 6.1).

The scores are those of the official evaluation script: answers are compared after lower-casing,
without punctuation, articles and extra blanks, with the best of a question's answers.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

COLUMNS = ["id", "question", "context", "answers"]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answers_of(value: Any) -> list[tuple[str, int]]:
    """(text, first character) of each answer, from a file's list or the hub's lists.

    Raises:
        ValueError: it is neither.
    """
    try:
        if isinstance(value, dict):
            pairs = list(zip(value["text"], value["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in value]
        return [(_answer_text(text), _answer_start(start)) for text, start in pairs]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"answers are not of SQuAD's form ({error})") from error


def _answer_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the text {value!r} is no text")
    return value


def _answer_start(value: Any) -> int:
    start = int(value)
    if isinstance(value, bool) or start != float(value):
        raise TypeError(f"answer_start {value!r} is no whole number")
    return start


def normalized(answer: str) -> str:
    """What is compared: lower case, no punctuation, no articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals one of the answers once normalized, else 0."""
    return float(normalized(prediction) in {normalized(answer) for answer in answers})


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 of the prediction's words with those of an answer, between 0 and 1."""
    return max(_word_f1(normalized(prediction).split(), normalized(a).split()) for a in answers)


def _word_f1(predicted: list[str], expected: list[str]) -> float:
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)
