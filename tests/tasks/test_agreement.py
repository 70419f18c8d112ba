"""How far a student answers as its teacher does, for each kind of task."""

import numpy as np
import pytest

from distilcli.tasks.classification import Classification
from distilcli.tasks.multi_label import MultiLabel
from distilcli.tasks.question_answering import QuestionAnswering
from distilcli.tasks.regression import Regression
from distilcli.tasks.tagging import Tagging


def logits(classes: list[int], number: int = 3) -> np.ndarray:
    return np.eye(number, dtype=np.float32)[classes]


@pytest.mark.parametrize(
    ("kind", "one", "other", "agreement"),
    [
        (Classification, logits([0, 1, 2, 1]), 5 * logits([0, 1, 1, 1]), 3 / 4),
        # By word: sentences do not matter.
        (Tagging, logits([2, 2, 0, 1, 1]), logits([2, 0, 0, 1, 2]), 3 / 5),
        # Exactly the same set of classes.
        (
            MultiLabel,
            np.array([[1.0, -1], [-1, -1], [2, 2], [3, -3]], np.float32),
            np.array([[0.5, -9], [-2, 1], [1, 1], [1, 1]], np.float32),
            2 / 4,
        ),
        (Regression, np.array([[0.0], [1], [2]]), np.array([[5.0], [3], [1]]), -1.0),
        (Regression, np.array([[0.0], [1], [3]]), np.array([[7.0], [7], [7]]), 0.0),
    ],
)
def test_agreement(kind, one, other, agreement):
    """The share of equal answers, whichever model is asked about first."""
    task = kind.__new__(kind)  # it needs no examples
    assert task.agreement(one, other) == pytest.approx(agreement)
    assert task.agreement(other, one) == pytest.approx(agreement)


def test_agreement_of_answers_is_to_the_letter(monkeypatch):
    answers = {0.0: ["in May", "the dog", ""], 1.0: ["in May", "dog", ""]}
    monkeypatch.setattr(QuestionAnswering, "answers", lambda self, x: answers[float(x[0, 0])])
    task = QuestionAnswering.__new__(QuestionAnswering)
    one, other = np.zeros((1, 2)), np.ones((1, 2))
    assert task.agreement(one, one) == 1.0
    assert task.agreement(one, other) == pytest.approx(2 / 3)
