"""The commands: which there are, in the order of `--help`, with lines to type for each.

How a command is typed is in `*_commands.py`, and what it does in a module of its own that is
imported when it runs: `--help` and shell completion need the standard library and Typer alone.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from distilcli import __version__
from distilcli.cli import (
    export_command,
    guard,
    measure_commands,
    report_command,
    run_commands,
    start_commands,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, tuple[Callable[..., None], Sequence[str]]] = {
    "new": (
        start_commands.new,
        ["distilcli new quickstart first.yaml", "distilcli new masked-lm my-student.yaml"],
    ),
    "prepare": (
        run_commands.prepare,
        ["distilcli prepare --config configs/quickstart.yaml --num-proc 2"],
    ),
    "init-student": (
        run_commands.init_student,
        [
            "distilcli init-student --config configs/quickstart.yaml",
            "distilcli init-student --teacher DIR --output small --hidden-size 384",
        ],
    ),
    "train": (
        run_commands.train,
        [
            "distilcli train --config configs/quickstart.yaml --dry-run",
            "distilcli train --config configs/quickstart.yaml optim.lr=1e-4 --resume",
        ],
    ),
    "eval": (
        measure_commands.evaluate,
        [
            "distilcli eval runs/quickstart",
            "distilcli eval runs/quickstart --text other.txt --documents line",
        ],
    ),
    "predict": (
        measure_commands.predict,
        [
            "distilcli predict runs/teacher --config mine.yaml --output scores.jsonl",
            "distilcli predict DIR --config mine.yaml --rows more.csv --output s.parquet",
        ],
    ),
    "export": (
        export_command.export,
        [
            "distilcli export runs/quickstart --output quickstart-onnx",
            "distilcli export runs/mine --output mine-onnx --formats int8 --max-drop 0.01",
        ],
    ),
    "push": (
        run_commands.push,
        [
            "distilcli push runs/my-student my-name/my-student",
            "distilcli push build/my-student my-name/my-student --public",
        ],
    ),
    "suite": (
        measure_commands.suite,
        [
            "distilcli suite glue runs/my-student --data glue --seeds 3",
            "distilcli suite configs/ablations/maps.yaml --seeds 3 --jobs 2",
        ],
    ),
    "report": (
        report_command.report,
        [
            "distilcli report runs/quickstart",
            "distilcli report runs/one runs/other --output comparison.html",
        ],
    ),
    "schema": (start_commands.schema, ["distilcli schema > schema.json"]),
    "env": (start_commands.env, ["distilcli env", "distilcli env --json"]),
}


def _examples(lines: Sequence[str]) -> str:
    r"""What stands below the options of a command; \b keeps the lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


for _name, (_function, _lines) in COMMANDS.items():
    app.command(_name, epilog=_examples(_lines))(_function)


def main() -> None:
    """Run the command line; every error becomes one line and an exit code."""
    sys.exit(guard.run(app, sys.argv[1:]))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Compress BERT into DistilBERT-style students."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
