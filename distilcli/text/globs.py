"""Which files a list of paths and globs names: each file once, however many ways lead to it.

Python's own `glob` follows a link to a folder above it again and again: it gives a file 41 times,
or with a few such links never ends. Here every folder is entered once.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from distilcli.errors import DataError
from distilcli.files.paths import resolve_path

_ANY_DEPTH = "**"
FileId = tuple[int, int]


def file_id(path: Path) -> FileId:
    """What tells a file from others, whatever it is called: its device and number there."""
    status = path.stat()
    return status.st_dev, status.st_ino


def matching_files(patterns: Iterable[str], key: str) -> list[Path]:
    """The files that paths and globs name, `builtin:` ones too, in order and each one once.

    Args:
        patterns: paths or globs; those that one glob matches are sorted.
        key: dotted place of the source in the experiment, for messages.

    Raises:
        DataError: one of the patterns names no file, a folder, a link to nothing or a folder that
            contains itself through a link, or a name on the way to a file is not UTF-8.
    """
    found: dict[FileId, Path] = {}
    for pattern in patterns:
        for path in _files_of(pattern, key):
            _check_name(path, key)
            found.setdefault(file_id(path), path)
    return list(found.values())


def _check_name(path: Path, key: str) -> None:
    """Refuse a name that no JSON can hold: a store could not say from which file it was made."""
    try:
        str(path.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{key}.files: a name in {path} is not UTF-8", "Rename it, or leave it out."
        ) from None


def _files_of(pattern: str, key: str) -> list[Path]:
    path = Path(resolve_path(pattern))
    if path.is_file():
        return [path]
    if path.is_dir():
        hint = f"Name the files in it, such as {pattern}/*.txt"
        if is_saved_data_set(path):
            hint = f"It is a data set saved by save_to_disk: name it as hub, {{hub: {pattern}}}."
        raise DataError(f"{key}.files: {pattern} is a folder", hint)
    matches = [Path(match) for match in sorted(set(_expand(str(path), key)))]
    for match in matches:
        if match.is_symlink() and not match.exists():
            raise DataError(
                f"{key}.files: {match} is a link to a file that is not there",
                "Fetch the file, or remove the link.",
            )
    files = [match for match in matches if match.is_file()]
    if not files:
        raise DataError(
            f"{key}.files: {pattern} matches no file",
            "Relative paths are relative to the working directory.",
        )
    return files


def is_saved_data_set(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of `datasets`, of one split or of several."""
    of_one_split = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
    return of_one_split or (folder / "dataset_dict.json").is_file()


def _expand(pattern: str, key: str) -> Iterator[str]:
    """What a glob matches: as `glob.glob` has it, but entering no folder twice."""
    parts = pattern.split(os.sep)
    if _ANY_DEPTH not in parts:
        yield from glob.glob(pattern)
        return
    at = parts.index(_ANY_DEPTH)
    above = os.sep.join(parts[:at]) or (os.sep if at else os.curdir)
    below = os.sep.join(parts[at + 1 :]) or "*"
    entered: set[FileId] = set()
    for top in sorted(glob.glob(above)) if glob.has_magic(above) else [above]:
        for folder in _folders(Path(top), key, entered, {}):
            yield from _expand(os.path.join(glob.escape(str(folder)), below), key)


def _folders(
    folder: Path, key: str, entered: set[FileId], above: dict[FileId, Path]
) -> Iterator[Path]:
    """A folder and all below it that are not hidden and were not entered yet.

    Raises:
        DataError: a link leads back to a folder that it lies in, or a folder cannot be read.
    """
    if not folder.is_dir():
        return
    this = file_id(folder)
    if this in above:
        raise DataError(
            f"{key}.files: {folder} leads back to {above[this]}, in which it lies",
            "Remove that link, or name the folders without **.",
        )
    if this in entered:
        return
    entered.add(this)
    yield folder
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{key}.files: {folder} cannot be read ({error.strerror})") from error
    # Folders of their own first: what a link leads to has its usual name, where there is one.
    inside = sorted((folder / name for name in names if name[0] != "."), key=Path.is_symlink)
    for path in inside:
        yield from _folders(path, key, entered, above | {this: folder})
