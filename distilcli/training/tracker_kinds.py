"""What each tracker of `train.trackers` needs beyond accelerate's interface, one class each.

Runs, settings and metrics go through accelerate's own class of the tracker. It has no interface for
a run that goes on, for tables and for files.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from accelerate.tracking import (
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)

# Of the table that a run ends with: in trackers that name tables and files.
_FINAL = "final"


class TrackedRun(ABC):
    """One run in one tracker.

    Args:
        project: what the tracker puts this run and others like it under.
        folder: the run folder.
        known_as: what `key` gave when the run began; None for one that begins.

    Attributes:
        extra: of this package, which brings the tracker.
        keeps_settings: whether it still has the settings of a run that goes on.
    """

    extra: ClassVar[str]
    keeps_settings: ClassVar[bool] = True

    def __init__(self, project: str, folder: Path, known_as: str | None) -> None:
        self.project = project
        self.tracker = self.make(folder, known_as)
        self.tracker.start()

    @abstractmethod
    def make(self, folder: Path, known_as: str | None) -> GeneralTracker:
        """Accelerate's tracker, not yet started."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What a run that goes on finds this one by."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """Keep the settings, each a text, a number or a truth value."""
        self.tracker.store_init_configuration(dict(values))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep what a step measured."""
        self.tracker.log(dict(values), step=step)

    @abstractmethod
    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Keep the table that the run ends with."""

    @abstractmethod
    def student(self, folder: Path, upload: bool) -> None:
        """Keep where the student lies, or the student itself with `upload`."""

    def finish(self) -> None:
        """Write out what is held, and end the run."""
        self.tracker.finish()

    @property
    def _student_name(self) -> str:
        return f"{self.project}-student"


class TensorBoardRun(TrackedRun):
    """Event files below the run folder; they are read together, so that a run just goes on."""

    extra = "track"

    def make(self, folder: Path, known_as: str | None) -> GeneralTracker:
        return TensorBoardTracker(self.project, str(folder))

    @property
    def key(self) -> str:
        return self.project

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
        self.tracker.tracker.add_text(_FINAL, text, global_step=step)

    def student(self, folder: Path, upload: bool) -> None:
        """Keep where it lies: TensorBoard has no place for files."""
        self.tracker.tracker.add_text("student", f"`{folder.resolve()}`")


class WandbRun(TrackedRun):
    """A run of Weights & Biases, and the student as an artefact of the type `model`."""

    extra = "wandb"

    def make(self, folder: Path, known_as: str | None) -> GeneralTracker:
        self._wandb = import_module("wandb")
        settings: dict[str, Any] = {}
        if known_as is not None:
            settings |= {"id": known_as, "resume": "allow"}
        if "WANDB_CONSOLE" not in os.environ:  # what is shown here is bars, mostly
            settings["settings"] = self._wandb.Settings(console="off")
        # accelerate's argument takes the place of what the environment says
        project = os.environ.get("WANDB_PROJECT") or self.project
        name = os.environ.get("WANDB_NAME") or self.project
        return WandBTracker(project, name=name, **settings)

    @property
    def key(self) -> str:
        return str(self.tracker.run.id)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        data = [list(row) for row in rows]
        self.tracker.log_table(_FINAL, columns=list(columns), data=data, step=step)

    def student(self, folder: Path, upload: bool) -> None:
        artefact = self._wandb.Artifact(self._student_name, type="model")
        if upload:
            artefact.add_dir(str(folder))
        else:
            artefact.add_reference(folder.resolve().as_uri())
        self.tracker.run.log_artifact(artefact)


class MlflowRun(TrackedRun):
    """A run of MLflow. Its files are copies, so that where the student lies is a tag."""

    extra = "mlflow"

    def make(self, folder: Path, known_as: str | None) -> GeneralTracker:
        self._mlflow = import_module("mlflow")
        return MLflowTracker(self.project, run_id=known_as, run_name=self.project)

    @property
    def key(self) -> str:
        return str(self.tracker.tracker.info.run_id)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        table = {"columns": list(columns), "data": [list(row) for row in rows]}
        self._mlflow.log_dict(table, f"{_FINAL}.json")

    def student(self, folder: Path, upload: bool) -> None:
        self._mlflow.set_tag("student", str(folder.resolve()))
        if upload:
            self.tracker.log_artifacts(str(folder), "student")


class TrackioRun(TrackedRun):
    """A run of Trackio, and the student as an artefact of the type `model`."""

    extra = "trackio"
    keeps_settings = False  # what goes on with other settings has those alone

    def make(self, folder: Path, known_as: str | None) -> GeneralTracker:
        self._trackio = import_module("trackio")
        if known_as is None:
            return TrackioTracker(self.project)
        return TrackioTracker(self.project, name=known_as, resume="allow")

    @property
    def key(self) -> str:
        return str(self.tracker.run.name)  # unique, for Trackio makes it up

    def settings(self, values: Mapping[str, Any]) -> None:
        self.tracker.run.config.update(values)  # accelerate's adds an argument that wandb has

    def finish(self) -> None:
        self._trackio.finish()  # which, unlike the run's own, does not finish it again at exit

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        table = self._trackio.Table(columns=list(columns), data=[list(row) for row in rows])
        self.tracker.run.log({_FINAL: table}, step=step)

    def student(self, folder: Path, upload: bool) -> None:
        artefact = self._trackio.Artifact(self._student_name, type="model")
        if upload:
            artefact.add_dir(folder)
        else:
            artefact.add_reference(folder.resolve().as_uri())
        self.tracker.run.log_artifact(artefact)


TRACKERS: dict[str, type[TrackedRun]] = {
    "tensorboard": TensorBoardRun,
    "wandb": WandbRun,
    "mlflow": MlflowRun,
    "trackio": TrackioRun,
}
