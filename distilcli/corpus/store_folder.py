"""The folder of a token store: one process at a time in it, and what is removed from it."""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilcli import __version__
from distilcli.corpus.manifest import SPLITS
from distilcli.corpus.shards import read_record
from distilcli.errors import DataError
from distilcli.files import atomic
from distilcli.files.json_text import parse_json, to_json

# Of the settings: what decides which text a shard gets, and not what becomes of it.
_KEYS_OF_NO_SHARD = frozenset({"sources", "held_out_sources", "shard_mib"})
TEACHER_KEY = "teacher_tokenizer"  # of the settings of a paired store: its fingerprint
_SHARD = re.compile(r"shard-(?P<index>[0-9]{5,})\.(arrow|json)")


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a DataError, or WriteError, that names the store."""
    try:
        yield
    except OSError as error:
        raise atomic.unwritten(
            f"{folder}: the token store",
            error,
            DataError,
            "Free disk space, fix the permissions or name another folder as data.store.",
        ) from error


@contextlib.contextmanager
def locked_store(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares this store, and keep them out during the block.

    Raises:
        DataError: the folder is a file, or holds something that is not a store.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: not a folder", "Name another data.store.")
    _refuse_foreign(folder)
    with atomic.locked(folder / ".lock", math.inf):
        atomic.recover_all(folder)
        _refuse_foreign(folder)
        yield


def _refuse_foreign(folder: Path) -> None:
    """Raise when `folder` has content but is not a store."""
    if not folder.is_dir() or (folder / "settings.json").is_file():
        return
    own = {".lock", atomic.scratch_folder(folder / "settings.json").name}
    if any(path.name not in own for path in folder.iterdir()):
        raise DataError(
            f"{folder}: not empty, and not a token store", "Name another folder as data.store."
        )


def claim(folder: Path, settings: dict[str, Any], model: str, changed_input: list[str]) -> bool:
    """Write down what a store is made with, or compare it with what the folder was begun with.

    What was begun and not finished goes on with other sources, for each shard says what it was made
    of; with other settings, what has nothing to train on yet goes.

    Args:
        folder: of the store, locked.
        settings: all that the content of the store depends on.
        model: whose tokenizer it is made with, for messages.
        changed_input: what of a finished store's input has changed since, in words.

    Returns:
        Whether this call begins the store.

    Raises:
        DataError: the folder was begun with others, or finished with other input files.
    """
    path = folder / "settings.json"
    if path.is_file():
        before = _begun_with(path)
        there = before["settings"]
        keys = {key: None for key in there | settings if there.get(key) != settings.get(key)}
        if not keys and not changed_input:
            return False
        is_finished = (folder / "manifest.json").exists()
        if is_finished or not keys.keys() <= _KEYS_OF_NO_SHARD:
            if _has_something_to_keep(folder):
                models = before["tokenizer_model"], model
                differences = [_difference(key, there, settings, models) for key in keys]
                what = "with other settings" if differences else "from other input"
                raise DataError(
                    f"{folder}: this token store was made {what}: "
                    f"{'; '.join(differences or changed_input)}",
                    "Name another folder as data.store, or delete this one.",
                )
            discard(folder)
    begun = {"distilcli": __version__, "tokenizer_model": model, "settings": settings}
    atomic.write_atomically(path, to_json(begun, indent=2) + "\n")
    return True


def _difference(
    key: str, there: dict[str, Any], settings: dict[str, Any], models: tuple[str, str]
) -> str:
    """How two stores differ in one setting, in words; `models`: whose tokenizers these are."""
    if key == "tokenizer":
        return f"another tokenizer, that of {models[0]}, not that of {models[1]}"
    if key == TEACHER_KEY and key not in there:
        return "for one tokenizer, not for a student and its teacher"
    if key == TEACHER_KEY:
        return "for another teacher" if key in settings else "for a teacher, too"
    return f"{key} was {to_json(there.get(key))}, is {to_json(settings.get(key))}"


def _begun_with(path: Path) -> dict[str, Any]:
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


def _has_something_to_keep(folder: Path) -> bool:
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
    if _has_something_to_keep(folder):
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
    remove_leavings(folder, 0)
    for below in (folder / name for name in (*SPLITS, "shards")):
        if below.is_dir() and not any(below.iterdir()):
            below.rmdir()
    (folder / "settings.json").unlink(missing_ok=True)


def remove_leavings(folder: Path, num_shards: int) -> None:
    """Remove what killed calls left half written, and the files of shards that a store has not.

    Args:
        folder: of the store.
        num_shards: those from this number on are not of the store: its text became less.

    Raises:
        OSError: they cannot be removed.
    """
    for name in (*SPLITS, "shards"):
        atomic.recover_all(folder / name)
        for path in (folder / name).iterdir() if (folder / name).is_dir() else ():
            found = _SHARD.fullmatch(path.name)
            if found and int(found["index"]) >= num_shards:
                path.unlink()
