"""The command `export`, as it is typed; `export.py` does the work and is imported only then."""

from pathlib import Path
from typing import Annotated

import typer

from distilcli.cli import guard
from distilcli.cli.measure_commands import names_and_overrides
from distilcli.cli.options import JsonOption, PublicOption, PushOption, config_path, push_of
from distilcli.errors import ConfigError
from distilcli.files.paths import option_output, option_path


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
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Experiment file (default: that of the run).",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Measure on this text instead of held-out text; may be repeated.",
        ),
    ] = None,
    documents: Annotated[
        str | None,
        typer.Option(
            "--documents",
            metavar="KIND",
            help="What one document of --text is: file, line or blank-line (default: as the run).",
        ),
    ] = None,
    dev: Annotated[
        list[str] | None,
        typer.Option(
            "--dev",
            metavar="FILE",
            help="Measure on these examples instead of the task's; may be repeated.",
        ),
    ] = None,
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
        if documents not in (None, "file", "line", "blank-line"):
            raise ConfigError(f"--documents {documents}: not file, line or blank-line")
        from distilcli.cli import export as command
        from distilcli.evaluation.asked import Asked

        asked = Asked(
            text=tuple(option_path("--text", word) for word in text or []),
            documents=documents,
            dev=tuple(option_path("--dev", word) for word in dev or []),
            speed=speed,
        )
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
