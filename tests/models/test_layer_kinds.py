"""Layers of several kinds: every map keeps the order in which the source has them."""

from functools import partial
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_families import tiny_masked_lm

from distilcli.config.models import CopiedStudent
from distilcli.errors import ConfigError
from distilcli.models.copying import copy_layers
from distilcli.models.families import FAMILIES, encoder_layers
from distilcli.models.layers import layer_map, layers_of, nearest_of_right_kinds

STRATEGIES = ["alternate", "spread", "top", "bottom"]
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def kinds(every: int, num_layers: int) -> list[str]:
    """The first layer, and after it every so manieth layer a global one, as in a ModernBERT."""
    return ["first", *("local" if i % every else "global" for i in range(1, num_layers))]


@pytest.mark.parametrize(
    ("strategy", "num_layers", "expected"),
    [
        ("alternate", None, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
        ("spread", 11, [0, 2, 4, 6, 8, 11, 12, 14, 17, 18, 20]),
        ("bottom", 11, list(range(11))),
        ("top", 11, [0, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20]),
        ("alternate", 6, [0, 2, 7, 12, 14, 17]),
        ("spread", 1, [0]),
        ("top", 1, [0]),
        ("top", 22, list(range(22))),
    ],
)
def test_students_of_a_modernbert_base(strategy, num_layers, expected):
    """Which has 22 layers, every third of them global."""
    assert layer_map(22, num_layers, strategy, partial(kinds, 3)) == expected


@given(st.sampled_from(STRATEGIES), st.integers(1, 30), st.integers(1, 5), st.data())
def test_every_strategy_keeps_the_kinds_at_every_depth(strategy, num_source, every, data):
    count = data.draw(st.integers(1, num_source))
    found = layer_map(num_source, count, strategy, partial(kinds, every))
    assert found == sorted(set(found))
    assert len(found) == count
    assert [kinds(every, num_source)[index] for index in found] == kinds(every, count)
    if count == num_source:
        assert found == list(range(num_source))


@given(st.integers(1, 9), st.integers(1, 4), st.data())
def test_of_all_lists_that_fit_it_is_the_nearest(num_source, every, data):
    """By looking at all of them; of several the one that is lower where they first differ."""
    count = data.draw(st.integers(1, num_source))
    ideal = data.draw(st.lists(st.integers(0, num_source - 1), min_size=count, max_size=count))
    wanted, of_source = kinds(every, count), kinds(every, num_source)
    fitting = [
        list(chosen)
        for chosen in combinations(range(num_source), count)
        if [of_source[index] for index in chosen] == wanted
    ]
    best = min(fitting, key=lambda found: (distance(found, ideal), found))
    assert nearest_of_right_kinds(ideal, num_source, partial(kinds, every)) == best


def distance(one: list[int], other: list[int]) -> int:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


# Lists


@pytest.mark.parametrize("chosen", [[0, 2, 5, 3], [0, 1, 1, 3, 2], [0, 2, 1, 3, 5, 4, 3, 1]])
def test_a_list_may_repeat_and_go_back_within_a_kind(chosen):
    """And be longer than its source, whose pattern then goes on."""
    assert layer_map(6, None, chosen, partial(kinds, 3)) == chosen


@pytest.mark.parametrize(
    ("chosen", "message", "instead"),
    [
        ([0, 3], "layer 1 must be local of the source, and the source's layer 3 is global", "0,2"),
        ([1, 2], "layer 0 must be first of the source, and the source's layer 1 is local", "0,2"),
        ([0, 0], "layer 1 must be local of the source, and the source's layer 0 is first", "0,1"),
        ([0, 1, 2, 4], "layer 3 must be global", "0,1,2,3"),
        ([3] * 8, "layer 0 must be first", "0,2,2,3,2,2,3,2"),
    ],
)
def test_a_list_with_a_layer_of_another_kind_is_refused_with_one_that_fits(
    chosen, message, instead
):
    with pytest.raises(ConfigError) as caught:
        layer_map(6, None, chosen, partial(kinds, 3))
    assert f"student.layers: the student's {message}" in caught.value.message
    assert caught.value.hint.endswith(f"as in {instead}.")
    given_instead = [int(index) for index in instead.split(",")]
    assert layer_map(6, None, given_instead, partial(kinds, 3)) == given_instead


# Any depth, of every family


@each_family
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num_layers", [1, 2, 3, 4, 5])
def test_every_strategy_makes_a_student_of_any_depth(family, strategy, num_layers):
    """Deeper than half, as deep as its source, or of one layer."""
    source = tiny_masked_lm(family, num_layers=5)
    settings = CopiedStudent(num_layers=num_layers, layers=strategy)
    student = copy_layers(source, layers_of(source, settings))
    assert len(encoder_layers(student)) == student.config.num_hidden_layers == num_layers
