"""Training on a task, one kind of run: its rows, student, and teacher or its cached outputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from distilcli.batches.plan import Draws
from distilcli.config.experiment import BaseExperiment, TaskExperiment
from distilcli.distillation.identity import (
    Fingerprint,
    Identity,
    identity_of_model,
    identity_of_teachers,
    identity_of_tokenizer,
)
from distilcli.distillation.loss_modules import TaskDistillation
from distilcli.distillation.objective import Objective
from distilcli.distillation.other_teachers import called_teachers, load_other_finetuned
from distilcli.distillation.own_tokenizer import OwnOutputs, ReadingTeacher, identity_of_readers
from distilcli.distillation.row_teacher import RowTeacher
from distilcli.distillation.run_kind import Audience, Place, RunKind
from distilcli.distillation.task_parts import (
    TaskParts,
    assemble_task,
    open_task_of,
    task_tokenizer,
)
from distilcli.distillation.task_rows import (
    look_at_rows,
    refuse_asked_of_text,
    rows_of,
    tell_of_task,
    with_other_dev,
)
from distilcli.distillation.teacher_outputs import TeacherOutputs
from distilcli.distillation.teachers import ALONE, Ensemble, PlacedTeacher, Teacher, run_once
from distilcli.errors import ModelError
from distilcli.evaluation.asked import ALL_TEACHERS, TEACHER, Asked
from distilcli.evaluation.dev_examples import TaskScores, dev_scores, measured_scores
from distilcli.evaluation.result import Result
from distilcli.evaluation.task import compare_on_task
from distilcli.files.digests import array_digest
from distilcli.losses.table import TASK_TERMS, hidden_terms, inner_terms
from distilcli.models.padded_teacher import PaddedTeacher, TaskModel
from distilcli.models.task_models import load_finetuned, load_finetuned_teacher
from distilcli.tasks.augmentation import augment
from distilcli.tasks.inputs import TaskBatch, pack_samples
from distilcli.tasks.task import OpenTask


class TaskObjective(Objective):
    """Trains a student on a task, beside its teacher if there is one.

    With `teacher.cache` the teacher runs once over the training inputs, before the first step.

    Args:
        experiment: all settings.
        parts: task, tokenizer, teacher and student; the student is trained in place.
        accelerator: of the run.
        on_note: told what the teacher is doing.
        cache: false: the teacher runs in every step, whatever the experiment says.
    """

    module: TaskDistillation

    def __init__(
        self,
        experiment: TaskExperiment,
        parts: TaskParts,
        accelerator: Accelerator,
        on_note: Callable[[str], None] = lambda _: None,
        cache: bool = True,
    ) -> None:
        self.experiment = experiment
        self.task = parts.task
        self.tokenizer = parts.tokenizer
        self._inputs = parts.task.train
        if experiment.augmentation is not None:
            self._inputs = augment(
                self._inputs, experiment.augmentation, parts.tokenizer, experiment.seed
            )
        self._drawn = _draws_of_an_epoch(experiment, parts.task, self._inputs.num_samples)
        self.lengths = self._inputs.sample_lengths[self._drawn]
        self.num_unlabelled = int((~self._inputs.labelled())[self._drawn].sum())
        self.unknown_share = max(parts.task.unknown_shares.values())
        self.num_held_out = len(parts.task.dev)
        self._teacher, self._others = parts.teacher, parts.others
        teachers = self._make_teachers(accelerator, on_note, cache)
        first = teachers[0] if teachers else None
        ensemble = ALONE
        if experiment.teacher is not None:
            ensemble = Ensemble(teachers[1:], experiment.teacher.shares)
        self.module = TaskDistillation(
            parts.student, first, parts.task.outputs, experiment.loss, experiment.seed, ensemble
        )

    def _make_teachers(
        self, accelerator: Accelerator, on_note: Callable[[str], None], cache: bool
    ) -> list[Teacher]:
        """The teachers, if some loss asks for one; with a cache each runs here, once."""
        experiment = self.experiment
        if not experiment.loss.asks_for_teacher:
            return []
        if experiment.task.teacher_outputs is not None:
            return [RowTeacher(self._inputs)]
        if self._teacher is None or experiment.teacher is None:
            return []
        models = [self._teacher, *self._others]
        tokens = experiment.train.tokens_per_micro_batch
        if experiment.teacher.cache is None or not cache:
            return [self._in_every_step(model) for model in models]
        looking = inner_terms(TASK_TERMS, experiment.loss.weights)
        if looking:
            on_note(
                f"teacher.cache is not used: loss.{looking[0]} looks inside the teacher, which "
                "therefore runs in every step"
            )
            return [self._in_every_step(model) for model in models]
        with_hidden = bool(hidden_terms(TASK_TERMS, experiment.loss.weights))
        root = Path(experiment.teacher.cache)
        teachers: list[Teacher] = []
        for model in models:
            other = len(teachers) - 1 if teachers else None
            outputs: TeacherOutputs
            if isinstance(model, PaddedTeacher):
                outputs = OwnOutputs(root, model, self._inputs, tokens)
            else:
                outputs = TeacherOutputs(root, model, self._inputs, with_hidden and other is None)
            teachers.append(run_once(model, outputs, accelerator, tokens, on_note, other))
        return teachers

    def _in_every_step(self, model: TaskModel) -> Teacher:
        if isinstance(model, PaddedTeacher):
            tokens = self.experiment.train.tokens_per_micro_batch
            return ReadingTeacher(model, self._inputs, tokens)
        return PlacedTeacher(model)

    def pack(self, draws: Draws) -> TaskBatch:
        """One micro-batch, with the teachers' outputs where they are cached."""
        samples = self._drawn[draws.samples].tolist()
        members = self._inputs.members(samples)
        found = (teacher.cached_outputs(members) for teacher in self.module.teachers())
        known = [one for one in found if one is not None]  # of all teachers, or of none
        first = known[0] if known else None
        return pack_samples(self._inputs, samples, first, [outputs for outputs, _ in known[1:]])

    def held_out(self, accelerator: Accelerator) -> TaskScores:
        """Scores of the student as it is now on the dev examples."""
        return dev_scores(
            self.task, self.student, accelerator, self.experiment.train.tokens_per_micro_batch
        )

    def check_teacher(self, accelerator: Accelerator) -> dict[str, float | None]:
        """Dev score of each teacher, and of a model that knows only how frequent labels are.

        Raises:
            ModelError: a teacher's is no higher.
        """
        constant = self.task.constant_scores()[self.task.score]
        if self.task.dev.teacher_outputs is not None:
            score = self.task.scores(self.task.dev.teacher_outputs)[self.task.score]
            self._refuse_useless("task.teacher_outputs", score, constant)
            return {"teacher_score": score, "constant_score": constant}
        if self._teacher is None or self.experiment.teacher is None:
            return {"teacher_score": None, "constant_score": constant}
        found: dict[str, float | None] = {}
        models = (self._teacher, *self._others)
        named = zip(self.experiment.teacher.by_key, called_teachers(self.experiment), strict=True)
        for (key, called), model in zip(named, models, strict=True):
            exact = self._in_full_precision(key, model)
            score = self._checked_score(exact, called.where, constant, accelerator)
            found[f"{called.key}_score"] = score
        return found | {"constant_score": constant}

    def _in_full_precision(self, key: str, teacher: TaskModel) -> TaskModel:
        """A teacher as `eval` measures it: loaded again where its weights have been rounded."""
        if teacher.dtype == torch.float32:
            return teacher
        exact = load_finetuned_teacher(self.experiment, self.task, key)
        assert exact is not None, "its section is there"
        return exact

    def _checked_score(
        self, teacher: TaskModel, where: str, constant: float, accelerator: Accelerator
    ) -> float:
        tokens = self.experiment.train.tokens_per_micro_batch
        score = measured_scores(self.task, teacher, accelerator, tokens, where)[self.task.score]
        self._refuse_useless(where, score, constant)
        return score

    def _refuse_useless(self, where: str, score: float, constant: float) -> None:
        if not score > constant:
            raise ModelError(
                f"{where}: its {self.task.score} on the dev examples, "
                f"{score:.3f}, is no better than the {constant:.3f} of "
                f"{self.task.knowing_nothing}",
                "Check that it was fine-tuned on this task, with the classes in this order.",
            )


