"""Writing reports: whole or not at all, and never over what someone else wrote."""

from pathlib import Path

from distilcli.errors import ConfigError, RunFolderError
from distilcli.files.atomic import unwritten, write_atomically
from distilcli.report.blocks import HTML_MARK, MARKDOWN_MARK

_MARKS = (f'content="{HTML_MARK}"', MARKDOWN_MARK)
_OPENING = 2000  # characters in which the mark stands


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


def is_report(path: Path) -> bool:
    """Whether a file says that it is a report of ours."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            opening = file.read(_OPENING)
    except OSError:
        return False
    return any(mark in opening for mark in _MARKS)


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
