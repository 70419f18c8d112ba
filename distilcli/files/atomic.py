"""Writing files and folders: whole or not at all, and what a kill leaves behind is cleared.

Whatever takes the place of something is made in a folder of its own beside that place first:

    .NAME.distilcli-writing/.lock    held as long as the process that writes there lives
    .NAME.distilcli-writing/new      what is being written
    .NAME.distilcli-writing/old      a folder that `new` takes the place of, until it has

    with replacing(Path("runs/x/student")) as new:
        new.mkdir()
        ...
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from distilcli.errors import DistilError, WriteError

_SUFFIX = ".distilcli-writing"
_LOCK, _NEW, _OLD, _REMOVED = ".lock", "new", "old", "removed"
_HELD = (errno.EACCES, errno.EAGAIN)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Writing one file or one model takes no longer, unless the process that does it is stopped.
_PATIENCE_SECONDS = 120.0
_SECONDS_BETWEEN_TRIES = 0.05


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content by UTF-8 text; a kill leaves the old or the new, never a mixture.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a file or a folder, all or nothing, in place of what is there.

    The block gets a path at which nothing exists and makes a file or a folder there. When it ends
    that is brought to the disk, gets the permissions of any new file, and takes the target's place.
    When the block raises, the target stays as it is. Other processes that write the same target
    wait. A folder that is replaced is removed with all that is in it: whoever calls this checks
    inside the block that nothing is lost.

    Args:
        target: symbolic links on the way to it are followed; folders above it are made.

    Raises:
        OSError: it cannot be written, or another process does not come to an end with it.
    """
    target = Path(os.path.realpath(target))
    with _scratch_of(target) as scratch:
        _recover(scratch, target)
        try:
            yield scratch / _NEW
            _flush(scratch / _NEW, scratch.stat().st_mode)
            _put_in_place(scratch, target)
        finally:
            with suppress(OSError):
                _recover(scratch, target)


def scratch_folder(target: Path) -> Path:
    """Where `replacing` makes what takes the place of a file or a folder."""
    return target.with_name(f".{target.name}{_SUFFIX}")


def remove_folder(target: Path) -> None:
    """Remove a folder and all that is in it, so that no kill leaves half of it under its name.

    Raises:
        OSError: it cannot be removed.
    """
    target = Path(os.path.realpath(target))
    with _scratch_of(target) as scratch:
        _recover(scratch, target)
        os.rename(target, scratch / _REMOVED)
        _recover(scratch, target)


def recover(target: Path) -> None:
    """Undo what a writer of one file or folder left behind when it was killed.

    A folder that it had taken away to put another in its place is there again, or the other one is.
    Where a process is still writing, or where this one may not write, nothing is done.
    """
    target = Path(os.path.realpath(target))
    if _is_scratch(scratch_folder(target)):
        with suppress(OSError), _scratch_of(target, patience_seconds=0.0) as scratch:
            _recover(scratch, target)


def recover_all(folder: Path) -> None:
    """`recover` for everything directly in a folder, which need not exist."""
    with suppress(OSError):
        for scratch in sorted(folder.glob(f".*{_SUFFIX}")):
            recover(folder / scratch.name[1 : -len(_SUFFIX)])


def why_not_writable(folder: Path) -> str | None:
    """Why nothing can be made in a folder, be it there or not; None: nothing speaks against it."""
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is not writable"


def unwritten(what: str, error: Exception, otherwise: type[DistilError], hint: str) -> DistilError:
    """The error where something cannot be written.

    Args:
        what: the file or folder with a colon, and what it is where that does not say it.
        error: an OSError, or what safetensors makes of one.
        otherwise: of this class, unless the disk or a quota is full: then it is a WriteError, whose
            exit code is 1 whoever was writing.
        hint: what to do about it.
    """
    kind = WriteError if _is_full(error) else otherwise
    return kind(f"{what} cannot be written ({error})", hint)


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return any(f"os error {number}" in str(error) for number in _FULL)  # safetensors' words


@contextmanager
def locked(
    path: Path, patience_seconds: float, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold a lock file, which is made where it is missing and stays.

    The lock is the process's: it ends with it, however that ends, and what it forks does not have
    it. On a file system that has no locks there is none.

    Args:
        path: its folder is made where it is missing, also when another process removes it
            meanwhile.
        patience_seconds: how long to wait for another process.
        on_wait: called once when another process is waited for.

    Raises:
        BlockingIOError: another process still has it after that.
        OSError: it cannot be opened for writing.
    """
    end: float | None = None
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a", encoding="utf-8")
        except FileNotFoundError:
            continue  # the process that had it has just removed the folder
        with file:
            if _try_lock(file) and _is_still(file, path):
                yield
                return
        if end is None:
            end = time.monotonic() + patience_seconds
            if patience_seconds:
                on_wait()
        if time.monotonic() >= end:
            raise BlockingIOError(errno.EAGAIN, "another process is writing there", str(path))
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _try_lock(file: TextIO) -> bool:
    """Take the lock; False when another process has it."""
    try:
        # Of the process, not of the open file: what it forks must not hold it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD  # some network file systems have no locks
    return True


def _is_still(file: TextIO, path: Path) -> bool:
    """Whether an open file is the one at a path: the process that had it may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _is_scratch(folder: Path) -> bool:
    """Whether a folder is one that `replacing` made: its lock comes first and goes last."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = os.listdir(folder)
    return not names or _LOCK in names


@contextmanager
def _scratch_of(target: Path, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[Path]:
    """The folder in which a target is made, locked; removed afterwards if nothing is left in it."""
    scratch = scratch_folder(target)
    with locked(scratch / _LOCK, patience_seconds):
        try:
            yield scratch
        finally:
            with suppress(OSError):
                if os.listdir(scratch) == [_LOCK]:
                    (scratch / _LOCK).unlink()
                    scratch.rmdir()


def _put_in_place(scratch: Path, target: Path) -> None:
    """Give what was made its name; for an instant the folder that had it has none."""
    new, old = scratch / _NEW, scratch / _OLD
    takes_over = target.is_dir() and new.is_dir()
    if takes_over:
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if takes_over:
            os.rename(old, target)
        raise
    _flush_entry(target.parent)


def _recover(scratch: Path, target: Path) -> None:
    """Make good what a kill between two steps of `replacing` left, and clear the scratch folder."""
    new, old = scratch / _NEW, scratch / _OLD
    if os.path.lexists(old) and not os.path.lexists(target):
        # The new one was whole on the disk before the old one was taken away.
        os.rename(new if os.path.lexists(new) else old, target)
    for path in scratch.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _flush(path: Path, folder_mode: int) -> None:
    """Bring a file or a folder of files to the disk, with the permissions that new files have.

    Some writers make files that only their owner may read; a folder made by us has what the umask
    says.
    """
    entries = [path, *path.rglob("*")] if path.is_dir() else [path]
    for entry in entries:
        if entry.is_file():
            entry.chmod(folder_mode & 0o666)
        _flush_entry(entry)


def _flush_entry(path: Path) -> None:
    """Force one file, or the names in one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # folders on some file systems
            raise
    finally:
        os.close(descriptor)
