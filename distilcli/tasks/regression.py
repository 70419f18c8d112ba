"""Regression: a number for a text, or for a pair of texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distilcli.errors import extra
from distilcli.tasks.examples import Examples
from distilcli.tasks.labels import number_of
from distilcli.tasks.outputs import Number
from distilcli.tasks.sequence import SequenceTask, TextExample


class Regression(SequenceTask):
    """A number for each text or pair."""

    outputs = Number()
    agreement_means = "Pearson's correlation with the teacher's numbers"

    def agreement(self, outputs: np.ndarray, of_teacher: np.ndarray) -> float:
        """Pearson's correlation; 0 where a side is constant."""
        return _correlations(outputs[:, 0], of_teacher[:, 0])[0]

    def decisions(self, outputs: np.ndarray) -> None:
        """None: a number is neither right nor wrong."""

    def parse(self, value: Any) -> float:
        """A finite number."""
        return number_of(value)

    def choose_labels(
        self,
        config: Any,
        train: Examples[TextExample],
        dev: Examples[TextExample],
        teacher_labels: list[str] | None,
    ) -> list[str]:
        """One output, which transformers calls LABEL_0."""
        return ["LABEL_0"]

    def doubts(self, config: Any) -> list[str]:
        """Nothing: there are no classes."""
        return []

    def named(self, example: TextExample) -> TextExample:
        """The same: every number is known."""
        return example

    def targets(self, examples: Sequence[TextExample]) -> np.ndarray:
        """float32 [examples]."""
        return np.array([example.label for example in examples], dtype=np.float32)

    def scores(self, outputs: np.ndarray) -> dict[str, float]:
        """Pearson's and Spearman's correlation, 0 where a side is constant, and their mean."""
        pearson, spearman = _correlations(self.dev.targets, outputs[:, 0])
        mean = (pearson + spearman) / 2
        return {"pearson": pearson, "spearman": spearman, "pearson_spearman": mean}

    def constant_outputs(self) -> np.ndarray:
        """The mean of the training examples."""
        return np.full((len(self.dev), 1), self.known_targets().mean())


def _correlations(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Pearson's and Spearman's correlation, 0 where a side is constant."""
    with extra("eval", "tasks are scored with scikit-learn and SciPy"):
        from scipy import stats

    one, other = one.astype(np.float64), other.astype(np.float64)
    if min(np.ptp(one), np.ptp(other)) == 0:
        return 0.0, 0.0
    return float(stats.pearsonr(one, other).statistic), float(stats.spearmanr(one, other).statistic)
