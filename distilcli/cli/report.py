"""`distilcli report`: run folders as a page with figures, and as Markdown."""

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from distilcli import __version__
from distilcli.cli.console import Console
from distilcli.errors import ConfigError, DistilError, extra
from distilcli.files.atomic import recover, recover_all
from distilcli.files.shown_paths import shown_path
from distilcli.report.writing import (
    check_figures,
    check_target,
    figures_folder,
    write_figures,
    write_report,
)
from distilcli.training.run_folder import RunFolder


def run(
    folders: Sequence[Path], output: Path | None, markdown: Path | None, console: Console
) -> None:
    """Write the report of runs, and say where it is."""
    check_extra()
    from distilcli.report.pages import check_folders

    for folder in folders:
        recover(folder)  # a folder that an export was replacing when it was killed
    check_folders(folders)
    target = output or _default_target(folders)
    text = markdown or target.with_suffix(".md")
    for folder in folders:
        recover_all(folder)
    check_target("--output", target, (".html", ".htm"))
    check_target("--markdown", text, (".md", ".markdown"))
    check_figures(text)
    console.result(make(folders, target, text, console))


def check_at_start(folder: Path) -> None:
    """Make sure that `write_at_end` can write a report, before a run begins.

    Raises:
        ConfigError: what draws it is not installed.
        RunFolderError: something else lies in its place.
    """
    check_extra()
    page, text = RunFolder(folder).reports
    check_target("--report", page, (".html",))
    check_target("--report", text, (".md",))
    check_figures(text)


def write_at_end(folder: Path, console: Console) -> dict[str, str | None]:
    """Write the report of a run that is finished: the main process, and without failing the run.

    Returns:
        For programs: where both files are; None where they could not be written.
    """
    if os.environ.get("RANK", "0") != "0":
        return {}
    page, text = RunFolder(folder).reports
    try:
        make([folder], page, text, console)
    except DistilError as error:
        console.warn(f"no report: {error.message}")
        return {"report": None, "markdown": None}
    return {"report": str(page), "markdown": str(text)}


def check_extra() -> None:
    """Refuse where figures cannot be drawn.

    Raises:
        ConfigError: saying what to install.
    """
    with extra("report", "distilcli report needs jinja2 and matplotlib"):
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401


def make(
    folders: Sequence[Path], target: Path, markdown: Path, console: Console
) -> dict[str, str | list[str] | None]:
    """Make the files of a report; what is said of it to programs."""
    from distilcli.report.drawing import as_file
    from distilcli.report.html_page import html_of
    from distilcli.report.markdown_page import markdown_of
    from distilcli.report.pages import page_of

    page = page_of(folders, _foot(folders))
    write_report("--output", target, html_of(page))
    links = write_figures(markdown, {one.key: as_file(one.wide) for one in page.pictures})
    write_report("--markdown", markdown, markdown_of(page, links))
    for path in (target, markdown):
        console.say(f"written: {path}")
    return {
        "report": str(target),
        "markdown": str(markdown),
        "figures": str(figures_folder(markdown)) if links else None,
        "runs": [str(one) for one in folders],
    }


def _foot(folders: Sequence[Path]) -> list[str]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    named = ", ".join(shown_path(str(folder)) for folder in folders)
    return [f"Made of {named} by distilcli {__version__}, {now}."]


def _default_target(folders: Sequence[Path]) -> Path:
    from distilcli.report.exports import is_export

    others = [folder for folder in folders if not is_export(folder)]
    if len(others) != 1:
        what = "several runs" if others else "exports without their run"
        raise ConfigError(
            f"a report of {what} needs a place of its own",
            "Give --output FILE.html, such as --output comparison.html.",
        )
    return RunFolder(others[0]).reports[0]
