"""One process at a time in the folder of a token store, and no other folder than that."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from distilcli.errors import DataError


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a DataError that names the store."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: the token store cannot be written ({error})") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares this store, and keep them out during the block.

    Raises:
        DataError: the folder is a file, or holds something that is not a store.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: not a folder", "Name another data.store.")
    _refuse_foreign(folder)
    path = folder / ".lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held it may have withdrawn the folder, and this file with it.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return


def _refuse_foreign(folder: Path) -> None:
    """Raise when `folder` has content but is not a store."""
    own = {".lock", "settings.json.tmp"}
    if not folder.is_dir() or (folder / "settings.json").is_file():
        return
    if any(path.name not in own for path in folder.iterdir()):
        raise DataError(
            f"{folder}: not empty, and not a token store", "Name another folder as data.store."
        )
