"""Token classification: a tag for each word, read at the word's first piece.

A sentence that is longer than the model may see is cut between words into several inputs, so that
every word is trained on and measured.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distilcli.task_config import TaggingTask
from distilcli.tasks.examples import BadExample, bad_rows_first, is_nothing, read_examples
from distilcli.tasks.inputs import Inputs, join
from distilcli.tasks.task import (
    OpenTask,
    batched,
    check_score,
    class_names,
    scikit_metrics,
    share_of_equal,
)
from distilcli.text_tokens import TextTokenizer

_ENDINGS = dict.fromkeys((".tsv", ".txt", ".conll", ".conllu", ".bio"), "conll")


@dataclass(frozen=True)
class Sentence:
    """Words and their tags."""

    words: list[str]
    tags: list[str]


class Tagging(OpenTask):
    """A tag for each word."""

    head = "token"
    family = "one-of"
    agreement_means = "words of the dev examples with the tag that the teacher says"

    def __init__(
        self,
        config: TaggingTask,
        tokenizer: TextTokenizer,
        teacher_labels: list[str] | None,
    ) -> None:
        self.score = config.score
        needed = [config.words, config.tags]

        def convert(values: dict[str, Any]) -> Sentence:
            return _sentence(values[config.words], values[config.tags])

        train = read_examples(config.train, "task.train", needed, convert, _ENDINGS)
        dev = read_examples(config.dev, "task.dev", needed, convert, _ENDINGS)
        found = {tag for sentence in train.usable for tag in sentence.tags}
        with bad_rows_first(train, dev, config.skip_bad_rows):
            self.labels = class_names(found, config.labels, teacher_labels)
        self.keep_usable(
            train,
            dev,
            config.skip_bad_rows,
            lambda sentence: sentence.tags,
            lambda sentence: sentence.words,
        )
        self._has_entities = any(name.startswith("B-") for name in self.labels)
        check_score(self.score, ("entity_f1",), self._has_entities, "tags such as B-PER, I-PER, O")
        self.train, _ = self._inputs(train.usable, tokenizer, config.max_length)
        self.dev, pieces = self._inputs(dev.usable, tokenizer, config.max_length)
        # A sentence's words lie one after another, in one input or in several.
        self._words_of_sentences = pieces

    def _inputs(
        self, sentences: Sequence[Sentence], tokenizer: TextTokenizer, max_length: int
    ) -> tuple[Inputs, list[int]]:
        """Inputs, and the number of words of each sentence."""
        ids_of = {name: index for index, name in enumerate(self.labels)}
        specials = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
        room = max_length - 2
        ids: list[list[int]] = []
        positions: list[list[int]] = []
        targets: list[int] = []
        for part in batched(len(sentences)):
            for sentence, words in zip(
                sentences[part], _pieces([s.words for s in sentences[part]], tokenizer), strict=True
            ):
                targets += [ids_of[tag] for tag in sentence.tags]
                tokens: list[int] = []
                firsts: list[int] = []
                for pieces in words:
                    kept = pieces[:room]  # a single word of more pieces than an input holds
                    if tokens and len(tokens) + len(kept) > room:
                        ids.append([*specials[0], *tokens, *specials[1]])
                        positions.append(firsts)
                        tokens, firsts = [], []
                    firsts.append(len(tokens) + 1)
                    tokens += kept
                ids.append([*specials[0], *tokens, *specials[1]])
                positions.append(firsts)
        types = [[0] * len(row) for row in ids]
        inputs = join(ids, types, positions, np.array(targets, dtype=np.int64))
        return inputs, [len(sentence.words) for sentence in sentences]

    def agreement(self, outputs: np.ndarray, of_teacher: np.ndarray) -> float:
        """Share of words with the same tag."""
        return share_of_equal(outputs.argmax(axis=1), of_teacher.argmax(axis=1))

    def scores(self, outputs: np.ndarray) -> dict[str, float]:
        """Share of words tagged right, mean F1 over tags; F1 of entities for tags like B-PER."""
        metrics = scikit_metrics()
        truth, chosen = self.dev.targets, outputs.argmax(axis=1)
        ids = list(range(len(self.labels)))
        each = metrics.f1_score(truth, chosen, labels=ids, average=None, zero_division=0.0)
        found = {
            "accuracy": float(metrics.accuracy_score(truth, chosen)),
            "macro_f1": float(each.mean()),
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
        counts = np.bincount(self.train.targets, minlength=len(self.labels))
        return np.tile(np.log((counts + 1.0) / counts.sum()), (len(self.dev.targets), 1))


def _sentence(words: Any, tags: Any) -> Sentence:
    words, tags = _listed(words), _listed(tags)
    if not words:
        raise BadExample("no words")
    if len(words) != len(tags):
        raise BadExample(f"{len(words)} words, but {len(tags)} tags")
    for number, (word, tag) in enumerate(zip(words, tags, strict=True), start=1):
        if not word.strip():
            raise BadExample(f"word {number} is empty")
        if not tag.strip():
            raise BadExample(f"no tag for word {number}, {word!r}")
    return Sentence(words, tags)


def _listed(value: Any) -> list[str]:
    if isinstance(value, str):  # a cell of a CSV
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split()
        except ValueError:
            value = value.split()
        except RecursionError:
            raise BadExample("the list is nested too deeply") from None
    if not isinstance(value, list):
        raise BadExample(f"{value!r} is no list")
    return ["" if is_nothing(item) else str(item) for item in value]


def _pieces(sentences: Sequence[list[str]], tokenizer: TextTokenizer) -> list[list[list[int]]]:
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


def entity_f1(truth: Sequence[list[str]], predicted: Sequence[list[str]]) -> float:
    """F1 of whole entities over all sentences, as the CoNLL-2000 script counts them.

    An entity is found if its type, its first and its last word are those of a true one.
    """
    expected, found, shared = 0, 0, 0
    for true_tags, found_tags in zip(truth, predicted, strict=True):
        true_entities, found_entities = entities(true_tags), entities(found_tags)
        expected += len(true_entities)
        found += len(found_entities)
        shared += len(true_entities & found_entities)
    return 2 * shared / (expected + found) if expected + found else 0.0


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first word, last word) of each entity in tags such as B-PER, I-PER, O.

    An I- that follows no entity of its type begins one, as in the CoNLL-2000 script.
    """
    spans: set[tuple[str, int, int]] = set()
    start, current = 0, ""
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        goes_on = prefix == "I" and kind == current
        if current and not goes_on:
            spans.add((current, start, index - 1))
            current = ""
        if prefix in ("B", "I") and kind and not goes_on:
            start, current = index, kind
    return spans
