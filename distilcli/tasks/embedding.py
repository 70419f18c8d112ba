"""Texts to learn embeddings from, and what embeddings are measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distilcli.config.embedding import EmbeddingTask, PairFiles, PairHub
from distilcli.files.digests import array_digest
from distilcli.tasks.cells import text_of
from distilcli.tasks.examples import Examples, read_examples
from distilcli.tasks.inputs import Cut, Inputs, join
from distilcli.tasks.labels import number_of
from distilcli.tasks.retrieval import RetrievalRows, read_retrieval
from distilcli.tasks.sequence import tokenized
from distilcli.tasks.vector_scores import pair_cosines, retrieval_scores, spearman
from distilcli.text.overlap import Overlap, digest_of_texts, overlap
from distilcli.text.tokenizers import TextTokenizer

_MUCH_CUT = 0.05  # of the tokens


@dataclass(frozen=True)
class Reading:
    """How an encoder is shown texts.

    Attributes:
        prompt: stands before every text.
        query_prompt: stands before a query instead.
        document_prompt: stands before a document instead.
        lowers: whether letters are made small before the tokenizer sees them.
        max_length: tokens of a text at most.
    """

    prompt: str
    query_prompt: str
    document_prompt: str
    lowers: bool
    max_length: int


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of texts with a score.

    Attributes:
        first: index of the first text of each pair, int64 [pairs].
        second: that of the second one.
        scores: how alike the two are, float64 [pairs].
    """

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray


