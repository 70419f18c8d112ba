"""Rows of a retrieval test: documents, queries, and which documents a query should find."""

from dataclasses import dataclass
from typing import Any

from distilcli.config.embedding import DocumentFiles, DocumentHub, Retrieval
from distilcli.errors import DataError
from distilcli.tasks.cells import id_of, text_of
from distilcli.tasks.examples import BadExample, Examples, read_examples
from distilcli.tasks.labels import number_of


@dataclass(frozen=True)
class RetrievalRows:
    """What is searched, and what should be found.

    Attributes:
        documents: texts.
        queries: texts of those that have a relevant document.
        relevant: of each query, the grade (above 0) of each relevant document by its index.
        num_left_out: queries without a relevant document.
        num_bad: rows that were left out.
    """

    documents: list[str]
    queries: list[str]
    relevant: list[dict[int, float]]
    num_left_out: int
    num_bad: int


@dataclass(frozen=True)
class _Judgement:
    query: str
    document: str
    grade: float


def read_retrieval(config: Retrieval, skip_bad_rows: bool) -> RetrievalRows:
    """Read the rows of a retrieval test.

    Raises:
        ConfigError: the format of a file cannot be told.
        DataError: there are bad rows, such as two texts of one name or a name that no text has, and
            they are not to be skipped; or no query has a relevant document.
    """
    documents = _named_texts(config.corpus, "task.retrieval.corpus", skip_bad_rows)
    queries = _named_texts(config.queries, "task.retrieval.queries", skip_bad_rows)
    place = {name: index for index, (name, _) in enumerate(documents.usable)}
    found: dict[str, dict[int, float]] = {name: {} for name, _ in queries.usable}
    judgements = _judgements(config, found, place)
    judgements.check(skip_bad_rows)
    for one in judgements.usable:
        if one.grade > 0:
            found[one.query][place[one.document]] = one.grade
    kept = [(text, found[name]) for name, text in queries.usable if found[name]]
    if not kept:
        raise DataError(
            f"{judgements.name}: no query has a relevant document",
            "Look at task.retrieval.relevant: its columns, and grades above 0.",
        )
    return RetrievalRows(
        documents=[text for _, text in documents.usable],
        queries=[text for text, _ in kept],
        relevant=[relevant for _, relevant in kept],
        num_left_out=len(found) - len(kept),
        num_bad=sum(len(one.bad) for one in (documents, queries, judgements)),
    )


def _named_texts(
    source: DocumentFiles | DocumentHub, key: str, skip_bad_rows: bool
) -> Examples[tuple[str, str]]:
    """Names and texts; the second text of one name is a bad row."""
    seen: set[str] = set()

    def convert(values: dict[str, Any]) -> tuple[str, str]:
        name, text = id_of(values[source.id], source.id), text_of(values[source.text], source.text)
        if name in seen:
            raise BadExample(f"a second text is called {name}")
        seen.add(name)
        title = values[source.title] if source.title is not None else None
        return name, f"{title} {text}" if title else text

    columns = [source.id, source.text, *([source.title] if source.title is not None else [])]
    examples = read_examples(source, key, columns, convert, {})
    examples.check(skip_bad_rows)
    return examples


def _judgements(
    config: Retrieval, queries: dict[str, dict[int, float]], documents: dict[str, int]
) -> Examples[_Judgement]:
    source = config.relevant

    def convert(values: dict[str, Any]) -> _Judgement:
        query, document = (id_of(values[c], c) for c in (source.query, source.document))
        for name, known, what in ((query, queries, "query"), (document, documents, "document")):
            if name not in known:
                raise BadExample(f"no {what} is called {name}")
        grade = 1.0 if source.grade is None else number_of(values[source.grade])
        return _Judgement(query, document, grade)

    columns = [source.query, source.document, *([] if source.grade is None else [source.grade])]
    return read_examples(source, "task.retrieval.relevant", columns, convert, {})
