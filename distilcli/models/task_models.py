"""Models with a head for a task: transformers' own classes, so that pipelines can use them.

What each family's heads compute is in `families/`.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from distilcli.batches.packing import by_length, spread
from distilcli.config.experiment import TaskExperiment
from distilcli.config.models import TaskCheckpointStudent, TaskTeacherModel
from distilcli.errors import ModelError
from distilcli.hub.model_files import model_files
from distilcli.models.copying import copy_layers, seeded
from distilcli.models.families import (
    FAMILIES,
    family_of,
    is_of_head,
    last_of_head,
    num_positions,
    takes_token_types,
)
from distilcli.models.layers import layers_of
from distilcli.models.load_padded_teacher import load_padded_teacher, output_names
from distilcli.models.loading import load_weights, read_config
from distilcli.models.narrowing.moments import NUM_SEQUENCES, NUM_TOKENS, TOKENS_AT_ONCE
from distilcli.models.narrowing.narrow import narrowed
from distilcli.models.own_readers import first_reads_itself, must_read_itself
from distilcli.models.padded import any_config
from distilcli.models.padded_teacher import TaskModel
from distilcli.models.students import set_dropout
from distilcli.tasks.classes import places_of, same_classes
from distilcli.tasks.inputs import TaskBatch, pack_inputs
from distilcli.tasks.task import OpenTask

_NAMES = {name for family in FAMILIES.values() for name in family.head_classes}


def teacher_labels(experiment: TaskExperiment) -> list[str] | None:
    """Names of the teacher's outputs; None without a teacher, or where they do not matter.

    Raises:
        ModelError: there is no such model, or it does not say which output is which.
    """
    if experiment.teacher is None:
        return None
    teacher = experiment.teacher
    if first_reads_itself(experiment) and getattr(experiment.task, "labels", None) is not None:
        return None  # whatever their order, its outputs are found by their names
    if teacher.is_zero_shot:
        return None if teacher.hypotheses is None else list(teacher.hypotheses)
    where = f"teacher {teacher.model}"
    return output_names(any_config(model_files(teacher.model, teacher.revision, where)), where)


def load_finetuned_teacher(
    experiment: TaskExperiment, task: OpenTask, key: str = "teacher"
) -> TaskModel | None:
    """A fine-tuned teacher of the experiment, in fp32 and eval mode; None without one.

    Args:
        experiment: names it.
        task: that it is fine-tuned on.
        key: the section that names it, where there are several.

    Raises:
        ModelError: it cannot be loaded, or has no head for this task.
    """
    if experiment.teacher is None:
        return None
    teacher = experiment.teacher.by_key[key]
    if key in task.own_readers:
        assert isinstance(teacher, TaskTeacherModel)
        return load_padded_teacher(teacher, task, key, experiment.task.max_length)
    role = key if key == "teacher" else f"{key}.model"
    model = load_finetuned(teacher.model, task, teacher.revision, role)
    _check_length(experiment, model, f"{role} {teacher.model}")
    return model


def load_finetuned(
    name: str, task: OpenTask, revision: str | None = None, role: str = "student"
) -> PreTrainedModel:
    """A model with a head that was trained for the task, in fp32 and eval mode.

    Raises:
        ModelError: it cannot be loaded, or has no head for this task.
    """
    model: PreTrainedModel
    model, missing = _load(name, revision, task, role)
    if missing:
        raise ModelError(
            f"{role} {name}: it has no head for this task ({min(missing)} is missing)",
            "Fine-tune it first: the same experiment with teacher=null and "
            "'student={kind: checkpoint, model: ...}'; what lies in runs/NAME/student has one.",
        )
    put_in_order(task, model, f"{role} {name}")
    _check_inputs(task, model, f"{role} {name}")
    return model


def build_task_student(
    experiment: TaskExperiment, task: OpenTask, teacher: TaskModel | None
) -> PreTrainedModel:
    """The student as the experiment says it starts: fp32, on the CPU, in eval mode.

    A head that its source does not have is made new, from `experiment.seed`.

    Raises:
        ConfigError: layers that the source does not have, or widths that it cannot be cut to.
        ModelError: the source cannot be used.
    """
    student = experiment.student
    model: PreTrainedModel
    with seeded(experiment.seed):
        if isinstance(student, TaskCheckpointStudent):
            model = _source(student.model, task, "student")
        else:
            source: Any = teacher
            if student.source is not None:
                source = _source(student.source, task, "source")
            # Where there is no teacher, or one with other tokens, a source was asked for.
            assert isinstance(source, PreTrainedModel)
            model = copy_layers(source, layers_of(source, student))
            model = narrowed(model, student, lambda: _some_inputs(task))
    set_dropout(model, student.dropout, student.attention_dropout)
    model.config.label2id = {name: index for index, name in enumerate(task.labels)}
    model.config.id2label = dict(enumerate(task.labels))
    model.train(False)
    _check_length(experiment, model, "the student")
    _check_inputs(task, model, "the student")
    return model


def _source(name: str, task: OpenTask, role: str) -> Any:
    """The model that a student starts from; one with the task's head has it in the task's order."""
    model, missing = _load(name, None, task, role)
    if not missing:
        put_in_order(task, model, f"{role} {name}")
    return model


def _some_inputs(task: OpenTask) -> list[TaskBatch]:
    """Inputs at even distances, which a narrower student is made by."""
    lengths = task.train.lengths
    samples = spread(lengths, NUM_SEQUENCES, NUM_TOKENS)
    batches = by_length(samples, lengths, TOKENS_AT_ONCE)
    return [pack_inputs(task.train, batch) for batch in batches]


def _load(name: str, revision: str | None, task: OpenTask, role: str) -> tuple[Any, set[str]]:
    """A model with the task's head, and the names of the head's weights that are new."""
    where = f"{role} {name}"
    config = read_config(name, revision, role)
    model_class = family_of(config).task_heads[task.head].model_class
    saved_as = set(config.architectures or [])
    if model_class.__name__ in saved_as:
        _check_head_size(config, task, where)
    if task.head == "sequence":
        config.problem_type = task.outputs.problem_type
    # The head of another task may have weights of the same names: it is not this task's.
    has_other_head = bool(saved_as & _NAMES) and model_class.__name__ not in saved_as
    if not has_other_head:
        config.num_labels = len(task.labels)
    model, missing = load_weights(model_class, config, name, revision, torch.float32, where)
    lacking = {key for key in missing if not is_of_head(model, key)}
    if lacking:
        raise ModelError(
            f"{where}: {len(lacking)} weights of its body are missing, {min(lacking)} first",
            "Copy or download it again.",
        )
    if has_other_head:
        config.num_labels = len(task.labels)
        model, with_other_head = model_class(config), model
        model.base_model.load_state_dict(with_other_head.base_model.state_dict())
        body = f"{model.base_model_prefix}."
        missing |= {key for key in model.state_dict() if not key.startswith(body)}
    return model, missing


def _check_head_size(config: Any, task: OpenTask, where: str) -> None:
    if config.num_labels != len(task.labels):
        raise ModelError(
            f"{where}: its head has {config.num_labels} outputs, the task needs {len(task.labels)}",
            "Use a model of this very task, or for a student one without such a head.",
        )


def longest_input(experiment: TaskExperiment) -> int:
    """Tokens that an input may have: the positions of the models that read them, the fewest.

    Raises:
        ModelError: one of them cannot be read.
    """
    named: list[tuple[str, str | None, str]] = []
    if experiment.teacher is not None:
        teachers = dict(experiment.teacher.by_key)
        if first_reads_itself(experiment):
            del teachers["teacher"]
        named += [
            (one.model, one.revision, key)
            for key, one in teachers.items()
            if not must_read_itself(one, key)
        ]
    if experiment.model_source is not None:
        named.append((experiment.model_source, None, "student"))
    return min(num_positions(read_config(*one)) for one in named)


def _check_length(experiment: TaskExperiment, model: PreTrainedModel, where: str) -> None:
    positions = num_positions(model.config)
    longest = experiment.task.max_length
    if longest is not None and longest > positions:
        raise ModelError(
            f"task.max_length {longest} is over the {positions} positions of {where}",
            f"Set task.max_length to {positions} or less.",
        )


@torch.no_grad()
def put_in_order(task: OpenTask, model: PreTrainedModel, where: str) -> None:
    """Put a head's outputs into the order of the task's classes, by their names.

    Its rows are permuted, and a note of the task says so. Outputs without names, or named
    otherwise, are taken as they come.

    Args:
        task: with its classes.
        model: with a head for it; changed in place.
        where: opens the note.
    """
    config: Any = model.config
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    if task.head == "span" or not same_classes(names, task.labels):
        return
    places = places_of(task.labels, names)
    if places == list(range(len(names))):
        return
    last = last_of_head(model)
    for parameter in (last.weight, last.bias):
        if parameter is not None:
            parameter.copy_(parameter[places].clone())
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {name: index for index, name in enumerate(task.labels)}
    note = (
        f"{where}: its outputs are in the order {', '.join(names[:8])}, and are put into that of "
        f"the task, {', '.join(task.labels[:8])}"
    )
    if note not in task.notes:
        task.notes = [*task.notes, note]


def _check_inputs(task: OpenTask, model: PreTrainedModel, where: str) -> None:
    """Refuse inputs of positions or of token types that a model has no embedding for."""
    splits = task.train, task.dev
    longest = max(int(inputs.lengths.max()) for inputs in splits)
    positions = num_positions(model.config)
    if longest > positions:
        raise ModelError(
            f"{where}: it has {positions} positions, but there are inputs of {longest} tokens",
            f"Set task.max_length={positions}: longer ones are cut.",
        )
    types = 1 + max(int(inputs.token_types.max()) for inputs in splits)
    known = family_of(model).num_token_types(model.config)
    if takes_token_types(model) and types > known:
        raise ModelError(
            f"{where}: it has {known} token type, but the inputs are of two texts, which the "
            "tokenizer gives two types",
            "Use a model with type_vocab_size 2, or a tokenizer that gives both texts type 0.",
        )
