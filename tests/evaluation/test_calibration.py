"""The expected calibration error and flips, by hand."""

import numpy as np
import pytest
import torch

from distilcli.evaluation.calibration import (
    NUM_BINS,
    calibration_bins,
    expected_calibration_error,
    reliability_of,
)
from distilcli.tasks.decisions import Decisions


def ece(probabilities, is_right):
    bins = calibration_bins(torch.tensor(probabilities), torch.tensor(is_right))
    return expected_calibration_error(bins)


@pytest.mark.parametrize(
    ("probabilities", "is_right", "expected"),
    [
        # One bin: 3 of 4 are right, with 0.95 each.
        ([0.95] * 4, [True, True, True, False], 0.2),
        # Two bins, of 2 and of 3: |1/2 - 0.5| and |2/3 - 0.9|; too high and too low do not cancel.
        ([0.48, 0.52, 0.9, 0.9, 0.9], [True, False, True, True, False], 3 / 5 * (0.9 - 2 / 3)),
        ([0.55, 0.95], [True, False], (0.45 + 0.95) / 2),
        # Within a bin they do: 0.61 and 0.65 are both in (0.6, 0.667].
        ([0.61, 0.65], [True, False], 0.63 - 0.5),
        ([1.0, 1.0], [True, True], 0.0),
        ([1e-9], [False], 1e-9),
    ],
)
def test_it_is_the_mean_gap_of_the_bins(probabilities, is_right, expected):
    assert ece(probabilities, is_right) == pytest.approx(expected, abs=1e-7)


def test_of_no_predictions_it_is_nothing():
    assert ece([], torch.zeros(0, dtype=torch.bool).tolist()) == 0.0


def test_a_bin_includes_its_upper_end():
    ends = torch.arange(1, NUM_BINS + 1, dtype=torch.float64) / NUM_BINS
    counts, _, _ = calibration_bins(ends, torch.ones(NUM_BINS, dtype=torch.bool))
    assert counts.tolist() == [1.0] * NUM_BINS


def test_bins_of_parts_add_up_to_those_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(200, generator=generator)
    is_right = torch.rand(200, generator=generator) < probabilities
    whole = calibration_bins(probabilities, is_right)
    parts = [calibration_bins(probabilities[x], is_right[x]) for x in (slice(70), slice(70, 200))]
    torch.testing.assert_close(sum(parts), whole)
    assert whole[0].sum() == 200


def decided(said, is_right, probability=1.0):
    right = np.array(is_right)
    return Decisions(np.array(said), right, np.full(len(said), probability), right)


def test_flips_are_predictions_other_than_the_teachers():
    teacher = decided([0, 1, 2, 0, 1], [True, True, False, False, True])
    #                 same, lost, found, another mistake, same
    student = decided([0, 0, 1, 2, 1], [True, False, True, False, True], 0.9)
    found = reliability_of(student, teacher)
    assert found.flips == pytest.approx(3 / 5)
    assert found.right_to_wrong == pytest.approx(1 / 5)
    assert found.ece == pytest.approx(0.9 - 3 / 5)


def test_a_teacher_flips_none_of_its_own():
    teacher = decided([0, 1], [True, False])
    found = reliability_of(teacher, teacher)
    assert (found.flips, found.right_to_wrong) == (0.0, 0.0)


def test_without_a_teacher_there_are_no_flips():
    found = reliability_of(decided([0, 1], [True, False]), None)
    assert (found.flips, found.right_to_wrong, found.ece) == (None, None, 0.5)