class TaskRun(RunKind[TaskExperiment, TaskParts]):
    """Training on the rows of a downstream task."""

    def prepare(self, num_proc: int, audience: Audience) -> Result:
        """Read every row, so that what is wrong is known before a run; nothing is written."""
        task = open_task_of(self.experiment)
        return rows_of(task, f"task of {self.experiment.name}")

    def assemble(
        self, device: torch.device, initial_student: Path, place: Place | None, audience: Audience
    ) -> TaskParts:
        """Read the rows and load the models; see `assemble_task`."""
        if place is not None:
            place.take()
        parts = assemble_task(self.experiment, device)
        if place is not None:
            place.begin()
        return parts

    def assemble_unsaved(self, device: torch.device, *, by_content: bool) -> TaskParts:
        """Read the rows and load the models; see `assemble_task`."""
        return assemble_task(self.experiment, device)

    def warn_about_data(self, parts: TaskParts, audience: Audience) -> None:
        """Warn of what a user should know of the rows."""
        tell_of_task(parts.task, audience)

    def identity(self, parts: TaskParts, initial_student: Path) -> Identity:
        """Teacher, what the student starts from, tokenizer, and both splits.

        The rows count as the models read them, so that files may move and be written otherwise.
        """
        found = identity_of_tokenizer(parts.tokenizer)
        places = self.experiment.task.places()
        for split, inputs in parts.task.sources().items():
            found[f"task.{split} rows"] = Fingerprint(places[split], inputs.content_digest())
            outputs = self.experiment.task.teacher_outputs
            if outputs is not None and inputs.teacher_outputs is not None:
                found[f"task.teacher_outputs of {split} rows"] = Fingerprint(
                    places[split] if outputs.files is None else ", ".join(outputs.files),
                    array_digest([inputs.teacher_outputs]),
                )
        found |= identity_of_readers(self.experiment, parts.task)
        return found | identity_of_models(self.experiment)

    def objective(
        self,
        parts: TaskParts,
        accelerator: Accelerator,
        on_note: Callable[[str], None],
        *,
        may_write: bool = True,
    ) -> TaskObjective:
        """The task's inputs, student, and teacher or its outputs, which may be kept on disk."""
        return TaskObjective(self.experiment, parts, accelerator, on_note, cache=may_write)

    def check_asked(self, asked: Asked) -> None:
        """Refuse options that say nothing of a task; see `refuse_asked_of_text`."""
        refuse_asked_of_text(asked)

    def label(self, run: str, student: str) -> str:
        """The run alone for its trained student: no other is kept."""
        return run if student == "student" else f"{run} {student}"

    def compare(
        self, paths: dict[str, str], asked: Asked, accelerator: Accelerator, audience: Audience
    ) -> Result:
        """Scores on the dev examples, or on examples that are asked for, size and speed.

        Raises:
            DataError, ModelError: rows or models cannot be used, or do not fit together.
        """
        experiment = self.experiment
        if asked.dev:
            experiment = with_other_dev(experiment, asked.dev)
        task = look_at_rows(experiment, audience)
        told = len(task.notes)
        models: dict[str, TaskModel] = {}
        teachers = {called.name: called.model for called in called_teachers(experiment)}
        teacher = load_finetuned_teacher(experiment, task)
        if teacher is not None:
            others = load_other_finetuned(experiment, task, task_tokenizer(experiment))
            models = dict(zip(teachers, (teacher, *others), strict=True))
        models |= {label: load_finetuned(path, task) for label, path in paths.items()}
        for note in task.notes[told:]:
            audience.note(note)
        paths = teachers | {ALL_TEACHERS: ", ".join(teachers.values())} | paths
        tokens = experiment.train.tokens_per_micro_batch
        shares = experiment.teacher.shares if experiment.teacher is not None else ()
        # Of a teacher that is a file there is no model, only what it says of the dev examples.
        known = task.dev.teacher_outputs
        if known is not None:
            paths = {TEACHER: "task.teacher_outputs"} | paths
        return compare_on_task(
            models, paths, task, asked, tokens, accelerator, audience.note, shares, known
        )


def _draws_of_an_epoch(experiment: TaskExperiment, task: OpenTask, num_samples: int) -> np.ndarray:
    """The samples that an epoch draws, int64: each once, or as often as its weight says.

    Args:
        experiment: has the weight of rows without labels.
        task: its inputs.
        num_samples: how many they are with their changed copies, which are drawn as they are.
    """
    transfer, inputs = experiment.task.transfer, task.sources().get("transfer")
    times = np.ones(task.train.num_samples, dtype=np.int64)
    if transfer is not None and inputs is not None:
        of_transfer, of_train = transfer.draws
        times[:] = of_train
        times[len(times) - inputs.num_samples :] = of_transfer
    return np.repeat(np.arange(num_samples), np.tile(times, num_samples // len(times)))


def identity_of_models(experiment: BaseExperiment) -> Identity:
    """The teachers, and what the student starts from where that is another model.

    Raises:
        ModelError: one of them is not there.
    """
    found, student = identity_of_teachers(experiment.teacher), experiment.student
    if student.named_model is not None:
        found |= identity_of_model(f"student.{student.source_key}", student.named_model)
    return found
