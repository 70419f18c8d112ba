"""What can go wrong, said once: every error carries its exit code and what to do next.

`cli/console.py` prints `message` and `hint`, `cli/guard.py` exits with `exit_code`; a traceback is
shown only with `DISTILCLI_DEBUG=1`. Anything that is not a `DistilError` is a bug of ours;
`unexpected` makes one of it all the same, so that a user never has to read a traceback.
"""

import copy
import errno
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

_REPORT = (
    "This is not an error that distilcli knows. Please report it where you got distilcli from, "
    "with the output of the same command under DISTILCLI_DEBUG=1."
)
_MAX_SHOWN = 500  # characters of a message that is not ours: some hold the whole input


class DistilError(Exception):
    """The run failed. Base of every error a user may see.

    Args:
        message: what went wrong and where (file and key), in one sentence.
        hint: what to do about it, in one sentence; empty when the message says it all.
        details: more lines of the message, such as one for each bad row.

    Attributes:
        message: the sentence and, each in a line of its own, the details; `printable`.
        hint: what to do, `printable`.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", details: Sequence[str] = ()) -> None:
        # Escaped before they are joined: a name in them may have a line break of its own.
        self.message = "\n  ".join(map(printable, (message, *details)))
        self.hint = printable(hint)
        super().__init__(self.message)
        self._given: tuple[Any, ...] = (message, hint, tuple(details))

    def __reduce__(self) -> tuple[Any, ...]:
        # What Exception keeps is the message alone; errors come from other processes, too.
        return type(self), self._given

    def reworded(self, words: Mapping[str, str]) -> Self:
        """The same error in the words of another command: keys of settings as its options, say."""
        other = copy.copy(self)
        for old, new in words.items():
            other.message = other.message.replace(old, new)
            other.hint = other.hint.replace(old, new)
        return other

    def record(self) -> dict[str, Any]:
        """What programs are told of it."""
        return {"error": {"message": self.message, "hint": self.hint, "code": self.exit_code}}


class ConfigError(DistilError):
    """The experiment or the command line is wrong."""

    exit_code = 2


class DataError(DistilError):
    """A source, a token store or one of its shards cannot be used."""

    exit_code = 2


class DataLostError(DataError):
    """What a run reads was whole when it began, and is not any more: cut short, or unreadable."""

    exit_code = 1


class ModelError(DistilError):
    """A teacher or a student cannot be used: missing, another architecture, other shapes."""

    exit_code = 2


class RunFolderError(DistilError):
    """The run folder, or a checkpoint in it, does not fit what was asked."""

    exit_code = 2


class WriteError(RunFolderError):
    """What a run has to write cannot be written: the disk is full, or permissions are gone."""

    exit_code = 1


class NonFiniteLossError(DistilError):
    """A loss or the gradient became infinite or NaN; the weights were not updated."""


class CertificateError(DistilError):
    """An export does not compute what its model computes; it was not written."""


class ProcessLostError(DistilError):
    """Another process of the run hangs or is gone; the last checkpoint stands."""


class Interrupted(DistilError):
    """A signal stopped the run after a checkpoint was written.

    Args:
        signal_number: the signal; the exit code is 128 + this number, as shells report it.
    """

    def __init__(self, message: str, hint: str, signal_number: int) -> None:
        super().__init__(message, hint)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
        self._given = (message, hint, signal_number)


# What nobody expected


@contextmanager
def doing(activity: str) -> Iterator[None]:
    """Name what the block does, such as `preparing data/x`, in an error that nobody expected.

    The innermost activity is kept, also where the error comes out of another process.
    """
    try:
        yield
    except DistilError:
        raise
    except BaseException as error:
        if not getattr(error, "__notes__", None):
            error.add_note(activity)
        raise


def unexpected(error: BaseException) -> DistilError:
    """What a user is told of an error that is not a `DistilError`: what, where, what to do.

    A lack of memory or of disk, and an interruption, are no bugs, and are not to be reported.
    """
    if isinstance(error, DistilError):
        return error
    notes = getattr(error, "__notes__", None)
    during = f", while {notes[0]}" if notes else ""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"interrupted{during}", "", _SIGINT)
    if _is_out_of_memory(error):
        return DistilError(
            f"out of memory{during}", "Close other programs, or take a machine with more memory."
        )
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return DistilError(
            f"{error.filename or 'a file'} cannot be written ({error.strerror}){during}",
            "Free disk space, then run the command again.",
        )
    said = shortened(" ".join(str(error).split()), _MAX_SHOWN)
    described = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return DistilError(f"unexpected {described}{during}{_place(error)}", _REPORT)


_SIGINT = 2
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's own class is not imported for this; on a CPU it raises a RuntimeError.
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _place(error: BaseException) -> str:
    """The last line of this package that the error came through, for whoever reads a report."""
    package = Path(__file__).parent
    ours = [
        f" ({Path(frame.f_code.co_filename).relative_to(package)}:{line})"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename).is_relative_to(package)
    ]
    return ours[-1] if ours else ""


@contextmanager
def extra(name: str, need: str) -> Iterator[None]:
    """Import, in the block, a package that comes with one of this package's extras.

    Args:
        name: of the extra.
        need: what it is needed for.

    Raises:
        ConfigError: the package is not there, or does not work.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{need} ({error})", f"pip install 'distilcli[{name}]'") from error


# Text of others in messages


def printable(text: str) -> str:
    """Text in which nothing moves a cursor, changes a colour or ends a line.

    What a file or a setting is called may hold any of these; they are shown as Python writes them.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shortened(text: str, most: int) -> str:
    """Text of at most this many characters, its middle left out where it has more."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def counted(number: int, one: str) -> str:
    """A number of things in words, such as `1 row` or `1,200 rows`."""
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"


def either(names: Sequence[str]) -> str:
    """Alternatives in words: `a, b or c`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
