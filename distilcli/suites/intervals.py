"""How far the mean of a few differences may be from the true one: Student's t (1908)."""

import math
import statistics
from collections.abc import Sequence

_COVERAGE = 0.95
_HALVINGS = 80  # of an angle: more than fp64 can tell apart


def half_width(differences: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean; None of a single difference.

    Args:
        differences: of pairs, such as two runs with the same seed. The interval is right if they
            are normally distributed.
    """
    if len(differences) < 2:
        return None
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return t_quantile(len(differences) - 1) * error


def t_quantile(degrees: int) -> float:
    """The t within which 95 % of Student's distribution lies: 12.706 for one degree of freedom."""
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _share_within(middle, degrees) < _COVERAGE:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _share_within(angle: float, degrees: int) -> float:
    """The share of Student's distribution within t = sqrt(degrees) tan(angle).

    The sums are finite for whole degrees (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    total = 0.0
    for power in range(3 if is_odd else 2, degrees + 1, 2):
        total += term
        term *= cosine**2 * (power - 1) / power
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
