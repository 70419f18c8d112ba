"""Token classification: a tag for each word, read at the word's first piece.

A sentence that is longer than the model may see is cut between words into several inputs, so that
every word is trained on and measured.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distilcli.config.tasks import TaggingTask
from distilcli.files.json_text import parse_json
from distilcli.tasks.classes import Classes, class_names, doubtful
from distilcli.tasks.decisions import Decisions, one_of
from distilcli.tasks.entities import SCHEMES, entity_f1, not_of_entities
from distilcli.tasks.examples import BadExample, bad_rows_first, is_nothing
from distilcli.tasks.inputs import Cut, Inputs, join
from distilcli.tasks.labels import tag_text
from distilcli.tasks.outputs import OneOf
from distilcli.tasks.shown import ShownWords
from distilcli.tasks.splits import RowReader, named_by_outputs, read_splits
from distilcli.tasks.task import OpenTask, WrittenRow, batched, check_score, scikit_metrics
from distilcli.text.row import IGNORE_INDEX
from distilcli.text.tokenizers import TextTokenizer

_ENDINGS = dict.fromkeys((".tsv", ".txt", ".conll", ".conllu", ".bio"), "conll")
_NO_TAG = ""  # of a word whose tag nobody knows


@dataclass(frozen=True)
class Sentence:
    """Words and their tags.

    A word whose tag is None is passed over: neither trained on nor scored. One whose tag is empty
    has none that is known, and only a teacher says what it is.
    """

    words: list[str]
    tags: list[str | None]
    taught: Any = None  # see `WrittenOutputs`


class Tagging(OpenTask):
    """A tag for each word."""

    head = "token"
    outputs = OneOf()
    agreement_means = "words of the dev examples with the tag that the teacher says"

    def __init__(
        self,
        config: TaggingTask,
        tokenizer: TextTokenizer,
        teacher_labels: list[str] | None,
        may_lack_labels: bool = False,
    ) -> None:
        self.score = config.score
        self._words = config.words
        splits = read_splits(config, _reader(config), may_lack_labels)
        train, dev, num_others = splits.train, splits.dev, splits.num_unlabelled
        found = {tag for sentence in train.usable for tag in sentence.tags if tag}
        with bad_rows_first(train, dev, config.skip_bad_rows, num_others, splits.others):
            given = named_by_outputs(config, splits).labels
            self.labels = class_names(found, given, teacher_labels, num_others > 0)
        self._classes = Classes(self.labels)
        self.keep_usable(splits, config.skip_bad_rows, self._named, lambda sentence: sentence.words)
        if config.labels is None:
            self.warnings += doubtful(self.labels)
        other = not_of_entities(self.labels)
        self._has_entities = other is None
        needed_tags = f"{SCHEMES}; {other} is none" if other else SCHEMES
        check_score(self.score, ("entity_f1",), self._has_entities, needed_tags)

        def make(sentences: Sequence[Sentence]) -> tuple[Inputs, Cut]:
            return self._inputs(sentences, tokenizer, config.max_length)

        self.make_inputs(splits, make, "task.max_length", config.max_length)
        untagged = sum(sentence.tags.count(_NO_TAG) for sentence in train.usable)
        if untagged:
            self.notes = [
                f"words of task.train without a tag beside others with one: {untagged:,}; the "
                "teacher alone tags them"
            ]
        # A sentence's words lie one after another, in one input or in several.
        self._words_of_sentences = [
            sum(tag is not None for tag in sentence.tags) for sentence in dev.usable
        ]

    def _inputs(
        self, sentences: Sequence[Sentence], tokenizer: TextTokenizer, max_length: int | None
    ) -> tuple[Inputs, Cut]:
        """Inputs, and what is cut off of words."""
        ids_of = {name: index for index, name in enumerate(self.labels)} | {_NO_TAG: IGNORE_INDEX}
        specials = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
        room = (max_length or sys.maxsize) - 2
        num_cut = num_tokens = 0
        ids: list[list[int]] = []
        positions: list[list[int]] = []
        targets: list[int] = []
        shown: list[ShownWords] = []

        def add(tokens: list[int], firsts: list[int], words: list[str], read: list[int]) -> None:
            if firsts:  # else there is nothing to learn or to measure
                ids.append([*specials[0], *tokens, *specials[1]])
                positions.append(firsts)
                shown.append(ShownWords(words, read))

        for part in batched(len(sentences)):
            for sentence, words in zip(
                sentences[part],
                pieces_of_words([s.words for s in sentences[part]], tokenizer),
                strict=True,
            ):
                targets += [ids_of[tag] for tag in sentence.tags if tag is not None]
                tokens: list[int] = []
                firsts: list[int] = []
                begin, read = 0, list[int]()  # the first word of an input, words with a tag
                for index, (pieces, tag) in enumerate(zip(words, sentence.tags, strict=True)):
                    kept = pieces[:room]  # a single word of more pieces than an input holds
                    num_cut += len(kept) < len(pieces)
                    num_tokens += len(pieces) - len(kept)
                    if tokens and len(tokens) + len(kept) > room:
                        add(tokens, firsts, sentence.words[begin:index], read)
                        tokens, firsts, begin, read = [], [], index, []
                    if tag is not None:
                        firsts.append(len(tokens) + 1)
                        read.append(index - begin)
                    tokens += kept
                add(tokens, firsts, sentence.words[begin:], read)
        types = [[0] * len(row) for row in ids]
        inputs = join(ids, types, positions, np.array(targets, dtype=np.int64), shown)
        return inputs, Cut(num_cut, num_tokens, len(inputs.token_ids))

    @property
    def shown_columns(self) -> Sequence[str]:
        """The column of the words."""
        return [self._words]

    @property
    def listed_columns(self) -> Sequence[str]:
        """The column of the words."""
        return [self._words]

    @property
    def lists_outputs(self) -> bool:
        """Always: outputs for each word."""
        return True

    def written_rows(self, example: Sentence) -> Sequence[WrittenRow]:
        """The words of a sentence, of which those that are not passed over have outputs."""
        return [({self._words: example.words}, _is_read(example))]

    def _named(self, sentence: Sentence) -> Sentence:
        tags = [tag and self._classes.name_of(tag) for tag in sentence.tags]
        return replace(sentence, tags=tags)

    def decisions(self, outputs: np.ndarray) -> Decisions:
        """A tag for each word that has one."""
        return one_of(outputs, self.dev.targets)

    def scores(self, outputs: np.ndarray) -> dict[str, float]:
        """Share of words tagged right, mean F1 over the tags that occur; F1 of entities."""
        metrics = scikit_metrics()
        truth, chosen = self.dev.targets, outputs.argmax(axis=1)
        found = {
            "accuracy": float(metrics.accuracy_score(truth, chosen)),
            "macro_f1": float(metrics.f1_score(truth, chosen, average="macro", zero_division=0.0)),
        }
        if self._has_entities:
            ends = np.cumsum(self._words_of_sentences)[:-1]
            names = np.array(self.labels)
            found["entity_f1"] = entity_f1(
                [row.tolist() for row in np.split(names[truth], ends)],
                [row.tolist() for row in np.split(names[chosen], ends)],
            )
        return found

    def constant_outputs(self) -> np.ndarray:
        """Logarithms of the training frequencies of the tags."""
        counts = np.bincount(self.known_targets(), minlength=len(self.labels))
        return np.tile(np.log((counts + 1.0) / counts.sum()), (len(self.dev.targets), 1))


def _reader(config: TaggingTask) -> RowReader[Sentence]:
    def unlabelled(values: dict[str, Any]) -> Sentence:
        words = _words(values[config.words])
        return Sentence(words, [_NO_TAG] * len(words))

    def convert(values: dict[str, Any], may_lack_tags: bool) -> Sentence:
        sentence = unlabelled(values)
        tags = values[config.tags]
        if may_lack_tags and _says_nothing(tags):
            return sentence
        tags = _listed(tags)
        if len(sentence.words) != len(tags):
            raise BadExample(f"{len(sentence.words)} words, but {len(tags)} tags")
        found = [
            _tag(word, tag, index, may_lack_tags)
            for index, (word, tag) in enumerate(zip(sentence.words, tags, strict=True), start=1)
        ]
        if any(found):
            return Sentence(sentence.words, found)
        if may_lack_tags:
            return sentence
        raise BadExample(f"no word has a tag: all are {IGNORE_INDEX}")

    def as_row(line: str) -> dict[str, Any]:
        return {config.words: line.split()}

    return RowReader(
        [config.words],
        [config.tags],
        convert,
        unlabelled,
        lambda sentence: any(sentence.tags),
        _ENDINGS,
        as_row,
        texts_of=lambda sentence: sentence.words,
        is_read=_is_read,
    )


def _is_read(sentence: Sentence) -> list[bool]:
    return [tag is not None for tag in sentence.tags]


def _says_nothing(tags: Any) -> bool:
    """Whether a cell has no tags at all: null, NaN, empty, an empty list."""
    return is_nothing(tags) or (isinstance(tags, str | list) and not _listed(tags))


def _words(value: Any) -> list[str]:
    words = ["" if is_nothing(word) else str(word) for word in _listed(value)]
    if not words:
        raise BadExample("no words")
    for index, word in enumerate(words, start=1):
        if not word.strip():
            raise BadExample(f"word {index} is empty")
    return words


def _tag(word: str, tag: Any, index: int, may_lack_tag: bool) -> str | None:
    """The tag that a cell names; None to pass over the word, `_NO_TAG` where nobody knows it."""
    if not is_nothing(tag) and str(tag).strip():
        return tag_text(tag)
    if may_lack_tag:
        return _NO_TAG
    raise BadExample(f"no tag for word {index}, {word!r}")


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):  # a cell of a CSV
        try:
            value = parse_json(value) if value.lstrip().startswith("[") else value.split()
        except ValueError as error:
            if "nested" in str(error):
                raise BadExample(f"the list is {error}") from None
            value = value.split()
    if not isinstance(value, list):
        raise BadExample(f"{value!r} is no list")
    return value


def pieces_of_words(
    sentences: Sequence[list[str]], tokenizer: TextTokenizer
) -> list[list[list[int]]]:
    """The pieces of each word of each sentence; [UNK] for a word that the tokenizer drops."""
    encoded = tokenizer(
        list(sentences), is_split_into_words=True, add_special_tokens=False, verbose=False
    )
    result = []
    for index, words in enumerate(sentences):
        pieces: list[list[int]] = [[] for _ in words]
        ids = encoded["input_ids"][index]
        for token, word in zip(ids, encoded.word_ids(index), strict=True):
            assert word is not None  # there are no special tokens
            pieces[word].append(token)
        result.append([found or [tokenizer.unk_token_id] for found in pieces])
    return result
