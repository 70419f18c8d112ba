"""Checks that an experiment does not write where it reads."""

import os
from collections.abc import Mapping
from pathlib import Path

from distilcli.config.experiment import BaseExperiment
from distilcli.errors import ConfigError
from distilcli.files.paths import resolve_path
from distilcli.training.run_folder import RunFolder


def check_places(experiment: BaseExperiment) -> None:
    """Refuse an experiment that would write over, or into, a folder that it reads.

    Raises:
        ConfigError: naming both.
    """
    check_apart(folders_written(experiment), folders_read(experiment))


def check_apart(outputs: Mapping[str, str | Path], inputs: Mapping[str, str | Path]) -> None:
    """Refuse an output that is an input, or lies inside of one, whatever links lead there.

    Args:
        outputs: folders by what the user calls them.
        inputs: folders, or names of models on the hub, likewise.

    Raises:
        ConfigError: naming both.
    """
    for output_key, output in outputs.items():
        for input_key, name in inputs.items():
            if output_key == input_key or not _is_within(output, name):
                continue
            said = "" if input_key == str(name) else f"{input_key} "
            raise ConfigError(
                f"{output_key}: {output} would be written over or into {said}{name}, which is read",
                "Name another folder to write to.",
            )


def folders_written(experiment: BaseExperiment) -> dict[str, Path]:
    """The folders that an experiment's commands write, by the keys that say where."""
    run = RunFolder(experiment.run_folder)
    outputs = {f"output_dir, name ({run.root.name})": run.root}
    for folder in (run.initial_student, run.student, run.checkpoints, run.trace.parent):
        outputs[f"output_dir, name ({run.root.name}/{folder.name})"] = folder
    shared = experiment.shared_folders()
    return outputs | {key: Path(path) for key, path in shared.items()}


def folders_read(experiment: BaseExperiment) -> dict[str, str | Path]:
    """The folders and models that an experiment reads, by their keys."""
    inputs: dict[str, str | Path] = {}
    if experiment.teacher is not None:
        teachers = experiment.teacher.by_key.items()
        inputs |= {f"{key}.model": one.model for key, one in teachers}
    student = experiment.student
    if student.named_model is not None:
        inputs[f"student.{student.source_key}"] = student.named_model
    return inputs | experiment.data_folders() | experiment.shared_folders()


def _is_within(output: str | Path, name: str | Path) -> bool:
    """Whether a folder is another one or lies in it, there or not; also by a hub's name for it."""
    inner, outer = (Path(os.path.realpath(resolve_path(str(path)))) for path in (output, name))
    if not outer.exists():
        return outer in (inner, *inner.parents)
    # By what the file system knows them by: a folder may be mounted in two places.
    status = outer.stat()
    return any(
        os.path.samestat(status, folder.stat())
        for folder in (inner, *inner.parents)
        if folder.exists()
    )
