"""Stages: one experiment that trains several times, each time from the student of the time before.

    name: general-then-task
    student: {num_layers: 6}
    stages:
      - {name: general, data: {...}, train: {max_steps: 1000}}
      - {name: mrpc, task: {...}, teacher: {...}}

What stands beside `stages` is what all of them share. A stage is the whole experiment with its own
sections laid over that: of `teacher`, `task` and `augmentation` its own takes the place of the
shared one, of all others the keys that it has. A stage with `task` is on a task or on embeddings,
one with `data` is masked-LM training, and each leaves out what only others have.

Each stage is an experiment of its own (`Stage.experiment`) and is run as one, in a folder inside
that of the whole run. Its student is the one that the stage before has trained.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from distilcli.config.experiment import BaseExperiment, MaskedLMExperiment, TaskExperiment
from distilcli.config.fields import Name, OutputFolder, Section, Seed
from distilcli.config.kinds import KINDS, AnyExperiment, AnyKind, kind_of_tree
from distilcli.config.mistakes import describe
from distilcli.config.overrides import Key, Override, is_in, laid_over
from distilcli.config.renamed import with_new_names
from distilcli.errors import ConfigError

STAGES = "stages"
_OF_THE_RUN = frozenset({"name", "output_dir", "student"})
_REPLACED = frozenset({"seed", "teacher", "task", "augmentation"})
_DATA = "data", "task"  # one of them is what a stage trains on


class _Overlay(Section):
    """What a stage may set, and what all may share; checked once one lies over the other."""

    seed: Seed | None = Field(
        None,
        description="Seeds data order, masks, dropout and new weights; null: as shared, or 42.",
    )
    teacher: dict[str, Any] | None = Field(
        default_factory=dict, description="The teacher; null: none."
    )
    data: dict[str, Any] = Field(
        default_factory=dict, description="Text: makes a stage masked-LM training."
    )
    masking: dict[str, Any] = Field(
        default_factory=dict, description="Masks, in stages of masked-LM training."
    )
    task: dict[str, Any] = Field(
        default_factory=dict, description="Examples: puts a stage on a task."
    )
    augmentation: dict[str, Any] | None = Field(
        default_factory=dict, description="More examples, in stages on a task; null: none."
    )
    loss: dict[str, Any] = Field(default_factory=dict, description="The losses.")
    optim: dict[str, Any] = Field(default_factory=dict, description="The optimiser.")
    train: dict[str, Any] = Field(default_factory=dict, description="The batch and the length.")
    validation: dict[str, Any] = Field(
        default_factory=dict, description="Held-out validation while training."
    )
    card: dict[str, Any] = Field(
        default_factory=dict, description="What the student's card says of language and licence."
    )


class StageOverlay(_Overlay):
    """One stage: where it differs from what all stages share."""

    name: Name = Field(description="Name of the stage; its folder is stages/NUMBER-name.")


class StagesFile(_Overlay):
    """An experiment of several stages, and what all of them share."""

    name: Name = Field(description="Name of the run; its folder is output_dir/name.")
    output_dir: OutputFolder = Field("runs", description="Folder of run folders.")
    student: dict[str, Any] = Field(
        default_factory=dict,
        description="How the student of the first stage starts; each other stage starts from the "
        "student of the one before.",
    )
    stages: Annotated[list[StageOverlay], Field(min_length=1, max_length=100)] = Field(
        description="The stages, in their order."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "StagesFile":
        names = [stage.name for stage in self.stages]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(
                    f"{STAGES}.{index}.name: {name} is the name of {STAGES}.{names.index(name)} too"
                )
        return self


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: of the stage.
        experiment: what is run; its student starts from that of the stage before.
    """

    name: str
    experiment: AnyExperiment

    @property
    def student(self) -> Path:
        """Where its trained student lies."""
        return self.experiment.run_folder / "student"


@dataclass(frozen=True)
class StagedExperiment:
    """An experiment of several stages.

    Attributes:
        name: of the run.
        output_dir: folder of run folders.
        stages: in their order.
        places_of_tasks: what stands before each key `task`, such as `stages.1.`.
    """

    name: str
    output_dir: str
    stages: tuple[Stage, ...]
    places_of_tasks: list[str] = field(default_factory=list, compare=False)

    @property
    def run_folder(self) -> Path:
        """Where everything about this run is written, its stages included."""
        return Path(self.output_dir) / self.name

    def as_one(self, number: int) -> AnyExperiment:
        """The experiment of one stage under the name of the whole run, to measure its student with.

        Args:
            number: from 0; -1 is the last one.
        """
        own = {"name": self.name, "output_dir": self.output_dir}
        return self.stages[number].experiment.model_copy(update=own)


