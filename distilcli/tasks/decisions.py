"""What a model decides on dev examples, whether that is right, and how sure the model is of it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Decisions:
    """What a model says of each dev example, word or question.

    Where any number of classes may be right, an example is one row of `said`, and each of its
    classes is one decision.

    Attributes:
        said: one row each; two models say the same where their rows are equal.
        is_right: whether all of a row is right, bool [rows].
        probabilities: of each decision, the probability that the model gives it, float64
            [decisions].
        is_right_decision: whether each decision is right, bool [decisions].
    """

    said: np.ndarray
    is_right: np.ndarray
    probabilities: np.ndarray
    is_right_decision: np.ndarray


def one_of(logits: np.ndarray, targets: np.ndarray) -> Decisions:
    """The most probable class of each row.

    Args:
        logits: float [rows, classes].
        targets: the right class of each, int [rows].
    """
    said = logits.argmax(axis=1)
    is_right = said == targets
    less = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return Decisions(said, is_right, 1.0 / np.exp(less).sum(axis=1), is_right)


def any_of(logits: np.ndarray, targets: np.ndarray) -> Decisions:
    """For each class of each row whether it is right, which it is with a probability above 1/2.

    Args:
        logits: float [rows, classes].
        targets: 1 where a class is right, else 0, [rows, classes].
    """
    said = logits > 0
    is_right = said == (targets > 0)
    # Of "yes" the sigmoid of the logit, of "no" what is left.
    probabilities = 1.0 / (1.0 + np.exp(-np.abs(logits.astype(np.float64))))
    return Decisions(said, is_right.all(axis=1), probabilities.ravel(), is_right.ravel())
