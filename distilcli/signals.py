"""Signals that ask a run to stop: remembered until the step boundary.

So is the death of torchrun: its processes would otherwise train on, unknown to anyone.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# SIGUSR1 is what a scheduler may send ahead of the time limit.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

# Noted when the process starts: later, the launcher may be gone already.
_LAUNCHER = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
_SECONDS_BETWEEN_LOOKS = 0.5
# One request may come twice, from a scheduler that tells every process and from torchrun.
_SECONDS_OF_ONE_REQUEST = 2.0


class StopSignals:
    """Remembers a signal that asks to stop until the step boundary.

    A second one, more than two seconds later, ends the process at once.

    Attributes:
        received: the signal; 0 before one has come.
    """

    def __init__(self) -> None:
        self.received = 0
        self._received_at = 0.0

    @contextmanager
    def listening(self) -> Iterator["StopSignals"]:
        """Catch the signals inside the block.

        Under torchrun SIGTERM stays ignored after a stop: as soon as one process has ended torchrun
        sends it to the others, which are on their way out and have something to say.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self  # only the main thread may set handlers
            return
        if _LAUNCHER is not None:
            threading.Thread(target=self._watch_launcher, daemon=True).start()
        before = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            if self.received and _LAUNCHER is not None:
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
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
