"""Beside a score: how far probabilities can be trusted, and which predictions are others by now.

A model is calibrated if, of the predictions that it gives a probability of 0.8, 80 % are right. A
prediction flips if it is not the teacher's; a student may flip many and have the same score.
"""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from distilcli.tasks.decisions import Decisions
from distilcli.tasks.task import share_of_equal

NUM_BINS = 15
# The rows that tables have for a `Reliability`, and what is said below them.
RELIABILITY_TITLES = {"flips": "flips", "right_to_wrong": "right to wrong", "ece": "ECE"}
FLIPS_MEANS = "the rest; right to wrong: those of the flips where the teacher alone is right"


def calibration_bins(
    probabilities: Float[Tensor, " predictions"], is_right: Bool[Tensor, " predictions"]
) -> Float[Tensor, "3 bins"]:
    """Predictions by their probability: how many, the sum of it, how many are right; float64.

    The bins are of equal width, and each includes its upper end. Those of several batches or
    processes are added up.

    Args:
        probabilities: that a model gives to what it predicts, its most probable class.
        is_right: whether that is right.
    """
    probabilities = probabilities.double()
    ends = torch.arange(1, NUM_BINS, device=probabilities.device, dtype=torch.float64) / NUM_BINS
    index = torch.bucketize(probabilities, ends)
    columns = torch.stack([torch.ones_like(probabilities), probabilities, is_right.double()])
    return columns.new_zeros(3, NUM_BINS).index_add_(1, index, columns)


def expected_calibration_error(bins: Float[Tensor, "3 bins"]) -> float:
    """The mean over predictions of |share that is right - mean probability| in their bins.

    Between 0 and 1; 0 if there are no predictions. Source: Guo et al. 2017, eq. 3.
    """
    count, probability, right = bins
    return float((right - probability).abs().sum() / count.sum().clamp(min=1.0))


@dataclass(frozen=True)
class Reliability:
    """What a score does not say of a model's predictions, as fractions.

    Attributes:
        ece: expected calibration error, of the probabilities as they are (at temperature 1).
        flips: share of predictions that are not the teacher's; None without a teacher.
        right_to_wrong: share of predictions that are wrong, and the teacher's right.
    """

    ece: float
    flips: float | None = None
    right_to_wrong: float | None = None

    def known(self) -> dict[str, float]:
        """What there is, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def reliability_of(own: Decisions, teacher: Decisions | None) -> Reliability:
    """Of what a model decides on the dev examples of a task, beside its teacher if there is one."""
    bins = calibration_bins(
        torch.from_numpy(own.probabilities), torch.from_numpy(own.is_right_decision)
    )
    ece = expected_calibration_error(bins)
    if teacher is None:
        return Reliability(ece)
    lost = teacher.is_right & ~own.is_right
    return Reliability(ece, 1.0 - share_of_equal(own.said, teacher.said), float(lost.mean()))
