"""Reranking: an order for the candidates of each query, by a score of query and document.

A sample is a query with all its candidates: the losses on rankings compare them with each other, so
no micro-batch holds a part of them. A model is shown one pair of query and document at a time, as a
cross-encoder is.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distilcli.config.tasks import RerankingTask
from distilcli.errors import DataError
from distilcli.losses.candidates import is_labelled
from distilcli.tasks import rankings
from distilcli.tasks.cells import id_of, text_of
from distilcli.tasks.examples import BadExample, Examples, NoLabel, is_nothing
from distilcli.tasks.inputs import Cut, Inputs, join
from distilcli.tasks.labels import number_of
from distilcli.tasks.output_cells import joined_cells
from distilcli.tasks.outputs import Relevance
from distilcli.tasks.sequence import tokenized
from distilcli.tasks.splits import RowReader, read_splits
from distilcli.tasks.task import OpenTask, WrittenRow
from distilcli.text.overlap import digest_of_texts, overlap
from distilcli.text.tokenizers import TextTokenizer


@dataclass(frozen=True)
class QueryExample:
    """A query with its candidates, as one row or several rows have them.

    Attributes:
        query: its text.
        documents: text of each candidate.
        labels: how relevant each is; NaN where nobody knows it.
        key: what rows of the same query have in common; None: a row that has all its candidates.
        taught: the teacher's score of each candidate; see `WrittenOutputs`.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    key: str | None
    taught: Any = None


