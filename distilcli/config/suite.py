"""Settings of a suite: several tasks, and the models that are compared on each."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from distilcli.config.fields import ModelName, Name, OutputFolder, Section
from distilcli.config.models import TaskStudent
from distilcli.config.tasks import Task

TEACHER, STUDENT, DISTILLED = "teacher", "student", "distilled"


class SuiteTask(Section):
    """One task of a suite, and where its runs differ from those of the others."""

    task: Task = Field(description="What is asked, and the examples.")
    teacher: ModelName | None = Field(
        None, description="A teacher that is fine-tuned on this task already; null: the suite's."
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="Replaces settings of the suite's train."
    )
    optim: dict[str, Any] = Field(
        default_factory=dict, description="Replaces settings of the suite's optim."
    )
    loss: dict[str, Any] = Field(
        default_factory=dict, description="Replaces settings of the suite's loss."
    )
    augmentation: dict[str, Any] | None = Field(
        default_factory=dict,
        description="Replaces settings of the suite's augmentation; null: no augmentation here.",
    )


class Suite(Section):
    """Everything that the runs of one suite depend on."""

    name: Name = Field(description="Name of the suite; its folder is output_dir/name.")
    output_dir: OutputFolder = Field("runs", description="Folder of suites.")
    teacher: ModelName = Field(
        description="Folder, hub name or builtin:NAME of the pretrained teacher."
    )
    student: TaskStudent = Field(
        description="How the student starts. Copied without a source, it takes layers of the "
        "pretrained teacher to be fine-tuned, and those of the fine-tuned teacher to be distilled."
    )
    baselines: dict[Name, TaskStudent] = Field(
        default_factory=dict, description="More models to fine-tune, by their names in the table."
    )
    tasks: Annotated[dict[Name, SuiteTask], Field(min_length=1)] = Field(
        description="The tasks, by their names in the table."
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="Settings of all runs, as `train` of an experiment."
    )
    optim: dict[str, Any] = Field(
        default_factory=dict, description="Settings of all runs, as `optim` of an experiment."
    )
    loss: dict[str, Any] = Field(
        default_factory=dict, description="Settings of all runs, as `loss` of an experiment."
    )
    augmentation: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of all runs, as `augmentation` of an experiment; {}: none.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "Suite":
        taken = sorted({TEACHER, STUDENT, DISTILLED} & set(self.baselines))
        if taken:
            raise ValueError(f"baselines: {taken[0]} is the name of a model that is there anyway")
        return self

    @property
    def folder(self) -> Path:
        """Where everything about this suite is written."""
        return Path(self.output_dir) / self.name
