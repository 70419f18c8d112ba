"""What may stand in a row as a teacher's outputs, what it is as logits, and what is refused."""

import json
import math

import numpy as np
import pytest

from distilcli.tasks.examples import BadExample
from distilcli.tasks.output_cells import (
    Meaning,
    class_cell,
    columns_cell,
    number_cell,
    word_cells,
)

LABELS = ["no", "yes", "maybe"]
TINY = float(np.finfo(np.float32).tiny)


def logits(cell, *, probabilities=False, any_of=False, labels=LABELS):
    found = Meaning(labels, probabilities, any_of, is_number=False).logits(cell)
    assert found.dtype == np.float32
    return found


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        [1.5, -2, 0],
        {"no": 1.5, "yes": -2, "maybe": 0},
        {"maybe": 0.0, "no": 1.5, "yes": -2.0},
        {"MAYBE": "0", "No": "1.5", "yes": "-2"},
    ],
    ids=["list", "object", "another order", "capitals and text"],
)
def test_a_list_and_an_object_are_put_into_the_order_of_the_classes(value, as_text):
    cell = class_cell(json.dumps(value) if as_text else value)
    assert logits(cell).tolist() == [1.5, -2.0, 0.0]


def test_a_column_for_each_class_is_put_into_their_order():
    cell = columns_cell(["maybe", "no", "yes"], ["0.25", 1, -3.5])
    assert logits(cell).tolist() == [1.0, -3.5, 0.25]


def test_numbers_are_read_as_they_are_written():
    number = Meaning(["LABEL_0"], False, False, is_number=True)
    assert number.logits(number_cell("0.0")).tolist() == [0.0]
    assert number.logits(number_cell(-2.5)).tolist() == [-2.5]


def test_probabilities_become_their_logarithms():
    """The softmax of which is the probabilities; a 0 stays finite."""
    found = logits(class_cell([0.25, 0.75, 0.0]), probabilities=True)
    expected = [math.log(0.25), math.log(0.75), math.log(TINY)]
    assert found.tolist() == pytest.approx(expected, rel=1e-7)
    assert np.isfinite(found).all()
    rounded = logits(class_cell([0.3333, 0.3333, 0.3334]), probabilities=True)
    assert rounded.tolist() == pytest.approx([math.log(1 / 3)] * 3, abs=1e-3)


