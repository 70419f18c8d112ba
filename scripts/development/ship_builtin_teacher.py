"""Put the trained built-in teacher into the package, in half precision.

    python scripts/development/ship_builtin_teacher.py [--student runs/builtin-teacher-512/student]

Takes a few seconds. Writes weights, configuration and tokenizer, the licence and a notice of what
was changed; leaves the model card (README.md) as it is, for a person to bring up to date. Nothing
is replaced when the half-precision weights are not finite, predict otherwise than the trained ones
or make the folder larger than 30 MB.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "distilcli" / "builtin" / "teacher"
MAX_BYTES = 30_000_000
MIN_SAME_PREDICTIONS = 0.99
NOTICE = """\
distilcli's built-in English teacher

Licensed under the Apache License, Version 2.0 (see LICENSE).

The weights were trained from random ones by distilcli's authors, on English Wikipedia and novels,
and are stored in half precision. The tokenizer's pieces are 8,000 of the 30,522 of
google-bert/bert-base-uncased (Apache License 2.0). README.md says how, and on what.
"""


def write_half(student: Path, folder: Path) -> None:
    """The model of `student` in fp16, marked to be computed with in fp32, and its tokenizer."""
    model = AutoModelForMaskedLM.from_pretrained(student, dtype=torch.float32)
    model.half().save_pretrained(folder)
    AutoTokenizer.from_pretrained(student).save_pretrained(folder)
    # transformers loads a model in the type that its configuration names: fp16 is for the disk.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


@torch.no_grad()
def same_predictions(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """Share of positions of random tokens where the two models' best piece is the same."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(one.config.vocab_size, (8, 128), generator=generator)
    best = [model.eval()(input_ids=ids).logits.argmax(-1) for model in (one, other)]
    return float((best[0] == best[1]).float().mean())


def check(student: Path, folder: Path) -> str:
    """Why the half-precision folder may not ship; empty if it may."""
    model = AutoModelForMaskedLM.from_pretrained(folder)
    if model.dtype != torch.float32:
        return f"the model loads as {model.dtype}, not float32"
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        return "a weight is not finite in half precision"
    trained = AutoModelForMaskedLM.from_pretrained(student, dtype=torch.float32)
    same = same_predictions(trained, model)
    if same < MIN_SAME_PREDICTIONS:
        return f"only {100 * same:.1f} % of the predictions are the same in half precision"
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > MAX_BYTES:
        return f"{size / 1e6:.1f} MB is over the limit of {MAX_BYTES / 1e6:.0f} MB"
    print(f"{size / 1e6:.1f} MB, {100 * same:.2f} % of predictions as in full precision")
    return ""


def main() -> None:
    """Build the folder aside, check it, then move its files into the package."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", type=Path, default=ROOT / "runs/builtin-teacher-512/student")
    student = parser.parse_args().student
    logging.disable_progress_bar()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_half(student, folder)
        shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
        (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
        if problem := check(student, folder):
            sys.exit(f"error: {student} is not shipped: {problem}")
        TARGET.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir()):
            shutil.copyfile(file, TARGET / file.name)
    print(f"written to {TARGET.relative_to(ROOT)}; bring its README.md up to date")


if __name__ == "__main__":
    main()
