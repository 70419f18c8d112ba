"""Sentences out of documents: a line of plain text each, to learn embeddings from.

    python scripts/development/sentences.py wikipedia.jsonl.gz -n 120000 -o data/sentences.txt

A sentence ends with a full stop, an exclamation or a question mark before a space and a capital
letter. Each is taken once, in an order that the seed decides.
"""

import argparse
import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

END = re.compile(r'(?<=[.!?])\s+(?=[A-Z"])')
SHORTEST, LONGEST = 20, 400  # characters


def documents(path: Path) -> Iterator[str]:
    """The column `text` of JSON lines, gzipped or not."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield str(json.loads(line)["text"])


def sentences(text: str) -> Iterator[str]:
    """The sentences of a document, but for fragments and very long ones."""
    for paragraph in text.split("\n"):
        for sentence in END.split(paragraph.strip()):
            sentence = " ".join(sentence.split())
            if SHORTEST <= len(sentence) <= LONGEST and sentence[-1] in ".!?":
                yield sentence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path, help="JSON lines with a column `text`")
    parser.add_argument("-n", "--number", type=int, default=None, help="at most so many")
    parser.add_argument("-s", "--seed", type=int, default=0, help="of the order")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    found = [one for path in given.files for text in documents(path) for one in sentences(text)]
    unique = list(dict.fromkeys(found))
    random.Random(given.seed).shuffle(unique)
    chosen = unique[: given.number]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("".join(f"{one}\n" for one in chosen), encoding="utf-8")
    print(f"{len(chosen):,} of {len(unique):,} sentences: {given.output}")


if __name__ == "__main__":
    main()
