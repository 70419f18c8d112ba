"""Training state on disk: written aside, digested, renamed; verified when read; rotated.

A checkpoint is a folder `step-00001000` of safetensors files and `checkpoint.json`, which holds
the state and the SHA-256 of every file. A folder under that name is whole: it gets its name by a
rename after everything in it has reached the disk.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distilcli.errors import RunFolderError, WriteError
from distilcli.json_text import to_json

_STATE_FILE = "checkpoint.json"
_ASIDE_PREFIX = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        step: optimiser steps done.
        state: what was passed to `save`.
        folder: where it lies.
    """

    step: int
    state: dict[str, Any]
    folder: Path

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under `name`, on the CPU."""
        return load_file(self.folder / f"{name}.safetensors")


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"step-{step:08d}"


def save(
    root: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]
) -> Path:
    """Write a checkpoint; at no instant does a half one lie under its final name.

    Args:
        root: the run's `checkpoints` folder.
        step: optimiser steps done.
        tensors: file stem to tensors by name.
        state: JSON-serialisable rest of the training state.

    Raises:
        WriteError: it cannot be written (disk full, no permission); older ones are untouched.
    """
    final = checkpoint_folder(root, step)
    aside = root / f"{_ASIDE_PREFIX}{final.name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        digests = {}
        for name, named_tensors in tensors.items():
            path = aside / f"{name}.safetensors"
            save_file({key: t.detach().contiguous() for key, t in named_tensors.items()}, path)
            _flush_to_disk(path)
            digests[path.name] = _sha256(path)
        record = {"step": step, "state": state, "sha256": digests}
        (aside / _STATE_FILE).write_text(to_json(record, indent=1) + "\n", encoding="utf-8")
        _flush_to_disk(aside / _STATE_FILE)
        _flush_to_disk(aside)
        if final.exists():
            _remove(final)
        aside.rename(final)
        _flush_to_disk(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise WriteError(
            f"{final}: the checkpoint cannot be written ({error})",
            "Free disk space or mend the permissions, then resume; older checkpoints are intact.",
        ) from error
    return final


def load_latest(root: Path, on_warning: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are passed over with a warning.

    Raises:
        RunFolderError: there are checkpoints, and every one is damaged.
    """
    folders = sorted(root.glob("step-*"), reverse=True)
    for folder in folders:
        try:
            return load(folder)
        except RunFolderError as error:
            on_warning(f"{error.message}; trying the one before")
    if folders:
        raise RunFolderError(
            f"{root}: every checkpoint is damaged",
            "Restore one, or start again with --force (which removes them).",
        )
    return None


def load(folder: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        RunFolderError: a file is missing or differs from its digest.
    """
    try:
        record = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
        step, state, digests = record["step"], record["state"], record["sha256"]
        for name, digest in digests.items():
            if _sha256(folder / name) != digest:
                raise RunFolderError(f"{folder / name}: damaged (its SHA-256 differs)")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder}: not a whole checkpoint ({error})") from error
    return Checkpoint(step, state, folder)


def rotate(root: Path, step: int, keep: int, best_step: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one, and what kills left behind.

    Args:
        root: the run's `checkpoints` folder.
        step: of the newest checkpoint. Those of later steps are no newer: they are damaged ones
            that a resume passed over, and must not push out what it has written since.
        keep: how many to keep.
        best_step: step of the one that is kept besides.
    """
    folders = sorted(root.glob("step-*"))
    newest = checkpoint_folder(root, step)
    spared = set([folder for folder in folders if folder <= newest][-keep:])
    if best_step is not None:
        spared.add(checkpoint_folder(root, best_step))
    for leftover in root.glob(f"{_ASIDE_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in folders:
        if folder not in spared:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a checkpoint; renamed first, so that no kill leaves half of it under its name."""
    aside = folder.with_name(f"{_ASIDE_PREFIX}old-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
