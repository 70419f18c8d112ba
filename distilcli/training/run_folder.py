"""The folder of one run: what may be written where, and what a resume may change.

runs/NAME/  experiment.yaml  environment.json  identity.json  metrics.jsonl  checkpoints/
            initial-student/  student/  results.json  scores.json  profile/  .lock
            stages/1-NAME/, ...: of a run of several stages, a folder like this one for each
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distilcli.config.experiment import BaseExperiment
from distilcli.config.reading import dump
from distilcli.config.renamed import with_new_names
from distilcli.config.yaml_tree import read_yaml
from distilcli.distillation.identity import Identity, from_tree, to_tree
from distilcli.errors import ConfigError, RunFolderError, WriteError
from distilcli.files.atomic import recover_all, remove_folder, unwritten, write_atomically
from distilcli.files.json_text import parse_json, to_json
from distilcli.files.marks import FIGURES, is_report, refuse_foreign
from distilcli.training import checkpoints
from distilcli.training.environment import describe_environment
from distilcli.training.run_lock import locked_run

# Keys that may differ at a resume: they change the partition or the cadence, not the training.
_FREE_KEYS = frozenset(
    {
        "teacher.cache",
        "teacher.offload",
        "train.tokens_per_micro_batch",
        "train.compile",
        "train.num_workers",
        "train.log_every",
        "train.save_every",
        "train.keep_checkpoints",
        "train.timeout_seconds",
        "train.trackers",
        "card.language",
        "card.license",
        "card.datasets",
        "train.upload_student",
        "output_dir",
    }
)


class RunFolder:
    """Paths and records of one run.

    Args:
        root: the run folder; it need not exist.
        also_free: keys that may differ at a resume of this run, beside those that always may.
    """

    def __init__(self, root: Path, also_free: frozenset[str] = frozenset()) -> None:
        self.root = root
        self._free_keys = _FREE_KEYS | also_free
        self.checkpoints = root / "checkpoints"
        self.metrics = root / "metrics.jsonl"
        self.initial_student = root / "initial-student"
        self.student = root / "student"
        self.stages = root / "stages"
        self.experiment = root / "experiment.yaml"
        self.environment = root / "environment.json"
        self.identity = root / "identity.json"
        self.results = root / "results.json"
        self.scores = root / "scores.json"
        self.reports = (root / "report.html", root / "report.md")
        self.report_figures = root / "report-figures"
        self.trackers = root / "trackers.json"

    @property
    def trace(self) -> Path:
        """Where the next trace goes: none that is there is replaced."""
        names = (f"trace-{number}.json.gz" for number in itertools.count(1))
        return next(path for name in names if not (path := self.root / "profile" / name).exists())

    @property
    def has_run(self) -> bool:
        """Whether training has begun here, or in a stage of this run."""
        own = (self.metrics, self.checkpoints, self.student)
        return any(path.exists() for path in own) or any(
            stage.has_run for stage in self.stage_folders()
        )

    def stage_folders(self) -> list["RunFolder"]:
        """The folders of its stages that are there, in no order that counts."""
        if not self.stages.is_dir():
            return []
        return [RunFolder(path) for path in sorted(self.stages.iterdir()) if path.is_dir()]

    def check(self, experiment: BaseExperiment, *, resume: bool, force: bool) -> None:
        """Refuse a folder that another run, or another experiment, already uses.

        Raises:
            RunFolderError: training has begun here and neither `resume` nor `force` is given, or
                `resume` is and the experiment differs where it must not; or something that this
                tool did not write would be replaced or, with `force`, removed.
        """
        if not self.has_run or force:
            self._refuse_foreign(force)
            return
        if not resume:
            raise RunFolderError(
                f"{self.root}: this run folder exists",
                "Go on with --resume, start again with --force, or choose another name=...",
            )
        changed = self._changed_keys(experiment)
        if changed:
            raise RunFolderError(
                f"{self.root}: its checkpoints are of another experiment; "
                f"these keys differ: {', '.join(changed)}",
                "Resume with the same experiment, or choose another name=...",
            )

    @contextmanager
    def locked(self, patience_seconds: float, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Make the folder and keep other runs out of it during the block.

        What a killed run left half written is cleared. A folder of a run in which nothing can be
        written is entered too, for a finished run needs no writing.

        Args:
            patience_seconds: how long to wait for another process.
            on_wait: told that another process is waited for.

        Raises:
            RunFolderError: another process trains there, or the folder cannot be made.
        """
        with locked_run(self.root, patience_seconds, on_wait, may_be_read_only=self.has_run):
            for folder in (self.root, self.checkpoints):
                recover_all(folder)
            yield

    def begin(self, experiment: BaseExperiment, *, force: bool) -> None:
        """Write the resolved experiment and the environment; with `force`, remove what ran here.

        Raises:
            RunFolderError: the folder cannot be written, or see `check`.
        """
        self.begin_with(dump(experiment), force=force)

    def begin_with(self, text: str, *, force: bool, kept_stage: Path | None = None) -> None:
        """`begin`, with what experiment.yaml shall hold, and a stage that is not removed here."""
        self._refuse_foreign(force)
        with self._beginning():
            self.root.mkdir(parents=True, exist_ok=True)
            if force:
                self._remove_run(kept_stage)
            # First: it is the mark of a run folder.
            write_atomically(self.environment, to_json(describe_environment(), indent=1) + "\n")
            write_atomically(self.experiment, text)

    def write_experiment(self, text: str) -> None:
        """Write what experiment.yaml shall hold, unless it does already.

        Raises:
            WriteError: it cannot be written.
        """
        with suppress(OSError, UnicodeDecodeError):
            if self.experiment.read_text(encoding="utf-8") == text:
                return
        with self._writing(self.experiment):
            write_atomically(self.experiment, text)

    def _remove_run(self, kept_stage: Path | None = None) -> None:
        # The last one first: what a kill leaves is then the beginning of a run.
        for stage in reversed(self.stage_folders()):
            if stage.root == kept_stage:
                continue
            with stage.locked(0.0, lambda _: None):
                stage._remove_run()
                if is_marked(stage.environment):
                    for path in (stage.experiment, stage.environment, stage.root / ".lock"):
                        path.unlink(missing_ok=True)
            with suppress(OSError):
                stage.root.rmdir()  # raises where someone has put something else there
        with suppress(OSError):
            self.stages.rmdir()
        checkpoints.remove_all(self.checkpoints)
        for folder in (self.student, self.initial_student):
            if folder.exists():
                remove_folder(folder)
        # What was measured here was measured on the student that goes.
        files = [self.metrics, self.identity, self.trackers]
        files += [self.results] if is_marked(self.results) else []
        files += [self.scores] if _holds_scores(self.scores) else []
        files += [path for path in self.reports if is_report(path)]
        for file in files:
            file.unlink(missing_ok=True)
        with suppress(RunFolderError):  # raised where something else lies there, which stays
            refuse_foreign(self.report_figures, FIGURES)
            if self.report_figures.exists():
                remove_folder(self.report_figures)

    def _refuse_foreign(self, force: bool) -> None:
        """Refuse to replace, or with `force` to remove, what this tool did not write."""
        if not is_marked(self.environment):
            for path in (self.experiment, self.environment, self.metrics, self.identity):
                if path.exists():
                    raise RunFolderError(
                        f"{path}: not replaced, because nothing here says that distilcli wrote it",
                        "Choose another output_dir=... or name=..., or move that file elsewhere.",
                    )
        if force:
            for stage in self.stage_folders():
                stage._refuse_foreign(force)
            for folder in checkpoints.checkpoint_folders(self.checkpoints):
                checkpoints.refuse_foreign(folder)
            for folder in (self.student, self.initial_student):
                refuse_foreign(folder)

    def write_identity(self, identity: Identity) -> None:
        """Write down what the run that begins here depends on.

        Raises:
            WriteError: it cannot be written.
        """
        with self._writing(self.identity):
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self.identity, to_json(to_tree(identity), indent=1) + "\n")

    def read_identity(self) -> Identity | None:
        """What `write_identity` wrote; None if nothing did, or if it cannot be read."""
        try:
            return from_tree(parse_json(self.identity.read_bytes()))
        except (OSError, ValueError, RecursionError):
            return None  # no checkpoint depends on it: those have their own

    def append_metrics(self, records: Iterable[dict[str, Any]]) -> None:
        """Add one line for each record to `metrics.jsonl`.

        Raises:
            WriteError: it cannot be written.
        """
        with self._writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.writelines(to_json(record) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())

    def last_record(self) -> int:
        """The last step that `metrics.jsonl` has a record of; 0 if it has none."""
        try:
            lines = self.metrics.read_bytes().splitlines()
        except OSError:
            return 0
        for line in reversed(lines):
            with suppress(ValueError, TypeError, LookupError):  # cut short by a kill, or damaged
                return int(parse_json(line)["step"])
        return 0

    def truncate_metrics(self, step: int) -> None:
        """Drop the records of steps after `step`, which a resume will do again.

        Raises:
            WriteError: they cannot be written.
        """
        if not self.metrics.exists():
            return
        kept = []
        before = self.metrics.read_bytes()
        for line in before.splitlines():
            try:
                if parse_json(line)["step"] <= step:
                    kept.append(line.decode() + "\n")
            except (ValueError, TypeError, LookupError):
                continue  # cut short by a kill, or damaged since: one record less
        if "".join(kept).encode() != before:  # what a finished run needs is not to write
            with self._writing(self.metrics):
                write_atomically(self.metrics, "".join(kept))

    @contextmanager
    def _beginning(self) -> Iterator[None]:
        """Before anything is done a folder that cannot be written is a wrong choice of folder."""
        try:
            yield
        except OSError as error:
            raise unwritten(
                f"{self.root}:", error, RunFolderError, "Choose another output_dir=..."
            ) from error

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteError(
                f"{path}: cannot be written ({error})",
                "Free disk space or fix the permissions, then go on with --resume.",
            ) from error

    def _changed_keys(self, experiment: BaseExperiment) -> list[str]:
        try:
            before = read_yaml(self.experiment)
        except ConfigError as error:
            raise RunFolderError(error.message, "Choose another name=...") from error
        old = dict(leaves(_as_of_now(before, type(experiment)), ""))
        new = dict(leaves(experiment.model_dump(mode="json"), ""))
        differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        return sorted(differing - self._free_keys)


def _as_of_now(tree: dict[str, Any], kind: type[BaseExperiment]) -> dict[str, Any]:
    """The settings that a run wrote down, as this version writes them.

    An earlier version may have called a key otherwise. A key that it did not have yet is at its
    default, at which nothing differs from what that version did.
    """
    renamed = with_new_names(tree, kind)
    try:
        return kind.model_validate(renamed).model_dump(mode="json")
    except ValidationError:
        return renamed  # of another kind, or edited: what differs will be named


def leaves(tree: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    """What stands at the ends of a tree of settings, each with its dotted key after `prefix`."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def is_marked(path: Path) -> bool:
    """Whether a JSON file says that this tool wrote it."""
    try:
        record = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and "distilcli" in record


def _holds_scores(path: Path) -> bool:
    """Whether a JSON file holds scores as a suite writes them beside a student, and no more."""
    try:
        record = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and all(isinstance(v, float) for v in record.values())
