"""Which page is made of the folders that are named."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilcli.errors import ConfigError
from distilcli.files.json_text import parse_json
from distilcli.files.shown_paths import shown_tree
from distilcli.report.ablation_page import page_of_ablation
from distilcli.report.blocks import Page
from distilcli.report.comparison import page_of_runs
from distilcli.report.export_owners import with_exports
from distilcli.report.export_page import page_of_exports
from distilcli.report.exports import is_export, read_export
from distilcli.report.run_facts import is_run, read_run
from distilcli.report.run_page import page_of_run
from distilcli.report.suite_page import page_of_suite

_RESULTS = "results.json"


def page_of(folders: Sequence[Path], foot: list[str]) -> Page:
    """The page about runs, exports, a suite or an ablation.

    Args:
        folders: of runs and of exports of their students; of exports alone; or one of a suite or an
            ablation, finished or not.
        foot: what it was made of, and by what.

    Raises:
        ConfigError: a folder is neither a run, an export, a suite nor an ablation; an export is
            that of no run that is given; or what was written down cannot be read.
    """
    check_folders(folders)
    exports = [read_export(folder) for folder in folders if is_export(folder)]
    others = [folder for folder in folders if not is_export(folder)]
    if not others:
        return page_of_exports(exports, foot)
    if not is_run(others[0]):
        return _page_of_many(others[0], foot)
    runs = with_exports([read_run(folder) for folder in others], exports)
    return page_of_run(runs[0], foot) if len(runs) == 1 else page_of_runs(runs, foot)


def check_folders(folders: Sequence[Path]) -> None:
    """Make sure that folders are those of runs and exports, or one is of a suite or an ablation.

    Raises:
        ConfigError: naming the first that is not, or that is named twice.
    """
    for place, folder in enumerate(folders):
        if not folder.exists():
            raise ConfigError(
                f"{folder}: there is no such folder", "Name a run folder, such as runs/NAME."
            )
        if folder.resolve() in [other.resolve() for other in folders[:place]]:
            raise ConfigError(f"{folder} is named twice", "Name each folder once.")
        is_suite = _record(folder) is not None
        if is_run(folder) or is_export(folder):
            continue
        if len(folders) == 1 and (is_suite or _runs_in(folder)):
            continue
        if is_suite:
            raise ConfigError(
                f"{folder}: is the folder of a suite, which has a report of its own",
                "Name it alone, or name run folders.",
            )
        raise ConfigError(
            f"{folder}: is not the folder of a run, an export, a suite or an ablation",
            "Name a folder with experiment.yaml or export.json in it, or one whose results.json is "
            "of a suite.",
        )


def _page_of_many(folder: Path, foot: list[str]) -> Page:
    """The page about a suite or an ablation; before its end that about its runs."""
    record = _record(folder)
    if record is None:
        return page_of_runs(with_exports([read_run(run) for run in _runs_in(folder)], []), foot)
    make = page_of_ablation if "ablation" in record else page_of_suite
    try:
        return make(shown_tree(record), foot)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{folder / _RESULTS}: is not as distilcli suite writes it ({error!r})",
            "Start the suite again: what is done is not run again, and its results are written.",
        ) from error


def _record(folder: Path) -> Mapping[str, Any] | None:
    """What results.json of a suite or an ablation holds; None where there is none."""
    try:
        record = parse_json((folder / _RESULTS).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    is_suite = {"suite", "tasks"} <= record.keys() or {"ablation", "changes"} <= record.keys()
    return record if is_suite else None


def _runs_in(folder: Path) -> list[Path]:
    """The runs of a suite or an ablation that has no results yet: in its folder or one below."""
    found = [path.parent for path in folder.glob("*/experiment.yaml")]
    found += [path.parent for path in folder.glob("*/*/experiment.yaml")]
    return sorted(path for path in found if is_run(path))
