"""One experiment, one frozen tree of settings: of masked-LM training, or of a downstream task.

`config.reading` reads one from a file; the sections are in the other files of this folder. With a
teacher an experiment on a task is distillation, with `teacher: null` plain fine-tuning.
"""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from distilcli.config.cards import CardConfig
from distilcli.config.data import DataConfig, MaskingConfig
from distilcli.config.fields import Name, OutputFolder, Section, Seed
from distilcli.config.losses import BaseLoss, LossConfig, TaskLossConfig
from distilcli.config.models import (
    BaseTeacher,
    CopiedStudent,
    NamedTeacher,
    Student,
    StudentShape,
    TaskStudent,
    TaskTeacher,
    TaskTeacherModel,
    TeacherConfig,
)
from distilcli.config.tasks import Augmentation, BaseTask, RowTask, Task
from distilcli.config.training import (
    BaseValidation,
    OptimConfig,
    TaskOptim,
    TaskTrain,
    TaskValidation,
    TrainConfig,
    ValidationConfig,
)


class BaseExperiment(Section):
    """What every run has, whatever it trains on."""

    name: Name = Field(description="Name of the run; its folder is output_dir/name.")
    output_dir: OutputFolder = Field("runs", description="Folder of run folders.")
    seed: Seed = Field(42, description="Seeds data order, masks, dropout and new weights.")
    teacher: NamedTeacher | None
    student: StudentShape
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    validation: BaseValidation = Field(default_factory=BaseValidation)
    card: CardConfig = Field(default_factory=CardConfig)

    # Whether a teacher too large to lie beside the student can wait in host memory.
    can_offload: ClassVar[bool] = False

    @property
    def run_folder(self) -> Path:
        """Where everything about this run is written."""
        return Path(self.output_dir) / self.name

    @property
    def model_source(self) -> str | None:
        """The model that the student's own section names, if it names one."""
        return self.student.named_model

    @property
    def tokenizer_source(self) -> str:
        """The model whose tokenizer reads the text: the teacher's, else the student's."""
        name = self.teacher.model if self.teacher else self.model_source
        assert name is not None
        return name

    def shared_folders(self) -> dict[str, str]:
        """What runs have in common, by its key: it is written once and read ever after."""
        return {}

    def data_folders(self) -> dict[str, str]:
        """The folders or hub names of data that are read as a whole, by their keys."""
        return {}


