"""The command `export`, as it is typed; `export.py` does the work and is imported only then."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from distilcli.cli import guard
from distilcli.cli.options import (
    DevOption,
    DocumentsOption,
    JsonOption,
    PublicOption,
    PushOption,
    RunConfigOption,
    TextOption,
    config_path,
    names_and_overrides,
    other_data,
    push_of,
)
from distilcli.errors import ConfigError
from distilcli.files.paths import option_output


def export(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDENT|RUN [KEY.SUB=VALUE]...",
            help="The student, as a folder, a hub name or a run, and settings to use instead of "
            "the experiment's.",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    formats: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Of onnx, int8, fp16 and bf16, with commas between; the last two are weights for "
            "transformers (default: onnx,int8).",
            show_default=False,
        ),
    ] = "onnx,int8",
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            min=0.0,
            max=1.0,
            metavar="X",
            help="How far the score may fall; what falls further is not written (default: 0.005).",
            show_default=False,
        ),
    ] = 0.005,
    config: RunConfigOption = None,
    text: TextOption = None,
    documents: DocumentsOption = None,
    dev: DevOption = None,
    speed: Annotated[
        bool,
        typer.Option(
            "--speed/--no-speed",
            help="Measure speed too, on the CPU (default: yes).",
            show_default=False,
        ),
    ] = True,
    push_to_hub: PushOption = None,
    public: PublicOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write a student as ONNX, in int8 or half precision, checked.

    Each file is compared with the student on held-out text or dev examples. Where outputs in fp32
    differ by more than 0.0001, or the score falls by more than --max-drop, nothing is written.
    """
    with guard.console(json_output, "exporting") as console:
        names, overrides = names_and_overrides(models)
        if len(names) != 1:
            raise ConfigError(
                f"one student is needed, and {len(names) or 'none'} is given",
                "Name one: distilcli export STUDENT --output DIR.",
            )
        asked = replace(other_data(text, documents, dev), speed=speed)
        from distilcli.cli import export as command

        wanted = command.WantedExport(
            model=names[0],
            output=option_output("--output", output),
            formats=formats,
            max_drop=max_drop,
            asked=asked,
            config=None if config is None else config_path(config),
            overrides=tuple(overrides),
        )
        command.run(wanted, console, push_of(push_to_hub, public, console))
