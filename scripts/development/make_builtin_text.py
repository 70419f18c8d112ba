"""Pick the text that ships in distilcli/builtin/text.jsonl.gz from the two corpora.

    python scripts/development/make_builtin_text.py --wikipedia corpora/wikipedia.jsonl.gz \
        --novels corpora/novels.jsonl.gz

Takes a few seconds. Whole Wikipedia articles of middling length up to 0.75 MB, and one run of
paragraphs of about 13 kB from every novel. Which ones is decided by hashes of the titles, and the
file carries no date: the same corpora give the same bytes. What the licences ask for is in
distilcli/builtin/TEXT_CARD.md.
"""

import argparse
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

OUTPUT = Path(__file__).resolve().parents[2] / "distilcli" / "builtin" / "text.jsonl.gz"
WIKIPEDIA_BYTES = 750_000
ARTICLE_CHARACTERS = range(4_000, 20_000)
NOVEL_CHARACTERS = 13_000
# Title pages, prefaces and notices stand at the ends of a novel's file.
NOVEL_BODY = (0.1, 0.9)
# A line of a hard-wrapped text that is this short ends its paragraph.
SHORT_LINE = 55
# A line this long holds a whole paragraph.
LONG_LINE = 120
SENTENCE_ENDS = tuple(".!?\"'\u2019\u201d")


def read(path: Path) -> Iterator[dict[str, str]]:
    """The documents of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def draw(title: str) -> float:
    """A number in [0, 1) that depends on the title alone."""
    digest = hashlib.sha256(title.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def pick_articles(documents: Iterator[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Articles in the order of their draw, until there are enough."""
    fitting = [
        document
        for document in documents
        if len(document["text"]) in ARTICLE_CHARACTERS
        and not document["title"].startswith("List of")
    ]
    size = 0
    for document in sorted(fitting, key=lambda document: draw(document["title"])):
        size += len(document["text"].encode())
        if size > WIKIPEDIA_BYTES:
            return
        source = f"https://en.wikipedia.org/?curid={document['id']}"
        yield {"title": document["title"], "text": document["text"], "source": source}


def paragraph_starts(text: str) -> list[int]:
    """Where paragraphs begin, in texts with blank lines between them or without."""
    lines = text.splitlines(keepends=True)
    has_blank_lines = text.count("\n\n") > len(text) / 10_000
    starts, position, previous = [], 0, ""
    for line in lines:
        content = previous.rstrip()
        if has_blank_lines:
            ended = not content
        else:
            short = len(content) < SHORT_LINE or len(content) > LONG_LINE
            ended = short and content.endswith(SENTENCE_ENDS)
        if ended and line.strip():
            starts.append(position)
        position += len(line)
        previous = line
    return starts


def pick_passage(novel: dict[str, str]) -> dict[str, str]:
    """One run of whole paragraphs from the body of a novel."""
    text = novel["text"]
    low, high = NOVEL_BODY
    wanted = len(text) * (low + (high - low) * draw(novel["title"]))
    starts = paragraph_starts(text)
    start = min(starts, key=lambda position: abs(position - wanted))
    end = min(starts, key=lambda position: abs(position - start - NOVEL_CHARACTERS))
    passage = text[start:end].replace("\r\n", "\n").strip()
    return {"title": novel["title"], "text": passage, "source": "novel, public domain (US)"}


def write(documents: list[dict[str, str]], path: Path) -> None:
    """Gzipped JSONL whose bytes depend on the documents alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        for document in documents:
            packed.write(json.dumps(document).encode() + b"\n")


def main() -> None:
    """Pick, interleave and write, and say how much it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wikipedia", type=Path, required=True)
    parser.add_argument("--novels", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()

    articles = list(pick_articles(read(options.wikipedia)))
    passages = [pick_passage(novel) for novel in read(options.novels)]
    documents = sorted(articles + passages, key=lambda document: draw(document["title"]))
    write(documents, options.output)
    characters = [sum(len(d["text"]) for d in part) for part in (articles, passages)]
    print(
        f"{len(articles)} articles ({characters[0]} characters), "
        f"{len(passages)} passages of novels ({characters[1]} characters): "
        f"{options.output.stat().st_size / 1e6:.2f} MB in {options.output.name}"
    )


if __name__ == "__main__":
    main()