class MaskedLMExperiment(BaseExperiment):
    """Everything that one run of masked-LM training depends on."""

    teacher: TeacherConfig | None = Field(
        description="The teacher; null: none, which is plain masked-LM training on hard targets."
    )
    student: Student = Field(
        default_factory=CopiedStudent, description="How the student starts, and its size."
    )
    data: DataConfig
    masking: MaskingConfig = Field(default_factory=MaskingConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    can_offload: ClassVar[bool] = True

    def shared_folders(self) -> dict[str, str]:
        """The token store, which runs have in common."""
        return {"data.store": self.data.store}

    def data_folders(self) -> dict[str, str]:
        """The folders or hub names of data sets, by their keys."""
        return {f"data.{key}": folder for key, folder in self.data.folders().items()}

    @model_validator(mode="after")
    def _fits_together(self) -> "MaskedLMExperiment":
        if self.teacher is None and self.model_source is None:
            raise ValueError(
                f"without a teacher, student.{self.student.source_key} must name a model"
            )
        if self.teacher is None and not self.loss.asks_for_labels:
            raise ValueError("without a teacher, loss.masked_lm.weight must be above 0")
        if self.loss.asks_for_logits and not self.masking.mlm_probability:
            on_logits = [n for n, t in self.loss.terms.items() if t.on_logits and t.largest_weight]
            raise ValueError(
                "masking.mlm_probability 0 leaves no token to predict; "
                f"set it above 0, or loss.{on_logits[0]}.weight to 0"
            )
        _check_several(self.teacher, self.loss)
        if self.train.tokens_per_micro_batch < self.data.max_length:
            raise ValueError(
                f"train.tokens_per_micro_batch {self.train.tokens_per_micro_batch} "
                f"is under data.max_length {self.data.max_length}"
            )
        return self


class TaskExperiment(BaseExperiment):
    """Everything that one run on a task depends on."""

    task: Task = Field(description="What is asked, and the examples.")
    teacher: TaskTeacher | None = Field(
        description="The teacher; null: none, which is plain fine-tuning on the labels, or a file, "
        "which task.teacher_outputs names."
    )
    student: TaskStudent = Field(description="How the student starts, and its size.")
    loss: TaskLossConfig = Field(default_factory=TaskLossConfig)
    augmentation: Augmentation | None = Field(
        None, description="More examples for the teacher to label; null: none."
    )
    optim: TaskOptim = Field(default_factory=TaskOptim)
    train: TaskTrain = Field(default_factory=TaskTrain)
    validation: TaskValidation = Field(default_factory=TaskValidation)

    def shared_folders(self) -> dict[str, str]:
        """The teacher's cached outputs, which runs have in common."""
        cache = self.teacher.cache if self.teacher else None
        return {"teacher.cache": cache} if cache else {}

    def data_folders(self) -> dict[str, str]:
        """The folders or hub names of data sets, by their keys."""
        return {f"task.{key}": folder for key, folder in self.task.folders().items()}

    @property
    def is_taught(self) -> bool:
        """Whether outputs of a teacher are targets, so that rows may be without labels."""
        has_teacher = self.teacher is not None or self.task.teacher_outputs is not None
        return has_teacher and self.loss.asks_for_teacher

    @model_validator(mode="after")
    def _fits_together(self) -> "TaskExperiment":
        if self.teacher is None and self.model_source is None:
            raise ValueError("without a teacher, student.source must name a model")
        if not (self.teacher or self.task.teacher_outputs or self.loss.asks_for_labels):
            raise ValueError("without a teacher, loss.labels.weight must be above 0")
        _check_several(self.teacher, self.loss)
        _check_zero_shot(self.teacher, self.task)
        if self.task.teacher_outputs is not None:
            self._check_teacher_is_file()
        for name, term in self.loss.terms.items():
            if term.largest_weight and self.task.asks_for_number and not term.for_numbers:
                raise ValueError(
                    f"loss.{name} compares distributions, and the output of this task is a number; "
                    f"set loss.{name}.weight=0, soft_targets are there for numbers too"
                )
            if term.largest_weight and term.for_rankings_only and not self.task.ranks:
                raise ValueError(
                    f"loss.{name} compares the candidates of a query, which only a task of kind "
                    f"reranking has; set loss.{name}.weight=0"
                )
        self._check_transfer()
        if self.augmentation is not None and not self.is_taught:
            raise ValueError(
                "augmentation: copies have no labels; they need a teacher, and the weight of "
                "loss.soft_targets or of another term that compares with it above 0"
            )
        longest = self.task.max_length
        if longest is not None and self.train.tokens_per_micro_batch < longest:
            raise ValueError(
                f"train.tokens_per_micro_batch {self.train.tokens_per_micro_batch} "
                f"is under task.max_length {self.task.max_length}"
            )
        return self

    def _check_transfer(self) -> None:
        if self.task.transfer is None:
            return
        if not self.is_taught:
            raise ValueError(
                "task.transfer: its rows have no labels; they need a teacher, and the weight of "
                "loss.soft_targets or of another term that compares with it above 0"
            )
        if isinstance(self.task, RowTask) and self.task.train is None and self.loss.asks_for_labels:
            raise ValueError(
                "without task.train no row has a label; set loss.labels.weight=0, so that only "
                "the teacher is learned from"
            )

    def _check_teacher_is_file(self) -> None:
        """Refuse what asks for more than outputs of the rows."""
        if self.teacher is not None:
            raise ValueError(
                "teacher and task.teacher_outputs are two teachers; set teacher=null, or "
                "task.teacher_outputs=null"
            )
        if self.augmentation is not None:
            raise ValueError(
                "augmentation: copies need a teacher that runs, and task.teacher_outputs knows the "
                "rows alone; set augmentation=null"
            )
        for name, term in self.loss.terms.items():
            if term.largest_weight and term.looks_inside:
                raise ValueError(
                    f"loss.{name} looks inside the teacher, and task.teacher_outputs has its "
                    f"outputs alone; set loss.{name}.weight=0, or name a model as teacher"
                )


def _check_zero_shot(teacher: TaskTeacher | None, task: BaseTask) -> None:
    """Refuse hypotheses about classes where the task has none, or of two texts."""
    if teacher is None:
        return
    for key, one in teacher.by_key.items():
        if isinstance(one, TaskTeacherModel) and one.is_zero_shot and not task.has_named_classes:
            name = "hypothesis" if one.hypothesis is not None else "hypotheses"
            raise ValueError(
                f"{key}.{name}: a sentence that may follow from a text can say a class of one "
                "text; this task is of another kind, or of pairs of texts"
            )


def _check_several(teacher: BaseTeacher | None, loss: BaseLoss) -> None:
    """Refuse several teachers where there is nothing of them to be averaged."""
    if teacher is None or not teacher.others:
        return
    for name, term in loss.terms.items():
        if term.largest_weight and not term.for_several_teachers:
            raise ValueError(
                f"loss.{name} compares logits, which the mean of several teachers' distributions "
                f"does not have; set loss.{name}.weight=0, or teacher.others=[]"
            )
    if not loss.averages_teachers:
        raise ValueError(
            "teacher.others would run in vain: no loss compares their distributions; set "
            "loss.soft_targets.weight above 0, or teacher.others=[]"
        )
