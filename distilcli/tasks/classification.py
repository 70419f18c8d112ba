"""Sequence classification (one class, or any number) and regression, of texts and pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distilcli.config.tasks import ClassificationTask, MultiLabelTask, RegressionTask
from distilcli.errors import ConfigError, extra
from distilcli.tasks.examples import BadExample, Examples, bad_rows_first, read_examples
from distilcli.tasks.inputs import Cut, Inputs, join
from distilcli.tasks.labels import (
    Classes,
    class_names,
    class_text,
    class_texts,
    doubtful,
    named_by_vector,
    number_of,
    positive_class,
    refuse_vector,
    vector_length,
)
from distilcli.tasks.outputs import AnyOf, Number, OneOf
from distilcli.tasks.task import OpenTask, batched, check_score, scikit_metrics, share_of_equal
from distilcli.text.tokenizers import TextTokenizer

SequenceTask = ClassificationTask | MultiLabelTask | RegressionTask


@dataclass(frozen=True)
class TextExample:
    """A text or a pair, with its class, its classes or its number."""

    texts: tuple[str, ...]
    label: Any


class _SequenceTask(OpenTask):
    """What texts with a label have in common."""

    head = "sequence"

    def __init__(
        self,
        config: SequenceTask,
        tokenizer: TextTokenizer,
        teacher_labels: list[str] | None,
    ) -> None:
        self.score = config.score
        train, dev = _read_splits(config, _converter(config, self.parse))
        with bad_rows_first(train, dev, config.skip_bad_rows):
            self.labels = self.choose_labels(config, train, dev, teacher_labels)
        self._classes = Classes(self.labels)
        self.keep_usable(
            train, dev, config.skip_bad_rows, self.named, lambda example: example.texts
        )
        if not isinstance(config, RegressionTask) and config.labels is None:
            self.warnings += doubtful(self.labels)
        check_score(self.score, ("f1", "accuracy_f1"), len(self.labels) == 2, "two classes")
        self.train, in_train = self._inputs(train.usable, tokenizer, config.max_length)
        self.dev, in_dev = self._inputs(dev.usable, tokenizer, config.max_length)
        self.say_cuts(in_train, in_dev, "task.max_length", config.max_length)

    def _inputs(
        self,
        examples: Sequence[TextExample],
        tokenizer: TextTokenizer,
        max_length: int | None,
    ) -> tuple[Inputs, Cut]:
        texts = [example.texts for example in examples]
        ids, types, cut = tokenized(texts, tokenizer, max_length)
        return join(ids, types, [[0]] * len(ids), self.targets(examples)), cut

    def parse(self, value: Any) -> Any:
        """The label of a row; raises `BadExample`."""
        return class_text(value)

    def choose_labels(
        self,
        config: Any,
        train: Examples[TextExample],
        dev: Examples[TextExample],
        teacher_labels: list[str] | None,
    ) -> list[str]:
        """The names of the outputs."""
        found = {example.label for example in train.usable}
        return class_names(found, config.labels, teacher_labels)

    def named(self, example: TextExample) -> TextExample:
        """The example with its label as `labels` has it; raises `BadExample`."""
        return replace(example, label=self._classes.name_of(example.label))

    def targets(self, examples: Sequence[TextExample]) -> np.ndarray:
        """int64 [examples], the ids of classes."""
        ids = {name: index for index, name in enumerate(self.labels)}
        return np.array([ids[example.label] for example in examples], dtype=np.int64)


class Classification(_SequenceTask):
    """One class for each text or pair."""

    outputs = OneOf()
    agreement_means = "dev examples with the class that the teacher says"

    def agreement(self, outputs: np.ndarray, of_teacher: np.ndarray) -> float:
        """Share of examples with the same class."""
        return share_of_equal(outputs.argmax(axis=1), of_teacher.argmax(axis=1))

    def choose_labels(
        self,
        config: Any,
        train: Examples[TextExample],
        dev: Examples[TextExample],
        teacher_labels: list[str] | None,
    ) -> list[str]:
        """The names of the outputs; which of two is `positive` does not depend on their order."""
        labels = super().choose_labels(config, train, dev, teacher_labels)
        self.positive = positive_class(labels, config.positive, config.labels)
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
        counts = np.bincount(self.train.targets, minlength=len(self.labels))
        return np.tile(np.log((counts + 1.0) / counts.sum()), (len(self.dev), 1))


class MultiLabel(_SequenceTask):
    """Any number of classes for each text or pair."""

    outputs = AnyOf()
    agreement_means = "dev examples with exactly the classes that the teacher says"

    def agreement(self, outputs: np.ndarray, of_teacher: np.ndarray) -> float:
        """Share of examples with the same set of classes."""
        return share_of_equal(outputs > 0, of_teacher > 0)

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
        length = vector_length([example.label for example in train.usable])
        if length is None:
            found = {label for example in train.usable for label in example.label}
            for split in (train, dev):
                split.change(_without_vector)
            return class_names(found, config.labels, teacher_labels)
        given: list[str] | None = config.labels
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
        return np.array(rows, dtype=np.float32)

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
        share = self.train.targets.mean(axis=0).clip(1e-6, 1 - 1e-6)
        return np.tile(np.log(share / (1 - share)), (len(self.dev), 1))


class Regression(_SequenceTask):
    """A number for each text or pair."""

    outputs = Number()
    agreement_means = "Pearson's correlation with the teacher's numbers"

    def agreement(self, outputs: np.ndarray, of_teacher: np.ndarray) -> float:
        """Pearson's correlation; 0 where a side is constant."""
        return _correlations(outputs[:, 0], of_teacher[:, 0])[0]

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
        return np.full((len(self.dev), 1), self.train.targets.mean())


