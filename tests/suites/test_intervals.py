"""The interval of a mean difference: against scipy, and what it depends on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilcli.suites.intervals import half_width, t_quantile


def test_quantiles_of_the_tables():
    """As every book has them."""
    known = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}
    assert {degrees: round(t_quantile(degrees), 3) for degrees in known} == known


@pytest.mark.parametrize("degrees", [*range(1, 30), 99, 999])
def test_quantiles_are_those_of_scipy(degrees):
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def test_an_interval_by_hand():
    """Of 1, 2, 3: the deviation is 1, its error 1 / sqrt(3), and t of two degrees 4.302653."""
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302652730 / 3**0.5, rel=1e-8)
    assert half_width([0.25]) is None
    assert half_width([0.5, 0.5, 0.5]) == 0.0


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-1, 1), st.floats(0.1, 9))
def test_it_moves_and_scales_with_the_differences(values, shift, factor):
    wide = half_width([factor * value + shift for value in values])
    assert wide == pytest.approx(factor * half_width(values), rel=1e-6, abs=1e-12)


def test_it_holds_the_true_mean_19_times_in_20():
    draws = np.random.default_rng(3).normal(0.5, 2.0, (4000, 3))
    held = [abs(row.mean() - 0.5) <= half_width(row.tolist()) for row in draws]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)
