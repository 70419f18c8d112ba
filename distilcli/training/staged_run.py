"""The folder of a run of several stages: the folders of its stages, and the student of the last.

runs/NAME/                 experiment.yaml (all stages)  environment.json  student/  .lock
runs/NAME/stages/1-FIRST/  a run folder like any other, and so for each stage
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distilcli.config.stages import StagedExperiment, dump_stages
from distilcli.errors import RunFolderError, WriteError
from distilcli.files.atomic import recover_all, remove_folder, replacing, unwritten
from distilcli.files.marks import read_mark, refuse_foreign
from distilcli.training.run_folder import RunFolder

# It lies in the folder of the run, which may be moved; what it holds is compared by content.
_STUDENT_BEFORE = frozenset({"student.model"})


class StagedFolder:
    """Paths of a run of several stages.

    Args:
        staged: what is run.

    Attributes:
        run: the folder of the whole run.
        stages: the folder of each stage, in their order.
    """

    def __init__(self, staged: StagedExperiment) -> None:
        self.staged = staged
        self.run = RunFolder(staged.run_folder)
        self.stages = [
            RunFolder(stage.experiment.run_folder, _STUDENT_BEFORE if number else frozenset())
            for number, stage in enumerate(staged.stages)
        ]

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse a folder of another run, or stages that have begun with other settings.

        A stage in which nothing was trained yet may have changed, and stages may have come.

        Raises:
            RunFolderError: see `RunFolder.check`.
        """
        if force or not resume or not self.run.has_run:
            self.run.check(self.staged.stages[0].experiment, resume=False, force=force)
            return
        known = {folder.root.name for folder in self.stages}
        others = [
            folder.root
            for folder in self.run.stage_folders()
            if folder.has_run and folder.root.name not in known
        ]
        if others or self.run.metrics.exists() or self.run.checkpoints.exists():
            where = others[0] if others else self.run.root
            raise RunFolderError(
                f"{where}: trained by another experiment: "
                f"{'no stage has this number and name' if others else 'it had no stages'}",
                "Resume with the same experiment, or choose another name=...",
            )
        for folder, stage in zip(self.stages, self.staged.stages, strict=True):
            if folder.has_run:
                folder.check(stage.experiment, resume=True, force=False)

    @contextmanager
    def locked(self, patience_seconds: float, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Keep other runs out of the folder during the block; see `RunFolder.locked`."""
        with self.run.locked(patience_seconds, on_wait):
            for folder in self.stages:
                recover_all(folder.root)
            yield

    def begin(self, *, force: bool) -> None:
        """Write down what is run, before a stage is trained; with `force`, remove what ran here.

        The first stage stays until it begins. A run that goes on keeps what was written, but for
        stages that have changed or come since, and for a student that is not that of the last one.

        Raises:
            RunFolderError: the folder cannot be written, or see `RunFolder.check`.
            WriteError: what is run cannot be written down anew.
        """
        text = dump_stages(self.staged)
        if force or not self.run.has_run:
            self.run.begin_with(text, force=force, kept_stage=self.stages[0].root)
        else:
            self.run.write_experiment(text)
            if self.num_finished() < len(self.stages):
                self._withdraw_student()

    def num_finished(self) -> int:
        """How many of the first stages have trained their student."""
        finished = [(folder.student / "model.safetensors").exists() for folder in self.stages]
        return (*finished, False).index(False)

    def _withdraw_student(self) -> None:
        """Take away the student of the run while a stage before it is trained."""
        if not self.run.student.exists():
            return
        refuse_foreign(self.run.student)
        try:
            remove_folder(self.run.student)
        except OSError as error:
            raise unwritten(
                f"{self.run.student}:", error, RunFolderError, "Fix the permissions."
            ) from error

    def publish_student(self) -> None:
        """Make the student of the last stage that of the run, unless it is that already.

        Raises:
            RunFolderError: something else lies in its folder.
            WriteError: it cannot be written.
        """
        source, target = self.stages[-1].student, self.run.student
        mark = read_mark(source)
        if mark is not None and mark == read_mark(target):
            return
        try:
            with replacing(target) as new:
                refuse_foreign(target)
                shutil.copytree(source, new)
        except OSError as error:
            raise WriteError(
                f"{target}: the student cannot be written ({error})",
                "Free disk space or fix the permissions, then go on with --resume.",
            ) from error
