"""One run at a time in a run folder.

What a launcher leaves behind when it is killed may still train there; two writers would mix their
records and remove each other's checkpoints.
"""

import errno
import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from distilcli.errors import RunFolderError

_HELD = (errno.EACCES, errno.EAGAIN)


def lock(folder: Path, patience_seconds: float, on_wait: Callable[[str], None]) -> TextIO:
    """Keep other runs out of an existing folder for as long as this process lives.

    Args:
        folder: the run folder.
        patience_seconds: how long to wait for a process that is in there: one whose launcher is
            gone stops after its step.
        on_wait: told that another process is in there and is waited for.

    Returns:
        The open file that holds the lock; closing it lets others in.

    Raises:
        RunFolderError: another process is still in there after that.
    """
    file = (folder / ".lock").open("a", encoding="utf-8")
    end = time.monotonic() + patience_seconds
    waiting = False
    while True:
        try:
            # Of the process, not of the open file: what it forks must not hold it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD:
                return file  # some network file systems have no locks
        else:
            return file
        if time.monotonic() > end:
            file.close()
            raise RunFolderError(
                f"{folder}: another process trains here",
                "Wait for it or stop it (SIGTERM makes it write a checkpoint), or choose another "
                "name=...",
            )
        if not waiting:
            on_wait(f"{folder}: another process is still in this folder; waiting for it to stop")
            waiting = True
        time.sleep(0.1)
