"""The rows of the experiment on text without labels: right classes, and no row in two files."""

import gzip
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "reaction_rings.py"


@pytest.mark.parametrize(
    ("product", "rings"),
    [
        ("CCO", 0),
        ("c1ccccc1", 1),
        ("c1ccc(C2CC2)cc1", 2),  # two digits
        ("C1CC1C1CC1", 2),  # one digit twice
        ("C[C@@H]1CC[13CH2]1", 1),  # digits of an isotope and of hydrogens
        ("C%10CC%10", 1),
        ("C1CC1" * 9, 6),
    ],
)
def test_the_rule_counts_rings_of_the_product(product: str, rings: int) -> None:
    module = runpy.run_path(str(SCRIPT))
    assert module["rings_of_product"](f"C1CC1.Br>O>{product}") == rings


def test_no_reaction_is_in_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [f"C{'C' * i}>>C1CC1{'O' * (i % 3)}{'C' * i}" for i in range(12)]
    dev = [*train[:2], "N>>N", "O>>O", "S>>S"]
    for name, rows in (("train", [*train, train[0]]), ("dev", dev)):
        with gzip.open(tmp_path / f"{name}.txt.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(rows) + "\n")
    sizes = ["--labelled", "3", "--unlabelled", "5", "--dev", "2"]
    output = tmp_path / "rings"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path), str(output), *sizes])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in output.iterdir()}
    assert lines["unlabelled.txt"] == train[3:8]
    for name, rows in (("labelled", train[:3]), ("teacher", train[8:]), ("dev", ["N>>N", "O>>O"])):
        classes = 0 if name == "dev" else 1
        expected = ["reaction\trings", *(f"{row}\t{classes}" for row in rows)]
        assert lines[f"{name}.tsv"] == expected
