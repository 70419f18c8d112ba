"""Training state on disk: written aside, digested, renamed; verified when read; rotated.

A checkpoint is a folder `step-00001000` of safetensors files and `checkpoint.json`, which holds
the state, the SHA-256 of every file, and its own. A folder under that name is whole: it gets its
name by a rename after everything in it has reached the disk. Other folders, and folders that hold
anything else, are never touched.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distilcli import __version__
from distilcli.errors import RunFolderError, WriteError
from distilcli.files.atomic import recover_all, remove_folder, replacing
from distilcli.files.digests import sha256_of_file
from distilcli.files.json_text import parse_json, to_json

_STATE_FILE = "checkpoint.json"
_NAME = re.compile(r"step-[0-9]{8,}")
# What a checkpoint may hold whose record cannot be read any more.
_TENSOR_FILES = frozenset(f"{name}.safetensors" for name in ("student", "optimizer", "projections"))
# Format 1 has no `format` key, and its checkpoint.json has no digest. It is still read.
_FORMAT = 2


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
    try:
        with replacing(final) as new:
            refuse_foreign(final)
            new.mkdir()
            digests = {}
            for name, named_tensors in tensors.items():
                path = new / f"{name}.safetensors"
                save_file({key: t.detach().contiguous() for key, t in named_tensors.items()}, path)
                digests[path.name] = sha256_of_file(path)
            record = {"distilcli": __version__, "format": _FORMAT, "step": step}
            record |= {"state": state, "sha256": digests}
            record["record_sha256"] = _record_sha256(record)
            text = to_json(record, indent=1) + "\n"
            (new / _STATE_FILE).write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise WriteError(
            f"{final}: the checkpoint cannot be written ({error})",
            "Free disk space or fix the permissions, then resume; older checkpoints are intact.",
        ) from error
    return final


def checkpoint_folders(root: Path) -> list[Path]:
    """The folders that have the name of a checkpoint, oldest first."""
    return sorted(path for path in root.glob("step-*") if _NAME.fullmatch(path.name))


def foreign_entries(folder: Path) -> list[str]:
    """Names of what lies in a checkpoint's folder, or in its place, and is no part of one."""
    if folder.is_symlink() or not folder.is_dir():
        return [folder.name] if folder.is_symlink() or folder.exists() else []
    try:
        record = parse_json((folder / _STATE_FILE).read_bytes())
        own = set(record["sha256"])
        if checkpoint_folder(folder.parent, record["step"]) != folder:
            return [f"the checkpoint of step {record['step']}"]
    except (OSError, ValueError, KeyError, TypeError):
        own = set(_TENSOR_FILES)
    own.add(_STATE_FILE)
    return sorted(path.name for path in folder.iterdir() if path.name not in own or path.is_dir())


def refuse_foreign(folder: Path) -> None:
    """Refuse to replace or remove a checkpoint's folder in which there is something else.

    Raises:
        WriteError: naming what there is.
    """
    if foreign := foreign_entries(folder):
        raise WriteError(
            f"{folder}: holds what distilcli did not write: {', '.join(foreign)}",
            "Move that elsewhere; nothing was removed.",
        )


def load_latest(
    root: Path,
    on_warning: Callable[[str], None],
    check_state: Callable[[dict[str, Any]], object] = lambda _: None,
) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are passed over with a warning.

    Args:
        root: the run's `checkpoints` folder.
        on_warning: told of each that is passed over.
        check_state: raises RunFolderError at a state that it cannot read; such a one is damaged.

    Raises:
        RunFolderError: there are checkpoints, and every one is damaged.
    """
    folders = checkpoint_folders(root)
    for folder in reversed(folders):
        try:
            checkpoint = load(folder)
            try:
                check_state(checkpoint.state)
            except RunFolderError as error:
                raise RunFolderError(f"{folder / _STATE_FILE}: damaged ({error.message})") from None
            return checkpoint
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
        record = parse_json((folder / _STATE_FILE).read_bytes())
        _check_record(record, folder)
        step, state, digests = record["step"], record["state"], record["sha256"]
        for name, digest in digests.items():
            if sha256_of_file(folder / name) != digest:
                raise RunFolderError(f"{folder / name}: damaged (its SHA-256 differs)")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(f"{folder}: not a whole checkpoint ({error})") from error
    return Checkpoint(step, state, folder)


def _check_record(record: dict[str, Any], folder: Path) -> None:
    """Refuse a record that is not as it was written.

    Raises:
        RunFolderError: its digest differs, it is of another step, or of a newer format.
        KeyError, TypeError, ValueError: it is no record at all.
    """
    path = folder / _STATE_FILE
    if record.get("format", 1) not in (1, _FORMAT):
        raise RunFolderError(f"{path}: written by another version of distilcli")
    # One of format 1 has neither of these two; take one of them away, and it is damaged.
    if "format" in record or "record_sha256" in record:
        rest = {key: value for key, value in record.items() if key != "record_sha256"}
        if record["record_sha256"] != _record_sha256(rest):
            raise RunFolderError(f"{path}: damaged (its SHA-256 differs)")
    step, state = record["step"], record["state"]
    if checkpoint_folder(folder.parent, int(step)).name != folder.name:
        raise RunFolderError(f"{path}: damaged (it says step {step})")
    if not isinstance(state, dict) or not isinstance(record["sha256"], dict):
        raise TypeError("its state is no object")
    if state.get("step", step) != step:
        raise RunFolderError(f"{path}: damaged (its state says step {state['step']})")


def _record_sha256(record: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(record, sort_keys=True).encode()).hexdigest()


def rotate(root: Path, step: int, keep: int, best_step: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one, and what kills left behind.

    A folder in which there is anything else than a checkpoint stays.

    Args:
        root: the run's `checkpoints` folder.
        step: of the newest checkpoint. Those of later steps are no newer: they are damaged ones
            that a resume passed over, and must not push out what it has written since.
        keep: how many to keep.
        best_step: step of the one that is kept besides.
    """
    folders = checkpoint_folders(root)
    newest = checkpoint_folder(root, step)
    spared = set([folder for folder in folders if folder <= newest][-keep:])
    if best_step is not None:
        spared.add(checkpoint_folder(root, best_step))
    recover_all(root)
    for folder in folders:
        if folder not in spared and not foreign_entries(folder):
            remove_folder(folder)


def remove_all(root: Path) -> None:
    """Remove every checkpoint, and the folder if nothing else is in it.

    Raises:
        WriteError: something else lies in the folder of a checkpoint; nothing is removed then.
        OSError: they cannot be removed.
    """
    folders = checkpoint_folders(root)
    for folder in folders:
        refuse_foreign(folder)
    recover_all(root)
    for folder in folders:
        remove_folder(folder)
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()
