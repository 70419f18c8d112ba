"""Training on a task, one kind of run: its rows, student, and teacher or its cached outputs."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from distilcli.batches.plan import Draws
from distilcli.config.experiment import BaseExperiment, TaskExperiment
from distilcli.distillation.identity import (
    Fingerprint,
    Identity,
    identity_of_model,
    identity_of_tokenizer,
)
from distilcli.distillation.loss_modules import TaskDistillation
from distilcli.distillation.objective import Objective
from distilcli.distillation.run_kind import Audience, Place, RunKind
from distilcli.distillation.task_parts import TaskParts, assemble_task, open_task_of
from distilcli.distillation.task_rows import look_at_rows, rows_of, tell_of_task, with_other_dev
from distilcli.distillation.teacher_outputs import TeacherOutputs
from distilcli.distillation.teachers import PlacedTeacher, Teacher, run_once
from distilcli.errors import ConfigError, ModelError
from distilcli.evaluation.asked import TEACHER, Asked
from distilcli.evaluation.dev_examples import TaskScores, dev_scores, measured_scores
from distilcli.evaluation.result import Result
from distilcli.evaluation.task import compare_on_task
from distilcli.losses.table import TASK_TERMS, hidden_terms, inner_terms
from distilcli.models.task_models import load_finetuned, load_finetuned_teacher
from distilcli.tasks.augmentation import augment
from distilcli.tasks.inputs import TaskBatch, pack_inputs


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
        self.lengths = self._inputs.lengths
        self.unknown_share = max(parts.task.unknown_shares)
        self.num_held_out = len(parts.task.dev)
        self._teacher = parts.teacher
        teacher = self._make_teacher(accelerator, on_note, cache)
        self.module = TaskDistillation(
            parts.student, teacher, parts.task.outputs, experiment.loss, experiment.seed
        )

    def _make_teacher(
        self, accelerator: Accelerator, on_note: Callable[[str], None], cache: bool
    ) -> Teacher | None:
        """The teacher, if some loss asks for one; with a cache it runs here, once."""
        experiment = self.experiment
        if self._teacher is None or experiment.teacher is None:
            return None
        if not experiment.loss.asks_for_teacher:
            return None
        if experiment.teacher.cache is None or not cache:
            return PlacedTeacher(self._teacher)
        looking = inner_terms(TASK_TERMS, experiment.loss.weights)
        if looking:
            on_note(
                f"teacher.cache is not used: loss.{looking[0]} looks inside the teacher, which "
                "therefore runs in every step"
            )
            return PlacedTeacher(self._teacher)
        with_hidden = bool(hidden_terms(TASK_TERMS, experiment.loss.weights))
        outputs = TeacherOutputs(
            Path(experiment.teacher.cache), self._teacher, self._inputs, with_hidden
        )
        tokens = experiment.train.tokens_per_micro_batch
        return run_once(self._teacher, outputs, accelerator, tokens, on_note)

    def pack(self, draws: Draws) -> TaskBatch:
        """One micro-batch, with the teacher's outputs where they are cached."""
        samples = draws.samples.tolist()
        teacher = self.module.teacher
        return pack_inputs(
            self._inputs, samples, teacher.cached_outputs(samples) if teacher else None
        )

    def held_out(self, accelerator: Accelerator) -> TaskScores:
        """Scores of the student as it is now on the dev examples."""
        return dev_scores(
            self.task, self.student, accelerator, self.experiment.train.tokens_per_micro_batch
        )

    def check_teacher(self, accelerator: Accelerator) -> dict[str, float | None]:
        """Dev score of the teacher, and of a model that knows only how frequent labels are.

        Raises:
            ModelError: the teacher's is no higher.
        """
        constant = self.task.scores(self.task.constant_outputs())[self.task.score]
        if self._teacher is None or self.experiment.teacher is None:
            return {"teacher_score": None, "constant_score": constant}
        tokens = self.experiment.train.tokens_per_micro_batch
        where = f"teacher.model {self.experiment.teacher.model}"
        scores = measured_scores(self.task, self._teacher, accelerator, tokens, where)
        score = scores[self.task.score]
        if not score > constant:
            raise ModelError(
                f"{where}: its {self.task.score} on the dev examples, "
                f"{score:.3f}, is no better than the {constant:.3f} of knowing only how "
                "frequent labels are",
                "Check that it was fine-tuned on this task, with the classes in this order.",
            )
        return {"teacher_score": score, "constant_score": constant}


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
        for split, inputs in (("train", parts.task.train), ("dev", parts.task.dev)):
            found[f"task.{split} rows"] = Fingerprint(places[split], inputs.content_digest())
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
        """Refuse options that say nothing of a task.

        Raises:
            ConfigError: naming the option.
        """
        if asked.text:
            raise ConfigError(
                "--text measures masked-LM models, and this experiment is on a task",
                "Measure its student on other examples: --dev FILE (repeat it, or quote a glob).",
            )
        if asked.documents is not None or asked.teacher is not None:
            option = "--documents" if asked.documents is not None else "--teacher"
            raise ConfigError(f"{option} can only be used with --text")
        if asked.num_sequences is not None and not asked.speed:
            raise ConfigError(
                "--num-sequences: on a task it says how many inputs are timed",
                "Give --speed too, or leave it out: scores are of all dev examples.",
            )

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
        teacher = load_finetuned_teacher(experiment, task)
        models: dict[str, PreTrainedModel] = {} if teacher is None else {TEACHER: teacher}
        models |= {label: load_finetuned(path, task) for label, path in paths.items()}
        if experiment.teacher is not None:
            paths = {TEACHER: experiment.teacher.model, **paths}
        tokens = experiment.train.tokens_per_micro_batch
        return compare_on_task(models, paths, task, asked, tokens, accelerator, audience.note)


def identity_of_models(experiment: BaseExperiment) -> Identity:
    """The teacher, and what the student starts from where that is another model.

    Raises:
        ModelError: one of them is not there.
    """
    found: Identity = {}
    teacher, student = experiment.teacher, experiment.student
    if teacher is not None:
        found |= identity_of_model("teacher.model", teacher.model, teacher.revision)
    if student.named_model is not None:
        found |= identity_of_model(f"student.{student.source_key}", student.named_model)
    return found
