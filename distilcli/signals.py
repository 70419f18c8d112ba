"""Signals that ask a command to stop: what they do while it works, trains, and is on its way out.

Training remembers a request until the step boundary, where a checkpoint is written; everything
else is interrupted where it is, since it writes whole files or nothing. So is the death of
torchrun a request: its processes would otherwise train on, unknown to anyone.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# SIGUSR1 is what a scheduler may send ahead of the time limit; SIGHUP comes when a terminal or an
# ssh connection goes away.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# Noted when the process starts: later, the launcher may be gone already.
_LAUNCHER = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
_SECONDS_BETWEEN_LOOKS = 0.5
# One request may come twice, from a scheduler that tells every process and from torchrun.
_SECONDS_OF_ONE_REQUEST = 2.0


class Stopped(KeyboardInterrupt):
    """A signal came while nothing was trained. Libraries clean up after a KeyboardInterrupt.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = signal.Signals(number)


def exit_signal(number: int) -> int:
    """The signal that the exit code tells of, as 128 + its number: 130, 129, and 143 for others."""
    return number if number in (signal.SIGINT, signal.SIGHUP) else signal.SIGTERM


class StopSignals:
    """Remembers a signal that asks to stop until the step boundary.

    Another one within two seconds is the same request. A later one, the second or any after it,
    ends the process at once.

    Attributes:
        received: the signal; 0 before one has come.
    """

    def __init__(self) -> None:
        self.received = 0
        self._received_at = 0.0

    @contextmanager
    def listening(self) -> Iterator["StopSignals"]:
        """Catch the signals inside the block.

        In a command (`stop_on_signals`) they stay caught after a stop: the process is on its way
        out and has something to say. Under torchrun SIGTERM is then ignored for good: as soon as
        one process has ended torchrun sends it to the others.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self  # only the main thread may set handlers
            return
        if _LAUNCHER is not None:
            threading.Thread(target=self._watch_launcher, daemon=True).start()
        before = _catch(self._remember)
        try:
            yield self
        finally:
            if self.received:
                before = {n: handler for n, handler in before.items() if handler is not _interrupt}
                if _LAUNCHER is not None:
                    before[signal.SIGTERM] = signal.SIG_IGN
            for number, handler in before.items():
                signal.signal(number, handler)

    def receive(self, number: int) -> None:
        """Note that a stop is asked for, by a signal here or by another process."""
        if not self.received:
            self._received_at = time.monotonic()
            self.received = number

    def _watch_launcher(self) -> None:
        while os.getppid() == _LAUNCHER:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        self.receive(signal.SIGTERM)

    def _remember(self, number: int, _frame: Any) -> None:
        if not self.received:
            self.receive(number)
        elif time.monotonic() - self._received_at > _SECONDS_OF_ONE_REQUEST:
            _leave(number)


def stop_on_signals() -> None:
    """From now on a signal raises `Stopped` in the main thread: for a process that is one command.

    `StopSignals.listening` takes its place in a block.
    """
    _catch(_interrupt)


def leave_quietly() -> None:
    """The command is done: a signal now ends the process without a traceback.

    After a stop the signals stay caught, so that the exit code says what stopped it.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Processes that are started in the block never see the signals: their parent answers them.

    But for SIGTERM, with which a pool of processes ends those that are left when one has died. A
    signal that comes meanwhile is delivered here at the end of the block.
    """
    kept = set(STOP_SIGNALS) - {signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, kept)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _catch(handler: Any) -> dict[int, Any]:
    """Set a handler for every signal, and give the handlers before.

    SIGHUP stays ignored where it is: that is what `nohup` asks for.
    """
    caught = [
        number
        for number in STOP_SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]
    return {number: signal.signal(number, handler) for number in caught}


def _interrupt(number: int, _frame: Any) -> None:
    """Stop here; what comes after is on its way out, as after a stop of training."""
    stop = StopSignals()
    stop.receive(number)
    _catch(stop._remember)
    raise Stopped(number)


def _leave(number: int) -> None:
    name = signal.Signals(number).name
    with contextlib.suppress(OSError):  # there may be nobody left to read it
        os.write(2, f"left at once, by {name} after an earlier request to stop\n".encode())
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