def _correlations(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Pearson's and Spearman's correlation, 0 where a side is constant."""
    with extra("eval", "tasks are scored with scikit-learn and SciPy"):
        from scipy import stats

    one, other = one.astype(np.float64), other.astype(np.float64)
    if min(np.ptp(one), np.ptp(other)) == 0:
        return 0.0, 0.0
    return float(stats.pearsonr(one, other).statistic), float(stats.spearmanr(one, other).statistic)


def _read_splits(
    config: SequenceTask, convert: Callable[[dict[str, Any]], TextExample]
) -> tuple[Examples[TextExample], Examples[TextExample]]:
    """The training and the dev examples."""
    pair = [config.text_pair] if config.text_pair else []
    needed = [config.text, *pair, config.label]
    train = read_examples(config.train, "task.train", needed, convert, {})
    return train, read_examples(config.dev, "task.dev", needed, convert, {})


def _converter(
    config: SequenceTask, parse: Callable[[Any], Any]
) -> Callable[[dict[str, Any]], TextExample]:
    columns = [config.text, *([config.text_pair] if config.text_pair else [])]

    def convert(values: dict[str, Any]) -> TextExample:
        texts = []
        for column in columns:
            text = values[column]
            if not isinstance(text, str) or not text.strip():
                raise BadExample(f"no text in {column}")
            texts.append(text)
        return TextExample(tuple(texts), parse(values[config.label]))

    return convert


def _without_vector(example: TextExample) -> TextExample:
    refuse_vector(example.label)
    return example


def tokenized(
    texts: Sequence[tuple[str, ...]], tokenizer: TextTokenizer, max_length: int | None
) -> tuple[list[list[int]], list[list[int]], Cut]:
    """Ids and token types of texts or pairs, and what of them is cut; of a pair the longer first.

    Args:
        texts: of each input.
        tokenizer: makes the tokens.
        max_length: tokens of an input at most; None: nothing is cut.
    """
    ids: list[list[int]] = []
    types: list[list[int]] = []
    num_cut = num_tokens = 0
    for part in batched(len(texts)):
        chosen = texts[part]
        part_ids, part_types = _encoded(chosen, tokenizer)
        longer = [i for i, row in enumerate(part_ids) if max_length and len(row) > max_length]
        if longer:
            # Whole ones first, so that it is known how much is cut.
            num_cut += len(longer)
            num_tokens += sum(len(part_ids[i]) - (max_length or 0) for i in longer)
            short = _encoded([chosen[i] for i in longer], tokenizer, max_length)
            for i, row_ids, row_types in zip(longer, *short, strict=True):
                part_ids[i], part_types[i] = row_ids, row_types
        ids += part_ids
        types += part_types
    return ids, types, Cut(num_cut, num_tokens, sum(map(len, ids)))


def _encoded(
    texts: Sequence[tuple[str, ...]], tokenizer: TextTokenizer, max_length: int | None = None
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and token types, of at most so many tokens each."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(
        *columns,
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=True,
        verbose=False,
    )
    return encoded["input_ids"], encoded["token_type_ids"]
