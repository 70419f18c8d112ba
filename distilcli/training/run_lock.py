"""One run at a time in a run folder.

What a launcher leaves behind when it is killed may still train there; two writers would mix their
records and remove each other's checkpoints.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from distilcli.errors import RunFolderError
from distilcli.files import atomic

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def locked_run(
    folder: Path,
    patience_seconds: float,
    on_wait: Callable[[str], None],
    *,
    may_be_read_only: bool = False,
) -> Iterator[None]:
    """Keep other runs out of a folder during the block.

    It is made where it is missing. When the block raises, it goes again if nothing else is in it.

    Args:
        folder: the run folder.
        patience_seconds: how long to wait for a process that is in there: one whose launcher is
            gone stops after its step.
        on_wait: told that another process is in there and is waited for.
        may_be_read_only: whether a folder in which nothing can be written is entered all the same.

    Raises:
        RunFolderError: another process is still in there after that, or the folder cannot be
            written.
    """
    path = folder / ".lock"
    made = [one for one in (path, folder, *folder.parents) if not one.exists()]
    with ExitStack() as held:
        try:
            held.enter_context(
                atomic.locked(
                    path,
                    patience_seconds,
                    lambda: on_wait(
                        f"{folder}: another process is still in this folder; waiting for it to stop"
                    ),
                )
            )
        except BlockingIOError as error:
            raise RunFolderError(
                f"{folder}: another process trains here",
                "Wait for it or stop it (SIGTERM makes it write a checkpoint), or choose "
                "another name=...",
            ) from error
        except OSError as error:
            if not (may_be_read_only and error.errno in _READ_ONLY):
                raise atomic.unwritten(
                    f"{folder}:", error, RunFolderError, "Choose another output_dir=..."
                ) from error
        try:
            yield
        except BaseException:
            with suppress(OSError):
                _withdraw(made)
            raise


def _withdraw(made: list[Path]) -> None:
    """Remove a lock and the empty folders that were made for it, where nothing came of it."""
    for path in made:
        if path.is_dir():
            path.rmdir()  # raises where there is something in it
        else:
            path.unlink()
