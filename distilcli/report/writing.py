"""Writing reports: whole or not at all, and never over what someone else wrote."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from distilcli.errors import ConfigError, RunFolderError
from distilcli.files.atomic import remove_folder, replacing, unwritten, write_atomically
from distilcli.files.marks import FIGURES, is_report, refuse_foreign, write_mark


def check_target(option: str, path: Path, suffixes: tuple[str, ...]) -> None:
    """Make sure that a report can be written, before it is made.

    Raises:
        ConfigError: its name ends otherwise than it should.
        RunFolderError: something else lies there, or its folder cannot be one.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(
            f"{option} {path}: the name of this file must end in {' or '.join(suffixes)}"
        )
    if path.is_dir():
        raise RunFolderError(f"{path}: is a folder, not a file", f"Name a file with {option}.")
    if path.exists() and not is_report(path):
        raise RunFolderError(
            f"{path}: not replaced, because nothing in it says that distilcli wrote it",
            f"Name another file with {option}, or move that one elsewhere.",
        )


def figures_folder(markdown: Path) -> Path:
    """Where the figures of a report in Markdown lie."""
    return markdown.with_name(f"{markdown.stem}-figures")


def check_figures(markdown: Path) -> None:
    """Make sure that the figures of a report in Markdown can be written.

    Raises:
        RunFolderError: something else lies there.
    """
    try:
        refuse_foreign(figures_folder(markdown), FIGURES)
    except RunFolderError as error:
        hint = "Move that elsewhere, or name another file with --markdown."
        raise RunFolderError(error.message, hint) from error


def write_figures(markdown: Path, figures: Mapping[str, str]) -> dict[str, str]:
    """Write the figures of a report in Markdown into a folder beside it, which is there for these.

    Args:
        markdown: the report.
        figures: SVG, by key.

    Returns:
        A link to each figure, relative to the report.

    Raises:
        RunFolderError: see `check_figures`, or it cannot be written.
        WriteError: the disk is full.
    """
    folder = figures_folder(markdown)
    try:
        if figures:
            with replacing(folder) as new:
                check_figures(markdown)
                new.mkdir()
                for key, svg in figures.items():
                    (new / f"{key}.svg").write_text(svg, encoding="utf-8")
                write_mark(new, FIGURES)
        elif folder.exists():
            check_figures(markdown)
            remove_folder(folder)
    except OSError as error:
        hint = "Name another file with --markdown."
        raise unwritten(f"{folder}:", error, RunFolderError, hint) from error
    return {key: f"{quote(folder.name)}/{key}.svg" for key in figures}


def write_report(option: str, path: Path, text: str) -> None:
    """Write one file of a report.

    Raises:
        RunFolderError: it cannot be written.
        WriteError: the disk is full.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise unwritten(
            f"{path}:", error, RunFolderError, f"Name another file with {option}."
        ) from error
