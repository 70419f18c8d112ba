"""Classification: one class for a text, or for a pair of texts."""

from typing import Any

import numpy as np

from distilcli.tasks.classes import positive_class
from distilcli.tasks.decisions import Decisions, one_of
from distilcli.tasks.examples import Examples
from distilcli.tasks.outputs import OneOf
from distilcli.tasks.sequence import SequenceTask, TextExample
from distilcli.tasks.task import scikit_metrics


class Classification(SequenceTask):
    """One class for each text or pair."""

    outputs = OneOf()
    agreement_means = "dev examples with the class that the teacher says"

    def decisions(self, outputs: np.ndarray) -> Decisions:
        """A class for each example."""
        return one_of(outputs, self.dev.targets)

    def choose_labels(
        self,
        config: Any,
        train: Examples[TextExample],
        dev: Examples[TextExample],
        teacher_labels: list[str] | None,
    ) -> list[str]:
        """The names of the outputs; which of two is `positive` does not depend on their order."""
        labels = super().choose_labels(config, train, dev, teacher_labels)
        self.positive = positive_class(labels, config.positive, self._listed)
        return labels

    def scores(self, outputs: np.ndarray) -> dict[str, float]:
        """Accuracy, F1 (of `positive`, and the mean over the classes that occur), Matthews."""
        metrics = scikit_metrics()
        truth, chosen = self.dev.targets, outputs.argmax(axis=1)
        accuracy = float(metrics.accuracy_score(truth, chosen))
        varies = len({*truth.tolist(), *chosen.tolist()}) > 1
        found = {
            "accuracy": accuracy,
            "macro_f1": float(metrics.f1_score(truth, chosen, average="macro", zero_division=0.0)),
            # Of a single class scikit-learn would warn; 0 is what it gives.
            "matthews": float(metrics.matthews_corrcoef(truth, chosen)) if varies else 0.0,
        }
        if self.positive is not None:
            positive = self.labels.index(self.positive)
            f1 = float(metrics.f1_score(truth == positive, chosen == positive, zero_division=0.0))
            found |= {"f1": f1, "accuracy_f1": (accuracy + f1) / 2}
        return found

    def constant_outputs(self) -> np.ndarray:
        """Logarithms of the training frequencies of the classes."""
        counts = np.bincount(self.known_targets(), minlength=len(self.labels))
        return np.tile(np.log((counts + 1.0) / counts.sum()), (len(self.dev), 1))
