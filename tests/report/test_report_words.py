"""Numbers and names as people read them, and the series behind the figures."""

import itertools

import pytest

from distilcli.losses.table import EMBEDDING_TERMS, MASKED_LM_TERMS, TASK_TERMS
from distilcli.report.intervals import Difference, far_out
from distilcli.report.labels import spread_apart
from distilcli.report.series import Length, Series, length_of, series_of, terms_of
from distilcli.report.words import (
    change_of,
    compact,
    duration,
    percent,
    short_count,
    significant,
    value_of,
)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (6_992_448, "6.99 M"),
        (110e6, "110 M"),
        (175e9, "175 B"),
        (999_600, "1 M"),
        (8_000, "8 k"),
        (12, "12"),
        (None, "\N{EN DASH}"),
    ],
)
def test_large_numbers(number, text):
    """Three digits and a letter."""
    assert plain(short_count(number)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (1234.5, "1,234"),
        (-2.3456, "-2.35"),
        (6.6e-6, "6.6e-6"),
        (9.999, "10"),
    ],
)
def test_three_digits_that_count(number, text):
    assert plain(significant(number)) == text


def test_shares_are_percent_and_losses_are_not():
    assert plain(value_of("accuracy", 0.4567)) == "45.7 %"
    assert plain(value_of("loss", 0.4567)) == "0.457"
    assert plain(change_of("accuracy", -0.0123)) == "-1.23"
    assert plain(change_of("loss", 0.0123)) == "+0.012"
    assert plain(percent(None)) == "\N{EN DASH}"


def test_durations_as_people_say_them():
    texts = [plain(duration(seconds)) for seconds in (42, 400, 3900, 200_000)]
    assert texts == ["42 s", "7 min", "1 h 05 min", "2 d 7 h"]


def test_settings_on_one_line():
    assert compact({"a": [1, 2.50, None], "b": True}) == "{a: [1, 2.5, null], b: true}"


def test_every_term_of_the_table_has_its_name():
    """Records of runs that compute all terms of a table, each named as in the settings."""
    for table, task in (
        (MASKED_LM_TERMS, None),
        (TASK_TERMS, "tagging"),
        (EMBEDDING_TERMS, "embedding"),
    ):
        record = {"step": 1, "loss/total": 1.0} | {term.metric: 1.0 for term in table}
        assert terms_of([record], task) == {term.metric: term.name for term in table}


def test_the_length_of_a_run_is_by_its_intervals():
    """100 tokens at 50 a second and 300 at 100 take 5 s."""
    records = [
        {"step": 1, "epoch": 0, "speed/tokens": 100, "speed/tokens_per_second": 50.0},
        {"step": 2, "epoch": 1, "speed/tokens": 300, "speed/tokens_per_second": 100.0},
    ]
    assert length_of(records) == Length(steps=2, tokens=400, seconds=5.0, epoch=2)
    assert length_of([{"step": 1}]) == Length(steps=1, tokens=0, seconds=0.0, epoch=1)


def test_series_leave_out_what_is_not_known():
    records = [{"step": 1, "x": 1.0}, {"step": 2}, {"step": 3, "x": None}, {"step": 4, "x": 2}]
    assert series_of(records, "x") == Series([1, 4], [1.0, 2.0])


def test_the_moving_mean_of_a_line_is_the_line():
    line = Series(list(range(101)), [2.0 * step for step in range(101)])
    smooth = line.smooth()
    assert smooth.values[50] == pytest.approx(100.0)
    assert smooth.values[0] == pytest.approx(2.0)  # of the steps 0, 1 and 2
    assert Series([], []).smooth() == Series([], [])


def test_thinning_keeps_the_last_value():
    line = Series(list(range(1000)), [float(step) for step in range(1000)])
    thinned = line.thinned(100)
    assert len(thinned) <= 101
    assert thinned.steps[-1] == 999


@pytest.mark.parametrize(
    ("means", "far"),
    [
        ([-2.4, 0.0, 0.3, -23.1], [-23.1]),
        ([1.0, 2.0, 3.0, 9.0], []),
        ([0.1, -0.2, 30.0, -40.0], [30.0, -40.0]),
        ([0.1, 30.0, 31.0], []),  # more than half of them
        ([0.1, 5.0], [5.0]),
        ([0.0, 5.0], []),
        ([None, 5.0], []),
        ([], []),
    ],
)
def test_what_is_far_from_all_others_is_off_the_axis(means, far):
    """Four times as far as they are, and never more than half of them."""
    assert [one.mean for one in far_out([Difference("", mean, None) for mean in means])] == far


@pytest.mark.parametrize("wanted", [[0.0, 0.1, 0.2], [1.0, 1.0, 1.0], [0.5], [], [0.9, 0.0, 1.0]])
def test_labels_are_moved_apart_in_their_order(wanted):
    placed = spread_apart(wanted, 0.3, 0.0, 1.0)
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    ordered = [placed[place] for place in order]
    assert all(b - a >= 0.3 - 1e-6 for a, b in itertools.pairwise(ordered))
    assert all(-1e-6 <= y <= 1 + 1e-6 for y in placed)
