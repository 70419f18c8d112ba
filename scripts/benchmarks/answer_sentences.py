"""Rows for a reranker out of SQuAD: in which sentence does the answer stand?

    python scripts/benchmarks/answer_sentences.py squad/train.json data/answers/train.jsonl
    python scripts/benchmarks/answer_sentences.py squad/dev.json data/answers/dev.jsonl

A row is a question with the sentences of its paragraph and of the next one of the article as
documents; the sentence in which the answer begins has the label 1. A question whose answer is in no
one sentence is left out. Takes seconds.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_END = re.compile(r'(?<=[.!?])\s+(?=[A-Z"(])')


def sentences_of(paragraph: str) -> list[tuple[int, str]]:
    """The sentences of a paragraph, each with the character it begins at."""
    starts = [0, *(match.end() for match in _END.finditer(paragraph))]
    ends = [*starts[1:], len(paragraph)]
    return [(start, paragraph[start:end].strip()) for start, end in zip(starts, ends, strict=True)]


def rows_of(articles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each question of the articles, in their order."""
    for article in articles:
        paragraphs = article["paragraphs"]
        for number, paragraph in enumerate(paragraphs):
            own = sentences_of(paragraph["context"])
            after = paragraphs[number + 1 : number + 2]
            others = [text for one in after for _, text in sentences_of(one["context"])]
            for question in paragraph["qas"]:
                answer = question["answers"][0]
                begins, ends = (
                    answer["answer_start"],
                    answer["answer_start"] + len(answer["text"]),
                )
                labels = [int(start <= begins and ends <= start + len(text)) for start, text in own]
                if sum(labels) == 1:
                    yield {
                        "query": question["question"].strip(),
                        "documents": [*(text for _, text in own), *others],
                        "labels": [*labels, *(0 for _ in others)],
                    }


def main() -> None:
    """Write the rows of one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("squad", type=Path, help="a file in SQuAD's format")
    parser.add_argument("output", type=Path, help="JSON lines to write")
    options = parser.parse_args()
    articles = json.loads(options.squad.read_text(encoding="utf-8"))["data"]
    rows = list(rows_of(articles))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    print(f"{len(rows):,} questions: {options.output}")


if __name__ == "__main__":
    main()
