"""What can go wrong, said once: every error carries its exit code and what to do next.

`cli.py` prints `message` and `hint` and exits with `exit_code`; a traceback is shown only with
`DISTILCLI_DEBUG=1`. Anything that is not a `DistilError` is a bug of ours.
"""

from typing import Any


class DistilError(Exception):
    """The run failed. Base of every error a user may see.

    Args:
        message: what went wrong and where (file and key), in one sentence.
        hint: what to do about it, in one sentence; empty when the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # What Exception keeps is the message alone; errors come from other processes, too.
        return type(self), (self.message, self.hint)


class ConfigError(DistilError):
    """The experiment or the command line is wrong."""

    exit_code = 2


class DataError(DistilError):
    """A source, a token store or one of its shards cannot be used."""

    exit_code = 2


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

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.hint, self.signal_number)
