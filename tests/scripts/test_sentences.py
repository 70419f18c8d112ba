"""Documents become sentences, a line each, once each."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "development" / "sentences.py"


def test_sentences_are_cut_at_full_stops_and_each_is_taken_once(tmp_path):
    texts = [
        "The first sentence is here. Is the second one here, too? Short. the third begins small.",
        "The first sentence is here.\nA title without an end\nA fourth  one has two blanks.",
        "Much too long: " + "word " * 100 + ".",
    ]
    source = tmp_path / "x.jsonl.gz"
    with gzip.open(source, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    output = tmp_path / "new" / "sentences.txt"
    command = [sys.executable, str(SCRIPT), str(source), "-o", str(output)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said == f"4 of 4 sentences: {output}\n"
    assert set(output.read_text(encoding="utf-8").splitlines()) == {
        "The first sentence is here.",
        "Is the second one here, too?",
        "Short. the third begins small.",
        "A fourth one has two blanks.",
    }
    subprocess.run([*command, "-n", "2"], check=True, capture_output=True)
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2