def test_where_any_class_may_be_right_each_has_a_logit_of_its_own():
    """The sigmoid of which is its probability; they need not add up to 1, and all may be 0."""
    found = logits(class_cell([0.25, 0.9, 1.0]), probabilities=True, any_of=True)
    expected = [math.log(1 / 3), math.log(9), -math.log(TINY)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    nothing = logits(class_cell([0.0, 0.0, 0.0]), probabilities=True, any_of=True)
    assert nothing.tolist() == pytest.approx([math.log(TINY)] * 3, rel=1e-6)


@pytest.mark.parametrize("as_text", [False, True])
def test_words_have_an_entry_each_and_some_may_have_none(as_text):
    value = [{"no": 1, "yes": 2, "maybe": 3}, None, {"maybe": 6, "no": 4, "yes": 5}]
    found = logits(word_cells(json.dumps(value) if as_text else value))
    assert found[0].tolist() == [1, 2, 3]
    assert np.isnan(found[1]).all()
    assert found[2].tolist() == [4, 5, 6]
    lists = logits(word_cells([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]), probabilities=True)
    assert lists.shape == (2, 3)
    assert lists[1].tolist() == pytest.approx(np.log([0.1, 0.2, 0.7]).tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (class_cell, None, "no outputs of the teacher"),
        (class_cell, math.nan, "NaN in place of outputs"),
        (class_cell, " ", "no outputs of the teacher"),
        (class_cell, "0.5 0.5", "outputs '0.5 0.5' are no JSON"),
        (class_cell, "{'no': 1.5}", "are no JSON; JSON has its names in double quotes"),
        (class_cell, 0.5, "outputs 0.5 are neither a list nor an object by class"),
        (class_cell, [1.0, None, 2.0], "an output is missing"),
        (class_cell, [1.0, math.nan, 2.0], "an output is NaN"),
        (class_cell, "[1.0, NaN, 2.0]", "an output is NaN"),
        (class_cell, [1.0, "nan", 2.0], "output 'nan' is not finite"),
        (class_cell, [1.0, math.inf, 2.0], "output inf is not finite"),
        (class_cell, [1.0, 1e39, 2.0], "output 1e+39 is not finite"),
        (class_cell, [1.0, 10**400, 2.0], "is not finite"),
        (class_cell, [1.0, "high", 2.0], "output 'high' is no number"),
        (class_cell, [1.0, True, 2.0], "output True is no number"),
        (class_cell, [[1.0], [2.0]], "output [1.0] is no number"),
        (class_cell, {"no": 1.0, "yes": None, "maybe": 0}, "no outputs of the teacher for the"),
        (class_cell, {"no": 1.0, "yes": math.nan, "maybe": 0}, "for the class 'yes' is NaN"),
        (number_cell, "", "no outputs of the teacher"),
        (number_cell, None, "no outputs of the teacher"),
        (number_cell, math.nan, "an output is NaN"),
        (number_cell, [1.0], "output [1.0] is no number"),
        (number_cell, "1_0", "output '1_0' is no number"),
        (word_cells, {"no": 1}, "are no list with one entry for each word"),
        (word_cells, [None, None], "no outputs of the teacher"),
        (word_cells, [[1, 2, 3], [1, "x", 3]], "word 2: output 'x' is no number"),
        (word_cells, [[1, 2, 3], math.nan], "word 2: NaN in place of outputs"),
        (word_cells, [[1, 2, 3], [1, 2]], "word 2: its outputs are of other classes"),
        (word_cells, [{"a": 1, "b": 2}, {"a": 1, "c": 2}], "word 2: its outputs are of other"),
        (word_cells, [0.5, 0.5], "word 1: outputs 0.5 are neither a list nor an object"),
    ],
)
def test_what_is_no_outputs_is_refused(read, value, message):
    with pytest.raises(BadExample) as caught:
        read(value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        ([1.0, 2.0], {}, "2 outputs, but there are 3 classes"),
        ([1.0, 2.0, 3.0, 4.0], {}, "4 outputs, but there are 3 classes"),
        ({"no": 1.0, "yes": 2.0}, {}, "no output for the class 'maybe'"),
        ({"no": 1.0, "yes": 2.0, "perhaps": 3.0}, {}, "unknown class 'perhaps'; there are maybe"),
        ({"no": 1.0, "yes": 2.0, "maybe": 1, "x": 3.0}, {}, "unknown class 'x'"),
        ({"no": 1.0, "NO": 2.0, "yes": 1, "maybe": 3.0}, {}, "4 outputs, but there are 3"),
        ([0.0, 0.0, 0.0], {}, "the outputs are 0 for every class"),
        ([0.0, 0.0, 0.0], {"any_of": True}, "the outputs are 0 for every class"),
        ([0.0, 0.0, 0.0], {"probabilities": True}, "the probabilities add up to 0, not to 1"),
        ([0.5, 0.3, 0.1], {"probabilities": True}, "the probabilities add up to 0.9, not to 1"),
        ([0.5, 0.499, 0.003], {"probabilities": True}, "add up to 1.002, not to 1"),
        ([1.5, -0.5, 0.0], {"probabilities": True}, "1.5 is no probability: they are from 0 to 1"),
        ([0.5, 1.25, 0.0], {"probabilities": True, "any_of": True}, "1.25 is no probability"),
    ],
)
def test_outputs_that_do_not_fit_the_classes_are_refused(value, options, message):
    with pytest.raises(BadExample) as caught:
        logits(class_cell(value), **options)
    assert message in str(caught.value)


def test_a_word_among_others_is_looked_at_too():
    with pytest.raises(BadExample, match=r"add up to 0\.9"):
        logits(word_cells([[0.5, 0.5, 0.0], None, [0.5, 0.3, 0.1]]), probabilities=True)
    with pytest.raises(BadExample, match="0 for every class"):
        logits(word_cells([[0.5, 0.5, 0.0], [0, 0, 0]]))
