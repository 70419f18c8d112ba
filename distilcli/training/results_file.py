"""results.json: where `distilcli eval` and `distilcli suite` write what they measured."""

from pathlib import Path
from typing import Any

from distilcli.errors import RunFolderError
from distilcli.files.atomic import unwritten, why_not_writable, write_atomically
from distilcli.files.json_text import parse_json, to_json
from distilcli.training.run_folder import RunFolder, is_marked


def _is_of_a_suite(path: Path) -> bool:
    """Whether results are those that earlier versions wrote of a suite."""
    try:
        record = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"suite", "tasks", "macro"} <= record.keys()


def check_results(folder: Path) -> None:
    """Make sure that `write_results` can write into a folder, before anything is measured.

    Raises:
        RunFolderError: it cannot, or another `results.json` than ours is there.
    """
    target = folder / "results.json"
    if (reason := why_not_writable(folder)) is not None:
        raise RunFolderError(
            f"{target}: cannot be written ({reason})",
            "Choose another folder with --output.",
        )
    # In the folder of a run, and of a suite, earlier versions wrote it without a mark.
    marked = (target, RunFolder(folder).environment)
    if target.exists() and not (any(map(is_marked, marked)) or _is_of_a_suite(target)):
        raise RunFolderError(
            f"{target}: not replaced, because nothing in it says that distilcli wrote it",
            "Choose another folder with --output, or move that file elsewhere.",
        )


def write_results(folder: Path, record: dict[str, Any]) -> Path:
    """Write `results.json` into a folder, which is made if it is not there; the file's path.

    Raises:
        RunFolderError: it cannot be written, or see `check_results`.
        WriteError: the disk is full.
    """
    target = folder / "results.json"
    check_results(folder)
    try:
        write_atomically(target, to_json(record, indent=1) + "\n")
    except OSError as error:
        raise unwritten(
            f"{target}:", error, RunFolderError, "Choose another folder with --output."
        ) from error
    return target
