"""The standard streams of a command, whatever they are connected to.

A full disk, a closed descriptor, a reader that has gone and an encoding without the character must
not end a run that takes hours, so writing never raises: what fails is remembered, and
`cli/guard.py` says at the end that the result was not delivered.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast


class PatientStream:
    """A text stream that takes whatever is written to it.

    Everything but writing and flushing is that of the stream it stands for.

    Args:
        stream: what is written to; None: nothing, as where the descriptor is closed.

    Attributes:
        error: the first error in writing; later writes are dropped.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # utf-8: nothing that is written there may fail, and rich asks for the encoding.
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        self._is_ours = stream is None
        self.error: OSError | None = None
        if hasattr(self._stream, "reconfigure"):
            # A file name may have characters that PYTHONIOENCODING=ascii cannot say, or bytes
            # that are no characters at all.
            self._stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop the text where that fails."""
        if self.error is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, or drop it where that fails."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def close_own(self) -> None:
        """Close what was opened here, nothing else."""
        if self._is_ours:
            self._stream.close()

    def _give_up(self, error: OSError) -> None:
        self.error = error
        # The failed text is still in the buffer, and Python writes that again when it ends: then
        # it must go somewhere, or the exit code is another one.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def patient_streams() -> Iterator[PatientStream]:
    """Stand in for `sys.stdout` and `sys.stderr` during the block; the former is given."""
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    streams = PatientStream(sys.stdout), PatientStream(sys.stderr)
    sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], streams)
    try:
        yield streams[0]
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.close_own()


def undelivered(stream: PatientStream) -> str | None:
    """Why the result did not reach its reader; None where it did, or where the reader has gone."""
    stream.flush()
    if stream.error is None or stream.error.errno == errno.EPIPE:
        return None
    return f"the result cannot be written to standard output ({stream.error.strerror})"


def _open_closed_descriptors() -> None:
    """Connect closed standard descriptors to nothing.

    Otherwise the next file that is opened takes the number, and what a library prints goes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
