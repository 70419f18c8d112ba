"""Where `distilcli eval` writes its results.json, and that what was measured is shown first."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distilcli import __version__
from distilcli.cli.console import Console
from distilcli.config.experiment import BaseExperiment
from distilcli.errors import RunFolderError
from distilcli.files.atomic import recover_all
from distilcli.training.folder_checks import check_apart, folders_read
from distilcli.training.results_file import check_results, write_results
from distilcli.training.run_folder import RunFolder


def settle_runs(names: Sequence[str]) -> None:
    """Repair what a killed run left half replaced in the run folders that are named.

    Args:
        names: folders of runs, folders in them, or names of models.
    """
    for name in names:
        if (run := run_of(name)) is not None:
            recover_all(run.root)


def results_folder(
    names: Sequence[str], output: Path | None, experiment: BaseExperiment, is_other_data: bool
) -> Path | None:
    """Where results go, checked before hours are spent on them.

    That is the first run that is named on the command line, where it lies now: its experiment.yaml
    may name the folder that it was moved or copied from.

    Args:
        names: folders of runs, folders in them, or names of models.
        output: wins over all.
        experiment: whose run folder it is where no run is named.
        is_other_data: what is measured on is not the experiment's: such results do not take the
            place of the run's own, and go nowhere but to `output`.

    Returns:
        None: results are shown, and not written.

    Raises:
        RunFolderError: results cannot be written there.
    """
    if is_other_data and output is None:
        return None
    runs = (run.root for run in map(run_of, names) if run is not None)
    if output is not None:
        check_apart({"--output": output}, _models(names) | folders_read(experiment))
    folder = output or next(runs, experiment.run_folder)
    check_results(folder)
    return folder


def show_and_write(
    record: dict[str, Any], folder: Path | None, show: Callable[[], None], console: Console
) -> dict[str, Any]:
    """Show what was measured, then write it to results.json; the record with the file's path.

    Without a folder it is shown alone.

    Raises:
        RunFolderError: it cannot be written; everything is shown by then.
    """
    record = {"distilcli": __version__, **record}
    show()
    if folder is None:
        return {**record, "results": None}
    try:
        target = write_results(folder, record)
    except RunFolderError as error:
        console.result(record | error.record())
        raise
    console.say(f"written: {target}")
    return {**record, "results": str(target)}


def _models(names: Sequence[str]) -> dict[str, str | Path]:
    """The models that are named, and the students of the runs that are."""
    models: dict[str, str | Path] = {}
    for name in names:
        run = RunFolder(Path(name))
        if run.experiment.exists():
            models |= {str(one): one for one in (run.initial_student, run.student)}
        else:
            models[name] = name
    return models


def run_of(name: str) -> RunFolder | None:
    """The run that a folder is, or that it lies in; None for any other model."""
    candidates = (RunFolder(Path(name)), RunFolder(Path(name).absolute().parent))
    return next((run for run in candidates if run.experiment.exists()), None)