def has_stages(tree: dict[str, Any]) -> bool:
    """Whether a tree of settings is an experiment of several stages."""
    return STAGES in tree


def stages_of(
    tree: dict[str, Any],
    path: Path,
    before: dict[str, Any],
    overrides: Sequence[Override] = (),
    *,
    of_run: bool = False,
) -> StagedExperiment:
    """The stages of a tree of settings.

    Args:
        tree: of the file, with overrides laid over it.
        path: where it is from, for messages.
        before: the tree of the file alone.
        overrides: as they were given.
        of_run: a run wrote it down: keys may have the names that an earlier version gave them.

    Raises:
        ConfigError: see `reading.load_experiment`; or the stages do not fit together.
    """
    try:
        shape = StagesFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe(error, StagesFile, path, before, list(overrides))) from error
    stages: list[Stage] = []
    kinds: list[AnyKind] = []
    for index, overlay in enumerate(shape.stages):
        own = tree[STAGES][index]
        kind = _kind_of(tree, own, index, path)
        _refuse_unused(own, [kind], f"{path}: {STAGES}.{index}.")
        kinds.append(kind)
        merged = _merged(tree, own, kind)
        merged |= {
            "name": f"{index + 1}-{overlay.name}",
            "output_dir": str(Path(shape.output_dir) / shape.name / STAGES),
        }
        merged |= _student_of(tree, stages)
        if of_run:
            merged = with_new_names(merged, kind)
        try:
            experiment = kind.model_validate(merged)
        except ValidationError as error:

            def place(key: Key, own: dict[str, Any] = own, index: int = index) -> Key:
                return _as_written(key, tree, own, index)

            said = describe(error, kind, path, before, list(overrides), place)
            raise ConfigError(said) from error
        stages.append(Stage(overlay.name, _with_head(experiment, stages)))
    _refuse_unused(tree, kinds, f"{path}: ")
    _check_together(stages, path)
    places = [f"{STAGES}.{n}." for n, own in enumerate(tree[STAGES]) if "task" in own]
    places += [""] * ("task" in tree)
    return StagedExperiment(shape.name, shape.output_dir, tuple(stages), places)


def dump_stages(staged: StagedExperiment) -> str:
    """All stages with their defaults, as YAML that is read back to equal stages."""
    first, stages = staged.stages[0].experiment, []
    for stage in staged.stages:
        tree = stage.experiment.model_dump(mode="json", exclude=set(_OF_THE_RUN))
        stages.append({"name": stage.name, **tree})
    tree = {
        "name": staged.name,
        "output_dir": staged.output_dir,
        "student": first.student.model_dump(mode="json"),
        STAGES: stages,
    }
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _kind_of(shared: dict[str, Any], own: dict[str, Any], index: int, path: Path) -> AnyKind:
    """What a stage trains on, by its own sections, else by those that all stages share."""
    for tree, where in ((own, f"{STAGES}.{index}"), (shared, f"{STAGES}.{index}")):
        found = [key for key in _DATA if key in tree]
        if len(found) == 2:
            says = "has" if tree is own else "shares"
            raise ConfigError(
                f"{path}: {where}: it {says} both data and task",
                "Give a stage data: {...} for masked-LM training, or task: {...}.",
            )
        if found:
            return kind_of_tree(tree)
    raise ConfigError(
        f"{path}: {STAGES}.{index}: it has neither data nor task",
        "Give it data: {...} for masked-LM training, or task: {...}.",
    )


def _refuse_unused(
    sections: dict[str, Any], kinds: Sequence[type[BaseExperiment]], where: str
) -> None:
    """Refuse a section that belongs to the other kind of experiment; ConfigError."""
    of_text, of_task = MaskedLMExperiment.model_fields, TaskExperiment.model_fields
    for key in sorted(of_text.keys() ^ of_task.keys()):
        if key in sections and not any(key in kind.model_fields for kind in kinds):
            wanted = "masked-LM training" if key in of_text else "training on a task"
            which = "this stage is not" if len(kinds) == 1 else "no stage is"
            raise ConfigError(f"{where}{key}: belongs to {wanted}, which {which}", "Leave it out.")


