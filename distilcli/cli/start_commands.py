"""The commands around a run: `new`, `schema` and `env`, as they are typed.

Each calls one function of the module that does the work, which is imported only then.
"""

from pathlib import Path
from typing import Annotated

import typer

from distilcli.cli import guard
from distilcli.cli.options import SCHEMAS, TASK_TEMPLATES, TEMPLATES, JsonOption
from distilcli.errors import ConfigError
from distilcli.files.paths import option_output


def _complete_template(incomplete: str) -> list[str]:
    return [name for name in TEMPLATES if name.startswith(incomplete)]


def _complete_schema(incomplete: str) -> list[str]:
    return [name for name in SCHEMAS if name.startswith(incomplete)]


def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help=f"What for: {', '.join(TEMPLATES[:-1])} or {TEMPLATES[-1]}.",
            autocompletion=_complete_template,
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="File to write, such as my.yaml; none is replaced."),
    ],
    json_output: JsonOption = False,
) -> None:
    """Write an experiment file to start from, with comments.

    A quickstart runs as it is, on what ships with distilcli; in the others you write in the names
    of your models and files. The run gets the name of the file.
    """
    with guard.console(json_output, "writing an experiment") as console:
        if kind == "task":
            raise ConfigError(
                "task: there are several kinds of task", f"Give one of {', '.join(TASK_TEMPLATES)}."
            )
        if kind not in TEMPLATES:
            raise ConfigError(
                f"{kind}: there is no such kind of file", f"Give one of {', '.join(TEMPLATES)}."
            )
        from distilcli.cli import new as command

        command.run(kind, option_output("FILE", file), console)


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="masked-lm, task, suite or ablation (default: one schema for all).",
            autocompletion=_complete_schema,
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Print the JSON schema of experiments, for your editor.

    With it an editor completes the keys of an experiment file, explains them and marks mistakes.
    Write it into a file beside the experiment, and name that file in a comment there:

    # yaml-language-server: $schema=./schema.json
    """
    with guard.console(json_output, "writing the schema") as console:
        if kind is not None and kind not in SCHEMAS:
            raise ConfigError(f"{kind}: there is no such schema", f"Give {', '.join(SCHEMAS)}.")
        from distilcli.cli import schema as command

        command.run(kind, console)


def env(json_output: JsonOption = False) -> None:
    """Show versions, machine and devices, for a bug report.

    It names no file, user or host, and of the environment's variables only those that change how
    a run computes or is launched.
    """
    with guard.console(json_output, "looking at the environment") as console:
        from distilcli.cli import env as command

        command.run(console)
