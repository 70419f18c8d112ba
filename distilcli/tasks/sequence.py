"""What tasks have in common that give texts, or pairs of texts, a label."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distilcli.config.tasks import ClassificationTask, MultiLabelTask, RegressionTask
from distilcli.tasks.cells import text_of
from distilcli.tasks.classes import Classes, class_names, doubtful
from distilcli.tasks.examples import Examples, NoLabel, bad_rows_first
from distilcli.tasks.inputs import Cut, Inputs, join, no_label
from distilcli.tasks.labels import class_text
from distilcli.tasks.splits import RowReader, named_by_outputs, read_splits
from distilcli.tasks.task import OpenTask, WrittenRow, batched, check_score
from distilcli.text.tokenizers import TextTokenizer

SequenceSettings = ClassificationTask | MultiLabelTask | RegressionTask


@dataclass(frozen=True)
class TextExample:
    """A text or a pair, with its class, its classes or its number; None: nobody knows it."""

    texts: tuple[str, ...]
    label: Any
    taught: Any = None  # see `WrittenOutputs`


class SequenceTask(OpenTask):
    """What texts with a label have in common."""

    head = "sequence"

    def __init__(
        self,
        config: SequenceSettings,
        tokenizer: TextTokenizer,
        teacher_labels: list[str] | None,
        may_lack_labels: bool = False,
    ) -> None:
        self.score = config.score
        splits = read_splits(config, _reader(config, self.parse), may_lack_labels)
        train, dev, num_others = splits.train, splits.dev, splits.num_unlabelled
        self._some_classes_only = num_others > 0
        self._columns, self._listed = columns_of(config), getattr(config, "labels", None)
        with bad_rows_first(train, dev, config.skip_bad_rows, num_others, splits.others):
            named = named_by_outputs(config, splits)
            self._outputs_name_classes = named is not config
            self.labels = self.choose_labels(named, train, dev, teacher_labels)
        self._classes = Classes(self.labels)
        self.keep_usable(splits, config.skip_bad_rows, self.named, lambda example: example.texts)
        self.warnings += self.doubts(config)
        check_score(self.score, ("f1", "accuracy_f1"), len(self.labels) == 2, "two classes")

        def make(examples: Sequence[TextExample]) -> tuple[Inputs, Cut]:
            return self._inputs(examples, tokenizer, config.max_length)

        self.make_inputs(splits, make, "task.max_length", config.max_length)

    def _inputs(
        self,
        examples: Sequence[TextExample],
        tokenizer: TextTokenizer,
        max_length: int | None,
    ) -> tuple[Inputs, Cut]:
        texts = [example.texts for example in examples]
        ids, types, cut = tokenized(texts, tokenizer, max_length)
        inputs = join(ids, types, [[0]] * len(ids), self._all_targets(examples), texts)
        return inputs, cut

    def _all_targets(self, examples: Sequence[TextExample]) -> np.ndarray:
        """Targets of examples of which all have a label, or none has."""
        if any(example.label is not None for example in examples):
            return self.targets(examples)
        like = self.targets([])
        return np.full((len(examples), *like.shape[1:]), no_label(like.dtype), dtype=like.dtype)

    @property
    def shown_columns(self) -> Sequence[str]:
        """Columns of the texts."""
        return self._columns

    def written_rows(self, example: TextExample) -> Sequence[WrittenRow]:
        """The texts of an example, by column."""
        return [(dict(zip(self._columns, example.texts, strict=True)), None)]

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
        return class_names(found, config.labels, teacher_labels, self._some_classes_only)

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


def columns_of(config: SequenceSettings) -> list[str]:
    """The columns of the texts."""
    return [config.text, *([config.text_pair] if config.text_pair else [])]


def _reader(config: SequenceSettings, parse: Callable[[Any], Any]) -> RowReader[TextExample]:
    columns = columns_of(config)

    def unlabelled(values: dict[str, Any]) -> TextExample:
        return TextExample(tuple(text_of(values[column], column) for column in columns), None)

    def convert(values: dict[str, Any], may_lack_label: bool) -> TextExample:
        example = unlabelled(values)
        try:
            return replace(example, label=parse(values[config.label]))
        except NoLabel:
            if may_lack_label:
                return example
            raise

    def as_row(line: str) -> dict[str, Any]:
        return {config.text: line}

    return RowReader(
        columns,
        [config.label],
        convert,
        unlabelled,
        lambda example: example.label is not None,
        {},
        as_row if len(columns) == 1 else None,
        texts_of=lambda example: example.texts,
    )


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