def _merged(
    shared: dict[str, Any], own: dict[str, Any], kind: type[BaseExperiment]
) -> dict[str, Any]:
    """The sections of a stage, laid over those that all stages share."""
    merged: dict[str, Any] = {}
    for key in kind.model_fields.keys() - _OF_THE_RUN:
        if key == "seed" and own.get(key, shared.get(key)) is None:
            continue
        if key in own and (key in _REPLACED or key not in shared):
            merged[key] = own[key]
        elif key in shared:
            merged[key] = _without_keys_of_others(shared[key], key, kind)
            if key in own:
                merged[key] = laid_over(merged[key], own[key])
    return copy.deepcopy(merged)


def _without_keys_of_others(section: Any, key: str, kind: type[BaseExperiment]) -> Any:
    """A shared section, without the keys that only other kinds of experiments have there."""
    if not isinstance(section, dict):
        return section
    of_others = [_keys_below(other, key) for other in KINDS if key in other.model_fields]
    foreign = set[str]().union(*of_others) - _keys_below(kind, key)
    return {name: value for name, value in section.items() if name not in foreign}


def _keys_below(kind: type[BaseExperiment], key: str) -> set[str]:
    """The keys of one section of an experiment; none where it may be one of several sections."""
    annotation = kind.model_fields[key].annotation
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, Section):
            return set(one.model_fields)
    return set()


def _student_of(shared: dict[str, Any], before: list[Stage]) -> dict[str, Any]:
    """The section `student` of a stage: as the file has it, or the student of the stage before."""
    section = shared.get("student")
    if not before:
        return {} if section is None else {"student": copy.deepcopy(section)}
    found: dict[str, Any] = {"kind": "checkpoint", "model": str(before[-1].student)}
    dropouts = before[0].experiment.student
    found |= {"dropout": dropouts.dropout, "attention_dropout": dropouts.attention_dropout}
    return {"student": found}


def _with_head(experiment: AnyExperiment, before: list[Stage]) -> AnyExperiment:
    """With a new masked-LM head for a student that may have none and needs one."""
    if not before or not isinstance(experiment, MaskedLMExperiment):
        return experiment
    last = before[-1].experiment
    # A body alone comes out of text without a loss on logits, if its teacher is one.
    has_head = isinstance(last, MaskedLMExperiment) and last.loss.asks_for_logits
    if has_head or not experiment.loss.asks_for_logits:
        return experiment
    student = experiment.student.model_copy(update={"new_head": True})
    return experiment.model_copy(update={"student": student})


def _as_written(key: Key, shared: dict[str, Any], own: dict[str, Any], index: int) -> Key:
    """A key of a stage's experiment, as the user wrote it or would write it."""
    if key and key[0] == "student":
        return key
    in_stage: Key = (STAGES, index, *key)
    if not key or is_in(own, key) or (key[0] in own and key[0] in _REPLACED):
        return in_stage
    if is_in(shared, key):
        return key
    return in_stage if key[0] in own or key[0] not in shared else key


def _check_together(stages: Sequence[Stage], path: Path) -> None:
    """Refuse stages of which one would spoil, or could not use, what another one makes.

    Raises:
        ConfigError: naming both.
    """
    stores: dict[str, tuple[int, Any]] = {}
    for index, stage in enumerate(stages):
        experiment = stage.experiment
        if not isinstance(experiment, MaskedLMExperiment):
            if stages[0].experiment.student.kept_vocabulary and experiment.teacher is not None:
                raise ConfigError(
                    f"{path}: {STAGES}.{index}.teacher: it would read other tokens than the "
                    "student, which keeps a part of the vocabulary (student.vocabulary)",
                    f"Train on the task without a teacher ({STAGES}.{index}.teacher=null), or "
                    "keep the whole vocabulary.",
                )
            continue
        data = experiment.data
        first, other = stores.setdefault(data.store, (index, data))
        if other != data:
            raise ConfigError(
                f"{path}: {STAGES}.{index}.data.store: {data.store} is the store of "
                f"{STAGES}.{first}, whose data section is another",
                f"Name another store: {STAGES}.{index}.data.store=...",
            )
