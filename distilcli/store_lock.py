"""The folder of a token store: one process at a time in it, and what is removed from it."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilcli import files
from distilcli.errors import DataError
from distilcli.json_text import parse_json
from distilcli.records import SPLITS
from distilcli.shards import read_record


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a DataError, or WriteError, that names the store."""
    try:
        yield
    except OSError as error:
        raise files.unwritten(
            f"{folder}: the token store",
            error,
            DataError,
            "Free disk space, mend the permissions or name another folder as data.store.",
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares this store, and keep them out during the block.

    Raises:
        DataError: the folder is a file, or holds something that is not a store.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: not a folder", "Name another data.store.")
    _refuse_foreign(folder)
    with files.locked(folder / ".lock", math.inf):
        files.recover_all(folder)
        _refuse_foreign(folder)
        yield


def _refuse_foreign(folder: Path) -> None:
    """Raise when `folder` has content but is not a store."""
    if not folder.is_dir() or (folder / "settings.json").is_file():
        return
    own = {".lock", files.scratch_folder(folder / "settings.json").name}
    if any(path.name not in own for path in folder.iterdir()):
        raise DataError(
            f"{folder}: not empty, and not a token store", "Name another folder as data.store."
        )


def begun_with(path: Path) -> dict[str, Any]:
    """The settings and tokenizer that a store was begun with, which are also its mark.

    Raises:
        DataError: they cannot be read, or the file is of something else.
    """
    try:
        begun: dict[str, Any] = parse_json(path.read_bytes())
        if {"format", "tokenizer"} <= begun["settings"].keys() and "tokenizer_model" in begun:
            return begun
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DataError(
        f"{path}: damaged, or not of a token store", "Name another folder as data.store."
    )


def has_something_to_keep(folder: Path) -> bool:
    """Whether a store is finished, or some shard of it holds a sequence to train on."""
    if (folder / "manifest.json").exists():
        return True
    paths = sorted((folder / "shards").glob("shard-*.json"))
    indices = (int(path.stem.removeprefix("shard-")) for path in paths)
    records = (read_record(folder, index, by_content=False) for index in indices)
    return any(record is not None and record.train.sequences for record in records)


def withdraw(folder: Path) -> None:
    """Remove a store that was just begun, unless some shard holds a sequence to train on.

    So bad input leaves nothing that would refuse the next call's other settings.
    """
    if has_something_to_keep(folder):
        return
    with contextlib.suppress(OSError):
        discard(folder)
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()  # raises where something else lies there


def discard(folder: Path) -> None:
    """Remove the settings of a store and every file of a shard, and nothing else.

    Raises:
        OSError: they cannot be removed.
    """
    for name in (*SPLITS, "shards"):
        below = folder / name
        files.recover_all(below)
        for path in below.glob("shard-*.json" if name == "shards" else "shard-*.arrow"):
            path.unlink()
        if below.is_dir() and not any(below.iterdir()):
            below.rmdir()
    (folder / "settings.json").unlink(missing_ok=True)
