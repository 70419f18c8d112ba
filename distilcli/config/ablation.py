"""Settings of an ablation: one experiment, and changes of its settings to compare with it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from distilcli.config.embedding import EMBEDDING, EmbeddingExperiment
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.fields import Name, Number, OutputFolder, Section
from distilcli.config.kinds import kind_of_tree
from distilcli.config.overrides import parse_override
from distilcli.errors import ConfigError

BASE = "base"
CHANGES = "changes"
#: What the ablation gives each run.
OWN_KEYS = ("name", "output_dir", "seed")
LENGTHS = ("train.max_steps", "train.max_tokens", "train.num_epochs")


class MaskedLMBase(MaskedLMExperiment):
    """The experiment that is changed: masked-LM training."""

    name: Name = Field(BASE, description="Is not used: runs are named for their change and seed.")


class TaskBase(TaskExperiment):
    """The experiment that is changed: training on a task."""

    name: Name = Field(BASE, description="Is not used: runs are named for their change and seed.")


class EmbeddingBase(EmbeddingExperiment):
    """The experiment that is changed: training embeddings."""

    name: Name = Field(BASE, description="Is not used: runs are named for their change and seed.")


def _base_kind(value: Any) -> str:
    if not isinstance(value, dict) or "task" not in value:
        return "masked-lm"
    return EMBEDDING if kind_of_tree(value) is EmbeddingExperiment else "task"


# What the JSON schema says of `base`, whose tree is checked once a change is laid over it.
_Experiment = Annotated[
    Annotated[MaskedLMBase, Tag("masked-lm")]
    | Annotated[TaskBase, Tag("task")]
    | Annotated[EmbeddingBase, Tag(EMBEDDING)],
    Discriminator(_base_kind),
]


def _settings(value: Any) -> Any:
    """A change as values by key, also where it is written as overrides."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return value
    try:
        return {text.partition("=")[0]: parse_override(text).value for text in value}
    except ConfigError as error:
        raise ValueError(error.message) from error


Change = Annotated[
    dict[str, Any],
    BeforeValidator(_settings, json_schema_input_type=dict[str, Any] | list[str]),
]


class PublishedDifferences(Section):
    """Differences to the base that someone else has measured, to stand beside those found here."""

    source: str = Field(description="Where they were published, and of what they are.")
    differences: dict[Name, Number] = Field(description="By change.")


class Ablation(Section):
    """A base experiment and changes of it, each trained with the same seeds."""

    name: Name = Field(description="Name of the ablation; its folder is output_dir/name.")
    output_dir: OutputFolder = Field("runs", description="Folder of ablations.")
    base: Annotated[
        dict[str, Any],
        BeforeValidator(lambda value: value, json_schema_input_type=str | _Experiment),
    ] = Field(
        description="The experiment that is changed, or its file. Its name, output_dir and seed "
        "are those of each run."
    )
    changes: Annotated[dict[Name, Change], Field(min_length=1)] = Field(
        description="By the name of each change, the settings that it lays over the base: values "
        "by keys with dots, or overrides as on the command line. A section is laid over that of "
        "the base key by key; one of another `kind` takes its place."
    )
    equal: Literal["steps", "tokens", "seconds"] = Field(
        "steps",
        description="What all runs have the same of, if there is a budget; seconds: of training, "
        "which the speed of each change is measured for first.",
    )
    budget: Annotated[Number, Field(gt=0.0, le=1e15)] | None = Field(
        None, description="How much of it each run has; null: runs are as long as their settings."
    )
    published: PublishedDifferences | None = Field(
        None, description="Published differences to stand beside those found; null: none."
    )

    @property
    def folder(self) -> Path:
        """Where everything about this ablation is written."""
        return Path(self.output_dir) / self.name

    @model_validator(mode="after")
    def _fits_together(self) -> "Ablation":
        if BASE in self.changes:
            raise ValueError(f"changes: {BASE} is the name of what is changed")
        if self.equal != "steps" and self.budget is None:
            raise ValueError(f"equal: {self.equal} needs a budget, which says how many")
        if self.equal != "seconds" and self.budget is not None and self.budget % 1:
            raise ValueError(f"budget: a number of {self.equal} is whole (given: {self.budget:g})")
        published = self.published.differences if self.published else {}
        unknown = sorted(published.keys() - self.changes.keys())
        if unknown:
            raise ValueError(f"published.differences: there is no change {unknown[0]}")
        for name, change in self.changes.items():
            self._check_keys(name, change)
        return self

    def _check_keys(self, name: str, change: dict[str, Any]) -> None:
        """Refuse what the ablation decides and a change would decide otherwise."""
        for key in change:
            if key in OWN_KEYS:
                raise ValueError(f"changes.{name}: {key} is what the ablation gives each run")
        train = change.get("train")
        set_here = {f"train.{key}" for key in train} if isinstance(train, dict) else set()
        for key in LENGTHS:
            if self.budget is not None and key in change.keys() | set_here:
                raise ValueError(f"changes.{name}: {key} would be another length than the budget")
