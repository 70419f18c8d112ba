"""How fast `distilcli prepare` is, beside the way of the DistilBERT release.

    python scripts/benchmarks/bench_prepare.py [--repeats 40] [--num-proc 1 2] [--rounds 3] [--json]
    python scripts/benchmarks/bench_prepare.py --keep 4000

The release's way: one process reads lines, a tokenizer written in Python encodes one after the
other, and a pickle takes them all. It gets the text once, for it needs that long. Text: the
built-in one, several times over, so that starting worker processes does not count. Figures are
medians over rounds, in turns; imports are not in them. Some 5 minutes on 2 cores.

With --keep also for a student with so many of the pieces, by itself and with its teacher's tokens
beside its own; tokens are the student's.
"""

import argparse
import gzip
import json
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from distilcli.config.data import DataConfig, FilesSource
from distilcli.corpus.prepare import prepare
from distilcli.files.paths import BUILTIN_FOLDER
from distilcli.text.tokenizers import load_tokenizer
from distilcli.text.trimming import choose_pieces, trim_tokenizer

TOKENIZER = "builtin:teacher"
RELEASE = "one process, Python tokenizer, pickle"


def paragraphs() -> list[str]:
    """The lines of the built-in text."""
    with gzip.open(BUILTIN_FOLDER / "text.jsonl.gz", "rt", encoding="utf-8") as file:
        return [line for record in file for line in json.loads(record)["text"].split("\n") if line]


def python_tokenizer(folder: Path) -> PreTrainedTokenizer:
    """The built-in teacher's tokenizer as Python code."""
    vocabulary = load_tokenizer(TOKENIZER).get_vocab()
    pieces = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    path = folder / "vocab.txt"
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return BertTokenizerLegacy(str(path))


def as_the_release(lines: Sequence[str], tokenizer: PreTrainedTokenizer, target: Path) -> int:
    """Encode and pickle the lines; the number of tokens written."""
    rows = [
        np.array(
            tokenizer.encode(f"[CLS] {line.strip()} [SEP]", add_special_tokens=False), np.uint16
        )
        for line in lines
    ]
    with target.open("wb") as file:
        pickle.dump(rows, file, protocol=pickle.HIGHEST_PROTOCOL)
    return sum(len(row) for row in rows)


def as_distilcli(text: Path, store: Path, num_proc: int, tokenizer: Any, teacher: Any) -> int:
    """Make a token store of the text; the number of the student's tokens written."""
    data = DataConfig(
        sources=[FilesSource(files=[str(text)], format="text", documents="line")],
        store=str(store),
        held_out_fraction=0.0,
        min_length=3,
    )
    return prepare(data, tokenizer, num_proc, teacher_tokenizer=teacher).manifest.train.tokens


def stores(keep: int | None) -> dict[str, tuple[Any, Any]]:
    """By name, the tokenizers of student and teacher; the teacher's None where there is one."""
    tokenizer = load_tokenizer(TOKENIZER)
    found: dict[str, tuple[Any, Any]] = {"distilcli prepare": (tokenizer, None)}
    if keep is not None:
        student = trim_tokenizer(tokenizer, choose_pieces(tokenizer, None, keep=keep, min_count=1))
        found[f"the same, {keep} pieces"] = (student, None)
        found[f"the same, {keep} pieces and the teacher"] = (student, tokenizer)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Take turns and print the speeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40, help="how often the text is taken")
    parser.add_argument("--num-proc", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--keep", type=int, help="pieces of a student")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args(arguments)
    lines = paragraphs()
    ways: dict[str, tuple[Any, Any, int] | None] = {RELEASE: None}
    for name, pair in stores(options.keep).items():
        ways |= {f"{name} --num-proc {n}": (*pair, n) for n in options.num_proc}
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        text = root / "text.txt"
        text.write_text("".join(f"{line}\n" for line in lines) * options.repeats, encoding="utf-8")
        tokenizer = python_tokenizer(root)
        for number in range(options.rounds):
            for index, (way, how) in enumerate(ways.items()):
                start = time.perf_counter()
                if how is None:
                    tokens = as_the_release(lines, tokenizer, root / "release.pickle")
                else:
                    student, teacher, num_proc = how
                    store = root / f"store-{index}-{number}"
                    tokens = as_distilcli(text, store, num_proc, student, teacher)
                speeds[way].append(tokens / (time.perf_counter() - start))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    medians = {way: statistics.median(found) for way, found in speeds.items()}
    if options.json:
        print(json.dumps({"tokens_per_second": medians, "rounds": speeds}))
        return
    print("| | tokens/s | x |")
    print("|---|---|---|")
    for way, speed in medians.items():
        print(f"| {way} | {speed:,.0f} | {speed / medians[RELEASE]:.1f} |")


if __name__ == "__main__":
    main()