class OpenEmbedding:
    """The texts of an experiment on embeddings, read and made inputs.

    Args:
        config: the experiment's task.
        tokenizer: of both models.
        reading: how the teacher is shown texts; the student is shown them likewise.

    Attributes:
        score: the one by which students are chosen and compared.
        train: texts to train on, row by row.
        texts_per_row: how many of them each row has.
        measured: texts to be measured on, by what they are: `dev` (each text of the pairs once),
            `queries`, `documents`.
        pairs: of the dev texts; None: there are none.
        cuts: what of the texts is in no input, because it is too long, by split.
        num_bad: rows that were left out, by split.
        num_unjudged: queries that are left out, because no document is relevant to them.
        overlap: dev texts that are trained on, too; None without dev pairs.
        warnings: what a user should know of the texts, in a sentence each.

    Raises:
        ConfigError: formats cannot be told.
        DataError: sources cannot be read, have bad rows (each is named), or none.
    """

    def __init__(self, config: EmbeddingTask, tokenizer: TextTokenizer, reading: Reading) -> None:
        self.score = config.chosen_score
        self.texts_per_row = len(config.texts)
        self._tokenizer, self._reading = tokenizer, reading
        self.measured: dict[str, Inputs] = {}
        self.cuts: dict[str, Cut] = {}
        self.num_bad: dict[str, int] = {}
        self.num_unjudged = 0
        self.warnings: list[str] = []
        self.pairs: ScoredPairs | None = None
        self._relevant: list[dict[int, float]] = []
        self.overlap: Overlap | None = None
        rows = _train_rows(config)
        texts = [text for row in rows.usable for text in row]
        self.num_bad["train"] = len(rows.bad)
        self.train = self._inputs("train", texts, reading.prompt)
        if config.dev is not None:
            self._add_pairs(config.dev, config.skip_bad_rows, texts)
        if config.retrieval is not None:
            self._add_retrieval(read_retrieval(config.retrieval, config.skip_bad_rows))

    @property
    def num_rows(self) -> int:
        """Rows to train on."""
        return len(self.train) // self.texts_per_row

    @property
    def row_lengths(self) -> np.ndarray:
        """Tokens of each row, all of its texts together, int64 [rows]."""
        lengths = self.train.lengths.astype(np.int64)
        found: np.ndarray = lengths.reshape(-1, self.texts_per_row).sum(axis=1)
        return found

    @property
    def num_measured(self) -> int:
        """Pairs and queries that are measured on."""
        return (0 if self.pairs is None else len(self.pairs.scores)) + len(self._relevant)

    def texts_of(self, rows: Sequence[int]) -> list[int]:
        """The indices of the texts of some rows, row by row."""
        size = self.texts_per_row
        return [row * size + place for row in rows for place in range(size)]

    def scores(self, vectors: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Scores of the vectors of all texts that are measured on, by their names.

        Returns:
            `spearman` of the pairs, `ndcg@10` and `recall@10` of the queries, where there are
            some; the one by which students are chosen first.
        """
        found: dict[str, float] = {}
        if self.pairs is not None:
            cosines = pair_cosines(vectors["dev"], self.pairs.first, self.pairs.second)
            found["spearman"] = spearman(self.pairs.scores, cosines)
        if self._relevant:
            found |= retrieval_scores(vectors["queries"], vectors["documents"], self._relevant)
        return {self.score: found[self.score]} | found

    def digest_of_measured(self) -> str:
        """Digest of what is measured on, with its scores; hexadecimal."""
        arrays = [np.frombuffer(one.content_digest().encode(), np.uint8) for one in self._all()]
        if self.pairs is not None:
            arrays += [self.pairs.first, self.pairs.second, self.pairs.scores]
        grades = [(q, d, grade) for q, one in enumerate(self._relevant) for d, grade in one.items()]
        return array_digest([*arrays, np.array(grades, dtype=np.float64)])

    def _all(self) -> list[Inputs]:
        return [self.measured[name] for name in sorted(self.measured)]

    def _add_pairs(
        self, source: PairFiles | PairHub, skip_bad_rows: bool, trained: Sequence[str]
    ) -> None:
        rows = _pair_rows(source, skip_bad_rows)
        index: dict[str, int] = {}
        for first, second, _ in rows.usable:
            for text in (first, second):
                index.setdefault(text, len(index))
        self.num_bad["dev"] = len(rows.bad)
        self.measured["dev"] = self._inputs("dev", list(index), self._reading.prompt)
        self.pairs = ScoredPairs(
            np.array([index[first] for first, _, _ in rows.usable]),
            np.array([index[second] for _, second, _ in rows.usable]),
            np.array([score for _, _, score in rows.usable]),
        )
        of_train, of_dev = (map(digest_of_texts, texts) for texts in (trained, index))
        self.overlap = overlap(of_train, of_dev, ("task.train", "task.dev"), "texts")
        if self.overlap.warning:
            self.warnings.append(self.overlap.warning)
        if np.ptp(self.pairs.scores) == 0:
            self.warnings.append("task.dev: every pair has the same score: nothing can be ranked")

    def _add_retrieval(self, rows: RetrievalRows) -> None:
        reading = self._reading
        self.num_bad["retrieval"] = rows.num_bad
        self.num_unjudged = rows.num_left_out
        self._relevant = rows.relevant
        self.measured["queries"] = self._inputs("queries", rows.queries, reading.query_prompt)
        self.measured["documents"] = self._inputs(
            "documents", rows.documents, reading.document_prompt
        )

    def _inputs(self, split: str, texts: Sequence[str], prompt: str) -> Inputs:
        shown = [prompt + text for text in texts]
        if self._reading.lowers:
            shown = [text.lower() for text in shown]
        limit = self._reading.max_length
        ids, types, cut = tokenized([(text,) for text in shown], self._tokenizer, limit)
        self.cuts[split] = cut
        if cut.share > _MUCH_CUT:
            self.warnings.append(
                f"{split}: task.max_length {limit} cuts {cut.share:.1%} of the tokens, in "
                f"{cut.inputs:,} texts; raise it, or cut long texts into sentences"
            )
        nothing = np.zeros(len(ids), dtype=np.int64)
        return join(ids, types, [[0]] * len(ids), nothing)


def _train_rows(config: EmbeddingTask) -> Examples[tuple[str, ...]]:
    columns = config.texts

    def convert(values: dict[str, Any]) -> tuple[str, ...]:
        return tuple(text_of(values[column], column) for column in columns)

    as_row = None if len(columns) > 1 else lambda line: {columns[0]: line}
    by_ending = {} if as_row is None else {".txt": "text"}
    rows = read_examples(config.train, "task.train", columns, convert, by_ending, as_row=as_row)
    rows.check(config.skip_bad_rows)
    return rows


def _pair_rows(
    source: PairFiles | PairHub, skip_bad_rows: bool
) -> Examples[tuple[str, str, float]]:
    def convert(values: dict[str, Any]) -> tuple[str, str, float]:
        first, second = (text_of(values[c], c) for c in (source.first, source.second))
        return first, second, number_of(values[source.score])

    columns = [source.first, source.second, source.score]
    rows = read_examples(source, "task.dev", columns, convert, {})
    rows.check(skip_bad_rows)
    return rows
