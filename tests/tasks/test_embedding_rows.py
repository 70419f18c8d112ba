"""Rows of texts, pairs and triples, pairs with a score, and retrieval: what is read and refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_embeddings import TinyEmbeddings, make_embeddings
from tiny_experiments import word_tokenizer

from distilcli.config.embedding import EmbeddingTask
from distilcli.errors import ConfigError, DataError
from distilcli.tasks.embedding import OpenEmbedding, Reading
from distilcli.tasks.grouped_texts import pack_groups
from distilcli.text.tokenizers import TextTokenizer

READING = Reading("", "", "", False, 20)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> TinyEmbeddings:
    return make_embeddings(tmp_path_factory.mktemp("embeddings"))


def opened(task: dict[str, Any], reading: Reading = READING) -> OpenEmbedding:
    settings = EmbeddingTask.model_validate({"kind": "embedding"} | task)
    return OpenEmbedding(settings, TextTokenizer(word_tokenizer()), reading)


def shown(data: OpenEmbedding, split: str = "train") -> list[str]:
    """The texts of the inputs, as their tokens have them."""
    inputs = data.train if split == "train" else data.measured[split]
    tokenizer = word_tokenizer()
    rows = np.split(inputs.token_ids, inputs.offsets[1:-1])
    return [tokenizer.decode(row[1:-1]) for row in rows]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"files": str(path)}


def test_plain_text_is_a_text_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("ba be\n\n  da\nfa\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("ga\n")
    (tmp_path / "c.dat").write_text("la\n")
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt.gz")]
    assert shown(opened({"train": {"files": files}})) == ["ba be", "da", "fa", "ga"]
    other = {"files": str(tmp_path / "c.dat")}
    assert shown(opened({"train": other | {"format": "text"}})) == ["la"]
    with pytest.raises(ConfigError) as caught:
        opened({"train": other})
    assert caught.value.hint == "Set it to text, jsonl, csv, tsv or parquet."


def test_the_texts_of_pairs_and_triples_stand_row_by_row(tmp_path):
    rows = [{"a": "ba", "b": "da be", "c": "fa"}, {"a": "bi", "b": "di", "c": "fi fo"}]
    train = jsonl(tmp_path / "x.jsonl", rows)
    for columns in (["a", "b"], ["a", "b", "c"]):
        task = {"train": train, "texts": columns, "group_size": 12}
        data = opened(task)
        assert shown(data) == [row[column] for row in rows for column in columns]
        assert (data.num_rows, data.texts_per_row) == (2, len(columns))
        lengths = [sum(len(row[column].split()) + 2 for column in columns) for row in rows]
        assert data.row_lengths.tolist() == lengths
        assert data.texts_of([1, 0])[: len(columns)] == list(range(len(columns), 2 * len(columns)))


def test_prompts_stand_before_texts_queries_and_documents(world):
    reading = Reading("ba ", "da ", "fa ", True, 20)
    data = opened({**world.task(), "retrieval": world.retrieval()}, reading)
    for split, word in (("train", "ba"), ("dev", "ba"), ("queries", "da"), ("documents", "fa")):
        assert all(text.startswith(f"{word} ") for text in shown(data, split)), split


def test_pairs_share_their_texts(tmp_path, world):
    rows = [("ba", "da", 1.0), ("da", "fa", 3.0), ("ba", "ba", 5.0)]
    dev = jsonl(
        tmp_path / "dev.jsonl",
        [{"sentence1": a, "sentence2": b, "score": s} for a, b, s in rows],
    )
    data = opened({"train": world.task()["train"], "dev": dev})
    assert shown(data, "dev") == ["ba", "da", "fa"]
    assert data.pairs is not None
    assert data.pairs.first.tolist() == [0, 1, 0]
    assert data.pairs.second.tolist() == [1, 2, 0]
    angles = np.radians([0, 80, 100])  # cosines of the pairs: 0.17, 0.94, 1
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert data.scores({"dev": vectors}) == {"spearman": pytest.approx(1.0)}


def test_queries_without_a_relevant_document_are_left_out(world):
    data = opened({"train": world.task()["train"], "retrieval": world.retrieval()})
    assert (len(data.measured["documents"]), len(data.measured["queries"])) == (24, 3)
    assert data.num_unjudged == 1
    assert data.num_measured == 3
    assert data.score == "ndcg@10"
    vectors = {"documents": np.eye(8)[np.arange(24) % 8], "queries": np.eye(8)[:3]}
    assert data.scores(vectors) == {"ndcg@10": pytest.approx(1.0), "recall@10": 1.0}


def test_titles_stand_before_texts(tmp_path, world):
    corpus = jsonl(tmp_path / "c.jsonl", [{"_id": "d0", "text": "ba", "title": "da"}])
    relevant = jsonl(tmp_path / "r.jsonl", [{"query-id": 0, "corpus-id": "d0"}])
    retrieval = world.retrieval() | {
        "corpus": corpus | {"title": "title"},
        "relevant": relevant | {"grade": None},
    }
    data = opened({"train": world.task()["train"], "retrieval": retrieval})
    assert shown(data, "documents") == ["da ba"]


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("corpus", [{"_id": "d0", "text": " "}], "no text in text"),
        ("corpus", [{"_id": "d0", "text": "ba"}] * 2, "a second text is called d0"),
        ("corpus", [{"_id": None, "text": "ba"}], "no id in _id"),
        ("relevant", [{"query-id": 9, "corpus-id": "d0", "score": 1}], "no query is called 9"),
        ("relevant", [{"query-id": 0, "corpus-id": "x", "score": 1}], "no document is called x"),
        ("relevant", [{"query-id": 0, "corpus-id": "d0", "score": "x"}], "is no number"),
        ("relevant", [{"query-id": 0, "corpus-id": "d0", "score": 0}], "no query has a relevant"),
    ],
)
def test_bad_rows_of_retrieval(tmp_path, world, name, rows, said):
    retrieval = world.retrieval() | {name: jsonl(tmp_path / "x.jsonl", rows)}
    with pytest.raises(DataError) as caught:
        opened({"train": world.task()["train"], "retrieval": retrieval})
    assert said in caught.value.message


def test_bad_rows_of_texts_and_pairs_are_named_and_can_be_left_out(tmp_path):
    train = jsonl(tmp_path / "t.jsonl", [{"text": "ba"}, {"text": ""}, {"text": 3}, {"x": "da"}])
    dev = jsonl(
        tmp_path / "d.jsonl",
        [
            {"sentence1": "ba", "sentence2": "da", "score": 1},
            {"sentence1": "ba", "sentence2": "be", "score": "nan"},
        ],
    )
    with pytest.raises(DataError) as caught:
        opened({"train": train})
    assert [line.partition(": ")[2] for line in caught.value.message.splitlines()[1:]] == [
        "no text in text",
        "no text in text",
        "no column 'text'; there are: x",
    ]
    good = jsonl(tmp_path / "g.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match="1 bad row"):
        opened({"train": good, "dev": dev})
    data = opened({"train": train, "dev": dev, "skip_bad_rows": True})
    assert data.num_bad == {"train": 3, "dev": 1}


def test_long_texts_are_cut_and_said(tmp_path):
    (tmp_path / "a.txt").write_text("ba " * 40 + "\n")
    data = opened({"train": {"files": str(tmp_path / "a.txt")}})
    assert data.train.lengths.tolist() == [20]
    assert data.cuts["train"].tokens == 22
    assert "task.max_length 20 cuts 52.4% of the tokens" in data.warnings[0]


def test_dev_texts_that_are_trained_on_are_told(tmp_path, world):
    dev = jsonl(tmp_path / "dev.jsonl", [{"sentence1": "ba", "sentence2": "ga gi", "score": 1.0}])
    (tmp_path / "a.txt").write_text("ba\nda\n")
    data = opened({"train": {"files": str(tmp_path / "a.txt")}, "dev": dev})
    assert "1 of the 2 texts of task.dev (50.0%) are in task.train, too" in data.warnings[0]
    assert "every pair has the same score" in data.warnings[1]


def test_texts_are_packed_by_length_and_found_by_group(world):
    data = opened({"train": world.task()["train"]})
    texts = [5, 3, 8, 1, 0, 2, 7]
    teacher = np.arange(14, dtype=np.float32).reshape(7, 2)
    batch = pack_groups(data.train, texts, 3, teacher)
    assert batch.groups == (3, 3, 1)
    assert list(batch.lengths) == sorted(data.train.lengths[texts].tolist())
    assert [batch.sample_ids[place] for place in batch.places.tolist()] == texts
    assert batch.teacher_outputs is not None
    assert batch.teacher_outputs[batch.places].tolist() == teacher.tolist()


def test_the_digest_of_what_is_measured_on_is_of_scores_too(tmp_path, world):
    digests = set()
    for score in (1.0, 2.0):
        rows = [{"sentence1": "ba", "sentence2": "da", "score": score}]
        dev = jsonl(tmp_path / f"{score}.jsonl", rows)
        digests.add(opened({"train": world.task()["train"], "dev": dev}).digest_of_measured())
    assert len(digests) == 2
