"""What masked-LM models put in ten gaps, beside each other: the first guesses of each.

    python scripts/development/fill_mask.py builtin:teacher runs/quickstart/student

Takes a few seconds a model. A model is a folder or hub name that transformers' fill-mask pipeline
loads, or builtin:NAME. The texts are made up and stand in no corpus of this project.
"""

import argparse
import warnings

from rich.console import Console
from rich.table import Table
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
from transformers.utils import logging

from distilcli.files.paths import resolve_path

GAP = "[MASK]"
TEXTS = (
    f"The capital of France is {GAP}.",
    f"I would like a cup of {GAP}.",
    f"The dog ran across the {GAP}.",
    f"She opened the door and {GAP} at him.",
    f"The first world {GAP} began in 1914.",
    f"Water boils at one hundred {GAP}.",
    f"The sun rises in the {GAP}.",
    f"He is the author of several {GAP}.",
    f"The {GAP} of England lived in the palace.",
    f'"I do not know," {GAP} the old man.',
)


def guesses(model: str, count: int) -> list[str]:
    """The first guesses for each of the texts, with their probabilities in percent."""
    folder = resolve_path(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=count)
    texts = [text.replace(GAP, tokenizer.mask_token) for text in TEXTS]
    return [
        ", ".join(f"{guess['token_str']} {100 * guess['score']:.0f} %" for guess in found)
        for found in fill(texts)
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--count", type=int, default=3, help="guesses a model (default: 3)")
    parser.add_argument("--markdown", action="store_true", help="print a table in Markdown")
    options = parser.parse_args()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")

    columns = [guesses(model, options.count) for model in options.models]
    rows = list(zip(TEXTS, *columns, strict=True))
    if options.markdown:
        lines = [("text", *options.models), ("---",) * (len(columns) + 1), *rows]
        print("\n".join("| " + " | ".join(line) + " |" for line in lines))
        return
    table = Table("text", *options.models)
    for row in rows:
        # Text, not markup: rich would take [MASK] for a style.
        table.add_row(*(part.replace("[", r"\[") for part in row))
    Console().print(table)


if __name__ == "__main__":
    main()
