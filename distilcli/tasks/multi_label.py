"""Multi-label classification: any number of classes for a text, or for a pair of texts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distilcli.errors import ConfigError
from distilcli.tasks.classes import class_names
from distilcli.tasks.decisions import Decisions, any_of
from distilcli.tasks.examples import Examples
from distilcli.tasks.labels import class_texts, named_by_vector, refuse_vector, vector_length
from distilcli.tasks.outputs import AnyOf
from distilcli.tasks.sequence import SequenceTask, TextExample
from distilcli.tasks.task import scikit_metrics


class MultiLabel(SequenceTask):
    """Any number of classes for each text or pair."""

    outputs = AnyOf()
    agreement_means = "dev examples with exactly the classes that the teacher says"

    def decisions(self, outputs: np.ndarray) -> Decisions:
        """A set of classes for each example."""
        return any_of(outputs, self.dev.targets)

    def parse(self, value: Any) -> Any:
        """Classes, or a 0 or 1 for each; none is a label too."""
        return class_texts(value)

    def choose_labels(
        self,
        config: Any,
        train: Examples[TextExample],
        dev: Examples[TextExample],
        teacher_labels: list[str] | None,
    ) -> list[str]:
        """The names of the outputs; examples have the names of their classes afterwards."""
        # Where a teacher labels all that is trained on, the dev rows show what labels are like.
        telling = train.usable or dev.usable
        length = vector_length([example.label for example in telling])
        some_only = self._some_classes_only
        if length is None:
            found = {label for example in train.usable for label in example.label}
            for split in (train, dev):
                split.change(_without_vector)
            return class_names(found, config.labels, teacher_labels, some_only)
        given: list[str] | None = config.labels
        if self._outputs_name_classes:
            raise ConfigError(
                f"task.labels: the rows have {length} values of 0 or 1, the teacher's outputs name "
                f"{len(given or [])} classes, and nothing says which value is of which class",
                "List the classes in task.labels, in the order of the values in the rows.",
            )
        if given is not None and len(given) != length:
            raise ConfigError(
                f"task.labels: {len(given)} classes, but the rows have {length} values of 0 or 1",
                "List as many as there are values, in their order.",
            )
        if given is None and teacher_labels is not None and len(teacher_labels) == length:
            given = teacher_labels
        names = given or [f"LABEL_{index}" for index in range(length)]
        for split in (train, dev):
            split.change(lambda one: replace(one, label=named_by_vector(one.label, names)))
        return class_names(set(), names, teacher_labels)

    def named(self, example: TextExample) -> TextExample:
        """The example with the set of its classes as `labels` has them; raises `BadExample`."""
        return replace(example, label=frozenset(map(self._classes.name_of, example.label)))

    def targets(self, examples: Sequence[TextExample]) -> np.ndarray:
        """float32 [examples, classes], 1 where a class is right."""
        rows = [[float(name in example.label) for name in self.labels] for example in examples]
        return np.array(rows, dtype=np.float32).reshape(-1, len(self.labels))

    def scores(self, outputs: np.ndarray) -> dict[str, float]:
        """F1 over all labels, its mean over the classes that occur, share of rows all right."""
        metrics = scikit_metrics()
        truth, chosen = self.dev.targets.astype(int), (outputs > 0).astype(int)
        each = metrics.f1_score(truth, chosen, average=None, zero_division=0.0)
        occurs = (truth | chosen).any(axis=0)
        return {
            "micro_f1": float(metrics.f1_score(truth, chosen, average="micro", zero_division=0.0)),
            "macro_f1": float(each[occurs].mean()) if occurs.any() else 0.0,
            "exact_match": float(metrics.accuracy_score(truth, chosen)),
        }

    def constant_outputs(self) -> np.ndarray:
        """Log-odds of the training frequencies of the classes."""
        share = self.known_targets().mean(axis=0).clip(1e-6, 1 - 1e-6)
        return np.tile(np.log(share / (1 - share)), (len(self.dev), 1))


def _without_vector(example: TextExample) -> TextExample:
    refuse_vector(example.label)
    return example