class Reranking(OpenTask):
    """An order for the candidates of each query."""

    head = "sequence"
    outputs = Relevance()
    agreement_means = (
        "Kendall's rank correlation (tau-b) with the teacher's order of the candidates of a query, "
        "the mean over queries with two candidates or more"
    )
    is_scored_by_scikit = False
    knowing_nothing = "a random order"

    def __init__(
        self,
        config: RerankingTask,
        tokenizer: TextTokenizer,
        teacher_labels: list[str] | None,
        may_lack_labels: bool = False,
    ) -> None:
        self.score = config.score
        self._config = config
        self.labels = ["LABEL_0"]  # as transformers calls a single output
        splits = read_splits(config, _reader(config), may_lack_labels)
        self.keep_usable(splits, config.skip_bad_rows, lambda example: example, _texts_of)

        def make(examples: Sequence[QueryExample]) -> tuple[Inputs, Cut]:
            return _inputs(examples, tokenizer, config.max_length)

        self.make_inputs(splits, make, "task.max_length", config.max_length)
        train, dev = [*splits.train.usable, *splits.unlabelled.usable], splits.dev
        of_all = [*train, *splits.transfer.usable]
        self.notes = [_sizes_of("train", of_all), _sizes_of("dev", dev.usable)]
        self.notes += _unlabelled_beside_others(splits.train.usable)
        # Rows that are written down are so if some row to train on is.
        self._are_nested = any(example.key is None for example in self.examples)
        self._ranked = self._ranked_queries(dev)
        self._warn(train, dev.usable)

    @property
    def shown_columns(self) -> Sequence[str]:
        """Columns of query and document, and of the query's id where rows have one document."""
        config = self._config
        has_id = config.query_id is not None and not self._are_nested
        ids = [str(config.query_id)] if has_id else []
        return [*ids, config.query, config.document]

    @property
    def listed_columns(self) -> Sequence[str]:
        """The column of the documents, where a row has all of a query."""
        return [self._config.document] if self._are_nested else []

    @property
    def lists_outputs(self) -> bool:
        """Whether a row has all documents of a query."""
        return self._are_nested

    def written_rows(self, example: QueryExample) -> Sequence[WrittenRow]:
        """A query with its documents, or each document in a row of its own."""
        config = self._config
        if self._are_nested:
            shown = {config.query: example.query, config.document: list(example.documents)}
            return [(shown, [True] * len(example.documents))]
        ids = {} if config.query_id is None else {config.query_id: example.key}
        return [
            (ids | {config.query: example.query, config.document: document}, None)
            for document in example.documents
        ]

    def _ranked_queries(self, dev: Examples[QueryExample]) -> list[int]:
        """The dev queries that can be scored: some candidate is relevant.

        Raises:
            DataError: there is none.
        """
        ranked = [i for i, example in enumerate(dev.usable) if max(example.labels) > 0]
        if not ranked:
            raise DataError(
                f"{dev.name}: no query has a relevant document, with a label above 0",
                "A ranking is scored by where the relevant documents of a query stand.",
            )
        return ranked

    def _warn(self, train: Sequence[QueryExample], dev: Sequence[QueryExample]) -> None:
        """Warn of queries that say little, and of those that are in both splits."""
        trained, measured = (
            [digest_of_texts(example.query) for example in part] for part in (train, dev)
        )
        shared = overlap(trained, measured, ("task.train", "task.dev"), "queries")
        if shared.shared > self.overlap.shared:
            self.warnings.append(
                f"{shared.shared:,} of the {shared.held_out:,} queries of task.dev are in "
                "task.train, too, with other documents or with the same ones"
            )
        alone = sum(len(example.labels) == 1 for example in train)
        if alone:
            self.warnings.append(
                f"task.train: {alone:,} of {len(train):,} queries have one candidate alone, which "
                "no loss on an order learns from"
            )
        labelled = [example for example in train if not all(map(math.isnan, example.labels))]
        several = [np.array(example.labels) for example in labelled if len(example.labels) > 1]
        silent = sum(not is_labelled(labels) for labels in several)
        if silent:
            self.warnings.append(
                f"task.train: {silent:,} of {len(labelled):,} queries with labels have no relevant "
                "document (a label above 0) beside another one with a label: loss.labels learns "
                "nothing from them"
            )
        if len(self._ranked) < len(dev):
            self.warnings.append(
                f"task.dev: {len(dev) - len(self._ranked):,} of {len(dev):,} queries have no "
                "relevant document (a label above 0) and are left out of the scores"
            )
        certain = sum(min(example.labels) == max(example.labels) > 0 for example in dev)
        if certain:
            self.warnings.append(
                f"task.dev: {certain:,} of {len(dev):,} queries have candidates of one label "
                "alone: every order of them has the score 1"
            )

    def scores(self, outputs: np.ndarray) -> dict[str, float]:
        """nDCG@10 and MRR@10, the means over the queries with a relevant candidate."""
        found = self._of_queries(outputs[:, 0])
        return {
            "ndcg@10": _mean(rankings.ndcg(*query) for query in found),
            "mrr@10": _mean(rankings.reciprocal_rank(*query) for query in found),
        }

    def constant_scores(self) -> dict[str, float]:
        """The means over all orders of each query's candidates, in closed form."""
        labels = [labels for _, labels in self._of_queries(self.dev.targets)]
        return {
            "ndcg@10": _mean(map(rankings.expected_ndcg, labels)),
            "mrr@10": _mean(map(rankings.expected_reciprocal_rank, labels)),
        }

    def decisions(self, outputs: np.ndarray) -> None:
        """None: an order is neither right nor wrong."""

    def agreement(self, outputs: np.ndarray, of_teacher: np.ndarray) -> float:
        """Kendall's tau-b of each query with two candidates or more, the mean; 0 without any."""
        own, other = (_split(side[:, 0], self.dev.group_offsets) for side in (outputs, of_teacher))
        found = [
            rankings.rank_correlation(*pair)
            for pair in zip(own, other, strict=True)
            if len(pair[0]) > 1
        ]
        return _mean(found) if found else 0.0

    def constant_outputs(self) -> np.ndarray:
        """The same score for every candidate."""
        return np.zeros((len(self.dev), 1))

    def _of_queries(self, scores: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Scores and labels of the candidates of each dev query that can be scored."""
        parts = (_split(side, self.dev.group_offsets) for side in (scores, self.dev.targets))
        queries = list(zip(*parts, strict=True))
        return [queries[index] for index in self._ranked]


def _reader(config: RerankingTask) -> RowReader[QueryExample]:
    """Rows of one document, or of all documents of a query."""
    ids = [config.query_id] if config.query_id else []

    def unlabelled(values: dict[str, Any]) -> QueryExample:
        query = text_of(values[config.query], config.query)
        documents = values[config.document]
        if not isinstance(documents, list):
            # Files of scores need no ids: they are matched by query and document.
            has_id = bool(ids) and ids[0] in values
            key = id_of(values[ids[0]], ids[0]) if has_id else query.strip()
            return QueryExample(query, (text_of(documents, config.document),), (math.nan,), key)
        if ids and ids[0] in values:
            id_of(values[ids[0]], ids[0])
        if not documents:
            raise BadExample(f"no documents in {config.document}")
        texts = tuple(text_of(document, config.document) for document in documents)
        return QueryExample(query, texts, (math.nan,) * len(texts), None)

    def convert(values: dict[str, Any], may_lack_labels: bool) -> QueryExample:
        example, labels = unlabelled(values), values[config.label]
        number = len(example.documents)
        if example.key is not None:
            return replace(example, labels=(_relevance(labels, may_lack_labels),))
        if may_lack_labels and (is_nothing(labels) or labels == ""):
            return example
        if not isinstance(labels, list) or len(labels) != number:
            found = f"{len(labels)} of them" if isinstance(labels, list) else "no list"
            raise BadExample(
                f"{number} documents in {config.document}, but in {config.label} {found}"
            )
        return replace(
            example, labels=tuple(_relevance(label, may_lack_labels) for label in labels)
        )

    return RowReader(
        [config.query, config.document, *ids],
        [config.label],
        convert,
        unlabelled,
        lambda example: not all(map(math.isnan, example.labels)),
        {},
        texts_of=_texts_of,
        is_read=lambda example: [True] * len(example.documents),
        parts_of=lambda example: [(example.query, text) for text in example.documents],
        matched=[config.query, config.document],
        joined=_joined,
    )


def _texts_of(example: QueryExample) -> Sequence[str]:
    """By which a query with its candidates is known again, whatever their order."""
    return example.query, *sorted(example.documents)


def _joined(rows: Examples[QueryExample]) -> Examples[QueryExample]:
    """The queries, in the order of their first rows; rows with one document each are put together.

    Rows of a query that has another text in an earlier row are bad.
    """
    queries: Examples[QueryExample] = Examples(rows.name, bad=rows.bad)
    found: dict[str, list[QueryExample]] = {}
    for place, row in zip(rows.places, rows.usable, strict=True):
        before = found.setdefault(row.key, []) if row.key is not None else []
        if before and before[0].query.strip() != row.query.strip():
            queries.bad.append(f"{place}: query {row.key} has another text in a row before")
            continue
        if not before:
            queries.usable.append(row)
            queries.places.append(place)
        before.append(row)
    queries.usable[:] = [
        row if row.key is None else _together(found[row.key]) for row in queries.usable
    ]
    return queries


def _together(rows: Sequence[QueryExample]) -> QueryExample:
    return replace(
        rows[0],
        documents=tuple(document for row in rows for document in row.documents),
        labels=tuple(label for row in rows for label in row.labels),
        taught=joined_cells([row.taught for row in rows]),
    )


def _relevance(value: Any, may_lack_label: bool) -> float:
    """How relevant a document is: a number from 0, or true or false; NaN where nobody knows it."""
    try:
        relevance = float(value) if isinstance(value, bool) else number_of(value)
    except NoLabel:
        if may_lack_label:
            return math.nan
        raise
    if relevance < 0:
        raise BadExample(f"label {value} is below 0; 0 is a document that is not relevant")
    return relevance


def _inputs(
    examples: Sequence[QueryExample], tokenizer: TextTokenizer, max_length: int | None
) -> tuple[Inputs, Cut]:
    """An input for each candidate, and what of them is cut: of query and document the longer."""
    texts = [(e.query, document) for e in examples for document in e.documents]
    ids, types, cut = tokenized(texts, tokenizer, max_length)
    labels = np.array([label for e in examples for label in e.labels], dtype=np.float32)
    offsets = np.cumsum([0, *(len(e.documents) for e in examples)], dtype=np.int64)
    inputs = join(ids, types, [[0]] * len(ids), labels, texts)
    return replace(inputs, group_offsets=offsets), cut


def _unlabelled_beside_others(examples: Sequence[QueryExample]) -> list[str]:
    """How many documents have no label, although others of their query have one."""
    found = [sum(map(math.isnan, example.labels)) for example in examples]
    if not any(found):
        return []
    queries = sum(map(bool, found))
    return [
        f"documents of task.train without a label beside others with one: {sum(found):,}, of "
        f"{queries:,} queries; loss.labels leaves them out"
    ]


def _sizes_of(split: str, examples: Sequence[QueryExample]) -> str:
    sizes = [len(example.documents) for example in examples]
    mean = sum(sizes) / len(sizes)
    return f"candidates of a {split} query: {min(sizes):,} to {max(sizes):,}, {mean:.1f} on average"


def _split(values: np.ndarray, offsets: np.ndarray | None) -> list[np.ndarray]:
    """The values of each query's candidates, in float64."""
    assert offsets is not None
    return np.split(values.astype(np.float64), offsets[1:-1])


def _mean(values: Iterable[float]) -> float:
    """Over queries, of which each counts as one."""
    return float(np.mean(list(values)))
