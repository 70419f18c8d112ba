"""How far a student answers as its teacher does, for each kind of task."""

from types import SimpleNamespace

import numpy as np
import pytest
from task_rows import open_rows, question
from tiny_tasks import pair_tokenizer

from distilcli.tasks.classification import Classification
from distilcli.tasks.multi_label import MultiLabel
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
    task = kind.__new__(kind)
    # What is right does not matter.
    targets = np.zeros_like(one) if kind is MultiLabel else np.zeros(len(one), np.int64)
    task.dev = SimpleNamespace(targets=targets)
    assert task.agreement(one, other) == pytest.approx(agreement)
    assert task.agreement(other, one) == pytest.approx(agreement)


def test_agreement_of_answers_is_to_the_letter(tmp_path):
    """Answers that SQuAD's rules take for one are two, and what stands twice is one answer."""
    rows = [question("ba be a bi", "bi"), question("bo ba bo", "bo"), question("da", "da")]
    task = open_rows(tmp_path, pair_tokenizer(), "question-answering", rows, rows)
    lengths = task.dev.lengths.tolist()
    one, other = np.zeros((sum(lengths), 2)), np.zeros((sum(lengths), 2))
    last = lengths[0] - 2  # before [SEP]
    one[last], other[last - 1, 0], other[last, 1] = 9.0, 9.0, 9.0
    one[lengths[0] + 3], other[lengths[0] + 5] = 9.0, 9.0
    assert task.answers(one) == ["bi", "bo", "da"]
    assert task.answers(other) == ["a bi", "bo", "da"]
    assert task.agreement(one, one) == 1.0
    assert task.agreement(one, other) == pytest.approx(2 / 3)
