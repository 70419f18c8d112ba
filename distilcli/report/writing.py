"""Writing reports: whole or not at all, and never over what someone else wrote."""

from pathlib import Path

from distilcli.errors import ConfigError, RunFolderError
from distilcli.files.atomic import unwritten, write_atomically
from distilcli.files.marks import is_report


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
