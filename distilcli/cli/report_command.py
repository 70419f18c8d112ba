"""`distilcli report`, as it is typed; what it does is in `report.py` and imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from distilcli.cli import guard
from distilcli.cli.options import JsonOption
from distilcli.files.paths import option_output, option_path


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|EXPORT...", help="Folders of runs, and of exports of their students."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The page, which ends in .html (default: report.html in the run folder).",
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The same as Markdown, which ends in .md; its figures go into a folder beside it "
            "(default: report.md beside the page).",
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Show runs as a page with figures.

    It writes one HTML file that needs no network, and the same as Markdown: what was distilled from
    what, losses and held-out scores over the steps, quality against size and latency, layers,
    settings, versions and cost. Of several runs it shows first how they differ. The folder of an
    export is shown with the run whose student it was made of, or alone. Nothing is computed anew,
    and what a run does not have yet is said.
    """
    with guard.console(json_output, "writing a report") as console:
        names = [Path(option_path("RUN|EXPORT", word)) for word in runs]
        page = None if output is None else option_output("--output", output)
        text = None if markdown is None else option_output("--markdown", markdown)
        from distilcli.cli import report as command

        command.run(names, page, text, console)
