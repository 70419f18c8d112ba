"""What tasks have in common that give texts, or pairs of texts, a label."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distilcli.config.tasks import ClassificationTask, MultiLabelTask, RegressionTask
from distilcli.tasks.classes import Classes, class_names, doubtful
from distilcli.tasks.examples import BadExample, Examples, bad_rows_first, read_examples
from distilcli.tasks.inputs import Cut, Inputs, join
from distilcli.tasks.labels import class_text
from distilcli.tasks.task import OpenTask, batched, check_score
from distilcli.text.tokenizers import TextTokenizer

SequenceSettings = ClassificationTask | MultiLabelTask | RegressionTask


@dataclass(frozen=True)
class TextExample:
    """A text or a pair, with its class, its classes or its number."""

    texts: tuple[str, ...]
    label: Any


class SequenceTask(OpenTask):
    """What texts with a label have in common."""

    head = "sequence"

    def __init__(
        self,
        config: SequenceSettings,
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
        self.warnings += self.doubts(config)
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
        return join(ids, types, [[0]] * len(ids), self.targets(examples), texts), cut

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

    def doubts(self, config: Any) -> list[str]:
        """What looks wrong with the names of the outputs, in a sentence each."""
        return doubtful(self.labels) if config.labels is None else []

    def named(self, example: TextExample) -> TextExample:
        """The example with its label as `labels` has it; raises `BadExample`."""
        return replace(example, label=self._classes.name_of(example.label))

    def targets(self, examples: Sequence[TextExample]) -> np.ndarray:
        """int64 [examples], the ids of classes."""
        ids = {name: index for index, name in enumerate(self.labels)}
        return np.array([ids[example.label] for example in examples], dtype=np.int64)


def _read_splits(
    config: SequenceSettings, convert: Callable[[dict[str, Any]], TextExample]
) -> tuple[Examples[TextExample], Examples[TextExample]]:
    """The training and the dev examples."""
    pair = [config.text_pair] if config.text_pair else []
    needed = [config.text, *pair, config.label]
    train = read_examples(config.train, "task.train", needed, convert, {})
    return train, read_examples(config.dev, "task.dev", needed, convert, {})


def _converter(
    config: SequenceSettings, parse: Callable[[Any], Any]
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
