"""What a run tells its trackers: settings, metrics of each step, and what it ends with.

Only the main process tells them, and none of them can end a training: one that fails is told
nothing more.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from distilcli.config.experiment import BaseExperiment
from distilcli.errors import extra, printable
from distilcli.files.atomic import write_atomically
from distilcli.files.json_text import parse_json, to_json
from distilcli.training.run_folder import RunFolder, leaves
from distilcli.training.tracker_kinds import TRACKERS, TrackedRun


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        ConfigError: with the extra that brings it.
    """
    for name in names:
        with extra(TRACKERS[name].extra, f"train.trackers: {name} is not installed"):
            import_module(name)


class Trackers:
    """The trackers of one run, or of none on processes that do not report.

    Args:
        experiment: what is run.
        reports: whether this process reports; one does.
        on_warning: told of a tracker that failed.
    """

    def __init__(
        self, experiment: BaseExperiment, reports: bool, on_warning: Callable[[str], None]
    ) -> None:
        self._names = list(dict.fromkeys(experiment.train.trackers)) if reports else []
        self._experiment = experiment
        self._folder = RunFolder(experiment.run_folder)
        self._on_warning = on_warning
        self._runs: dict[str, TrackedRun] = {}
        self._continued: set[str] = set()
        # Before a resume drops the records that it makes again, which trackers have already.
        self._recorded = self._folder.last_record() if self._names else 0

    def start(self, project: str, *, resumed: bool) -> None:
        """Begin a run in each tracker, or go on in the one that was begun there.

        Args:
            project: what trackers put this run under.
            resumed: whether the training goes on.
        """
        if not self._names:
            return
        known = self._read() if resumed else {}
        for name in self._names:
            with self._telling(name):
                run = TRACKERS[name](project, self._folder.root, known.get(name))
                self._runs[name] = run
                if name in known:
                    self._continued.add(name)
                if name not in known or not run.keeps_settings:
                    run.settings(flat_settings(self._experiment))
        with self._telling(*self._names):
            keys = {name: run.key for name, run in self._runs.items()}
            write_atomically(self._folder.trackers, to_json(known | keys, indent=1) + "\n")

    def log(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Report the records of some steps, but for those that a tracker has already."""
        for name, run in list(self._runs.items()):
            with self._telling(name):
                for record in records:
                    values = dict(record)
                    step = values.pop("step")
                    if name not in self._continued or step > self._recorded:
                        run.log(values, step)

    def end(self, figures: Mapping[str, float], step: int, student: Path) -> None:
        """Report what the run came to.

        Args:
            figures: what is said of the student, by its name.
            step: the last one.
            student: its folder.
        """
        for name, run in list(self._runs.items()):
            with self._telling(name):
                run.table(["figure", "value"], list(map(list, figures.items())), step)
                run.student(student, self._experiment.train.upload_student)

    def close(self) -> None:
        """End the run in each tracker; more calls do nothing."""
        for name, run in list(self._runs.items()):
            with self._telling(name):
                run.finish()
        self._runs.clear()

    def _read(self) -> dict[str, str]:
        """What each tracker knows the run as; nothing where that cannot be read."""
        try:
            found = parse_json(self._folder.trackers.read_bytes())
        except (OSError, ValueError):
            return {}
        pairs = found.items() if isinstance(found, dict) else ()
        return {name: key for name, key in pairs if isinstance(key, str)}

    @contextlib.contextmanager
    def _telling(self, *names: str) -> Iterator[None]:
        """Leave out trackers from here on if the block fails; nothing goes to stdout."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # of whatever kind: trackers have their own
            for name in names:
                self._runs.pop(name, None)
            said = printable(" ".join(str(error).split()))
            self._on_warning(
                f"train.trackers: {', '.join(names)} failed, and nothing more of this run is "
                f"reported there ({type(error).__name__}: {said})"
            )


def flat_settings(experiment: BaseExperiment) -> dict[str, str | int | float | bool]:
    """Every setting by its dotted key; lists as JSON, and `null` for what is not set."""
    tree = experiment.model_dump(mode="json")
    return {
        key: value if isinstance(value, str | int | float) else to_json(value)
        for key, value in leaves(tree, "")
    }
