"""Every row of the real data sets is read."""

import gzip
import json
import re

import pytest
from row_files import section
from task_reading import SHARED, needs_shared, recorded


@needs_shared
def test_every_review_of_imdb_is_read():
    paths = [SHARED / "imdb" / f"{split}.jsonl.gz" for split in ("train", "dev")]
    found, *texts = recorded(section("classification", *paths))
    assert found.num_examples == (6000, 2500)
    assert (found.skipped.train, found.skipped.dev) == (0, 0)
    for path, read, inputs in zip(paths, texts, (found.train, found.dev), strict=True):
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        assert read == [(row["text"],) for row in rows]
        assert [found.labels[i] for i in inputs.targets] == [str(row["label"]) for row in rows]


@needs_shared
def test_every_question_of_squad_is_read():
    paths = [SHARED / "squad" / f"{split}.json" for split in ("train", "dev")]
    found, *texts = recorded(section("question-answering", *paths))
    assert found.num_examples == (4213, 956)
    assert (found.skipped.train, found.skipped.dev) == (0, 0)
    for path, read in zip(paths, texts, strict=True):
        tree = json.loads(path.read_text(encoding="utf-8"))
        assert read == [
            (qa["question"], paragraph["context"])
            for article in tree["data"]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]


@pytest.mark.slow
@needs_shared
def test_every_sentence_of_udpos_is_read():
    paths = [SHARED / "udpos" / f"{split}.tsv" for split in ("train", "dev")]
    found, *texts = recorded(section("tagging", *paths))
    assert found.num_examples == (21253, 3974)
    assert (found.skipped.train, found.skipped.dev) == (0, 0)
    assert len(found.labels) == 17  # the universal tags
    for path, read, inputs in zip(paths, texts, (found.train, found.dev), strict=True):
        text = path.read_bytes().decode("utf-8").strip("\n")
        fields = re.split(r"[\t\n]+", text)
        assert [word for (words,) in read for word in words] == fields[::2]
        assert [found.labels[index] for index in inputs.targets] == fields[1::2]
        sizes = [block.count("\n") + 1 for block in text.split("\n\n")]
        assert [len(words) for (words,) in read] == sizes
