"""Distillation on a task as an objective: inputs, student, teacher or its cached outputs."""

import time
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedModel

from distilcli.batches.plan import Draws
from distilcli.config.data import RowFiles, RowHub
from distilcli.config.experiment import TaskExperiment
from distilcli.config.tasks import GlueTask, Task
from distilcli.distillation.assembly import TaskParts
from distilcli.distillation.identity import (
    TEACHER_OUTPUTS,
    Fingerprint,
    Identity,
    identity_of_model,
    identity_of_tokenizer,
)
from distilcli.distillation.modules import TaskDistillation
from distilcli.distillation.objective import Objective
from distilcli.distillation.teacher_outputs import TeacherOutputs
from distilcli.errors import ModelError
from distilcli.evaluation.dev_examples import TaskScores, dev_scores, measured_scores
from distilcli.files.atomic import recover_all
from distilcli.tasks.augmentation import augment
from distilcli.tasks.inputs import TaskBatch, pack


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
        self._cached: TeacherOutputs | None = None
        uses_teacher = bool(experiment.loss.alpha_ce or experiment.loss.alpha_cos)
        teacher = parts.teacher if uses_teacher else None
        root = experiment.teacher.cache if experiment.teacher and cache else None
        if teacher is not None and root is not None:
            self._cached = self._cache(Path(root), teacher, accelerator, on_note)
        self.module = TaskDistillation(
            parts.student,
            None if self._cached else teacher,
            parts.task.head,
            parts.task.family,
            experiment.loss,
            has_teacher=teacher is not None,
        )

    def _cache(
        self,
        root: Path,
        teacher: PreTrainedModel,
        accelerator: Accelerator,
        on_note: Callable[[str], None],
    ) -> TeacherOutputs:
        cached = TeacherOutputs(root, teacher, self._inputs, bool(self.experiment.loss.alpha_cos))
        is_complete = [cached.is_complete]
        broadcast_object_list(is_complete)  # another run may complete it between two looks
        if is_complete[0]:
            if accelerator.is_main_process:
                recover_all(cached.folder)
            on_note(f"the teacher's outputs are in {cached.folder}")
            return cached
        on_note(f"the teacher runs once over {len(self._inputs):,} inputs: {cached.folder}")
        nn.Module.to(teacher.eval(), accelerator.device)
        start = time.perf_counter()
        cached.compute(
            teacher,
            accelerator,
            self.experiment.train.tokens_per_micro_batch,
            lambda done, total: on_note(f"teacher: part {done} of {total}"),
        )
        teacher.cpu()
        on_note(f"that took the teacher {time.perf_counter() - start:.1f} s")
        return cached

    def outputs_identity(self) -> Identity:
        """The teacher's outputs that are kept on disk, if they are."""
        if self._cached is None:
            return {}
        place, digest = str(self._cached.folder), self._cached.content_digest()
        return {TEACHER_OUTPUTS: Fingerprint(place, digest)}

    def compilable(self) -> list[PreTrainedModel]:
        """Student and teacher, if that runs in the steps."""
        models = [self.module.student, self.module.teacher]
        return [model for model in models if model is not None]

    def pack(self, draws: Draws) -> TaskBatch:
        """One micro-batch, with the teacher's outputs where they are cached."""
        samples = draws.samples.tolist()
        known = self._cached.of(samples) if self._cached else None
        return pack(self._inputs, samples, known)

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


def task_identity(experiment: TaskExperiment, parts: TaskParts) -> Identity:
    """What a run depends on: teacher, what the student starts from, tokenizer, and both splits.

    The rows count as the models read them, so that files may move and be written otherwise.
    """
    found = identity_of_tokenizer(parts.tokenizer)
    for split, inputs in (("train", parts.task.train), ("dev", parts.task.dev)):
        place = place_of_rows(experiment.task, split)
        found[f"task.{split} rows"] = Fingerprint(place, inputs.content_digest())
    return found | identity_of_models(experiment)


def identity_of_models(experiment: TaskExperiment) -> Identity:
    """The teacher, and what the student starts from where that is another model.

    Raises:
        ModelError: one of them is not there.
    """
    found: Identity = {}
    teacher, student = experiment.teacher, experiment.student
    if teacher is not None:
        found |= identity_of_model("teacher.model", teacher.model, teacher.revision)
    if student.named_model is not None:
        key = "student.source" if student.kind == "copied" else "student.model"
        found |= identity_of_model(key, student.named_model)
    return found


def place_of_rows(task: Task, split: str) -> str:
    """Where the rows of `train` or `dev` come from, for people."""
    if isinstance(task, GlueTask):
        return f"{task.name}, {task.folder or 'nyu-mll/glue on the hub'}"
    source: RowFiles | RowHub = getattr(task, split)
    if isinstance(source, RowHub):
        return f"{source.hub}, {source.split}"
    return ", ".join(source.files)
