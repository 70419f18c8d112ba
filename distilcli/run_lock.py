"""One run at a time in a run folder.

What a launcher leaves behind when it is killed may still train there; two writers would mix their
records and remove each other's checkpoints.
"""

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from distilcli.errors import RunFolderError

_HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def locked(folder: Path, patience_seconds: float, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs out of an existing folder during the block.

    Args:
        folder: the run folder.
        patience_seconds: how long to wait for a process that is in there: one whose launcher is
            gone stops after its step.
        on_wait: told that another process is in there and is waited for.

    Raises:
        RunFolderError: another process is still in there after that, or the folder cannot be
            written.
    """
    try:
        file = (folder / ".lock").open("a", encoding="utf-8")
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be written ({error})", "Choose another output_dir=..."
        ) from error
    with file:
        if not _try(file):
            on_wait(f"{folder}: another process is still in this folder; waiting for it to stop")
            end = time.monotonic() + patience_seconds
            while not _try(file):
                if time.monotonic() > end:
                    raise RunFolderError(
                        f"{folder}: another process trains here",
                        "Wait for it or stop it (SIGTERM makes it write a checkpoint), or choose "
                        "another name=...",
                    )
                time.sleep(0.1)
        yield


def _try(file: TextIO) -> bool:
    """Take the lock; False when another process has it."""
    try:
        # Of the process, not of the open file: what it forks must not hold it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD  # some network file systems have no locks
    return True
