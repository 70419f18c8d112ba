"""Checkpoints written while training goes on."""

import threading
from pathlib import Path
from typing import Any

from torch import Tensor

from distilcli.errors import WriteError
from distilcli.training import checkpoints


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread of its own, from a copy in host memory.

    Training waits for the copy, and for the write before should that not have ended. What a write
    runs into is raised by the next call.

    Args:
        root: the run's `checkpoints` folder.
        keep: how many checkpoints to keep besides the best one.
    """

    def __init__(self, root: Path, keep: int) -> None:
        self.root = root
        self.keep = keep
        self._thread: threading.Thread | None = None
        self._error: WriteError | None = None

    def write(
        self,
        step: int,
        tensors: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        best_step: int | None,
    ) -> None:
        """Copy the state and begin to write it; then older checkpoints are rotated.

        Args:
            step: optimiser steps done.
            tensors: file stem to tensors by name; they may change once this returns.
            state: JSON-serialisable rest of the training state.
            best_step: step of the checkpoint that rotation spares.

        Raises:
            WriteError: the write before has failed.
        """
        self.wait()
        copies = {
            stem: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
            for stem, named in tensors.items()
        }

        def save_and_rotate() -> None:
            try:
                checkpoints.save(self.root, step, copies, state)
                checkpoints.rotate(self.root, step, self.keep, best_step)
            except WriteError as error:
                self._error = error
            except OSError as error:  # while rotating
                self._error = WriteError(
                    f"{self.root}: older checkpoints cannot be removed ({error})",
                    "Free disk space or fix the permissions, then resume; nothing is lost.",
                )

        self._thread = threading.Thread(target=save_and_rotate, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until the last checkpoint is whole on disk.

        Raises:
            WriteError: it could not be written; older ones are untouched.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
