"""Rows of a task on chemical reactions, most without a label: how many rings the product has.

    python scripts/benchmarks/reaction_rings.py reactions data/rings

`reactions` holds train.txt.gz and dev.txt.gz, a reaction (SMILES) a line. Takes seconds, and writes

    teacher.tsv      labelled rows that only the teacher is fine-tuned on
    labelled.tsv     the labelled rows of the student
    unlabelled.txt   the rows that the teacher labels, a reaction a line
    dev.tsv          labelled rows to be measured on

The class is told by a rule: the pairs of digits that close rings in the product, 0 to 5, and 6 for
more than that. It is none of what the model was pretrained on. No reaction is in two of the files.
"""

import argparse
import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

MOST_RINGS = 6
# An atom in brackets may have digits that close no ring; of a ring bond above 9 the sign is %.
_ATOM = re.compile(r"\[[^]]*\]")
_RING_BOND = re.compile(r"%\d\d|\d")


def rings_of_product(reaction: str) -> int:
    """The class of a reaction, reactants>agents>products in SMILES.

    Each ring has one digit where it is opened and one where it is closed.
    """
    product = _ATOM.sub("", reaction.split(">")[2])
    return min(len(_RING_BOND.findall(product)) // 2, MOST_RINGS)


def reactions_in(path: Path) -> Iterator[str]:
    """The reactions of a file, each once."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from dict.fromkeys(line.strip() for line in file if line.strip())


def write_labelled(path: Path, reactions: Sequence[str]) -> None:
    """A table of reactions and their classes."""
    rows = "".join(f"{one}\t{rings_of_product(one)}\n" for one in reactions)
    path.write_text("reaction\trings\n" + rows, encoding="utf-8")


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reactions", type=Path, help="folder with train.txt.gz and dev.txt.gz")
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument("--labelled", type=int, default=500, help="rows (default: 500)")
    parser.add_argument("--unlabelled", type=int, default=20_000, help="rows (default: 20000)")
    parser.add_argument("--dev", type=int, default=2_000, help="rows (default: 2000)")
    options = parser.parse_args()

    train = list(reactions_in(options.reactions / "train.txt.gz"))
    known = set(train)
    dev = [one for one in reactions_in(options.reactions / "dev.txt.gz") if one not in known]
    first, second = options.labelled, options.labelled + options.unlabelled
    if len(train) <= second or len(dev) < options.dev:
        parser.error(f"there are {len(train):,} reactions to train on and {len(dev):,} others")
    options.output.mkdir(parents=True, exist_ok=True)
    write_labelled(options.output / "labelled.tsv", train[:first])
    unlabelled = "".join(f"{one}\n" for one in train[first:second])
    (options.output / "unlabelled.txt").write_text(unlabelled, encoding="utf-8")
    write_labelled(options.output / "teacher.tsv", train[second:])
    write_labelled(options.output / "dev.tsv", dev[: options.dev])
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
