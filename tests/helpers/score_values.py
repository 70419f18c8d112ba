"""Logits that choose, and scores that are equal to rounding."""

import numpy as np
import pytest


def near(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def one_hot(ids, number):
    """Logits of which the given ones are the highest, none of them 0."""
    return np.eye(number, dtype=np.float32)[np.asarray(ids)] * 3 - 2
