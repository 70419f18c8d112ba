"""Teachers of a task as they were saved; models that do not fit it, or each other, are refused."""

from typing import Any

import pytest
import torch
from head_models import (
    body_weights,
    each_body,
    each_head,
    experiment_of,
    same,
    same_weights,
    saved,
    task_of,
)
from safetensors.torch import load_file, save_file
from task_models import CLASSES, HEADS, NUM_POSITIONS, make_model
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from tokenizers.normalizers import BertNormalizer
from transformers import PreTrainedModel

from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.task_parts import assemble_task
from distilcli.errors import ConfigError, ModelError
from distilcli.models.families import FAMILIES
from distilcli.models.padded_teacher import PaddedTeacher
from distilcli.models.task_models import (
    build_task_student,
    load_finetuned,
    load_finetuned_teacher,
    teacher_labels,
)

CPU = torch.device("cpu")


def test_the_student_is_copied_before_the_teacher_is_rounded(tmp_path):
    tasks = make_tasks(tmp_path)
    source = make_model("bert", "sequence", num_labels=2, vocab=len(pair_tokenizer()))
    name = saved(source, tmp_path / "teacher")
    pair_tokenizer().save_pretrained(name)
    teacher = {"model": name, "precision": "bf16"}
    student = {"num_layers": 2}
    sections = tasks.experiment("classification", teacher=teacher, student=student)
    parts = assemble_task(TaskExperiment.model_validate(sections), CPU)
    assert parts.teacher.dtype == torch.bfloat16
    assert same(parts.student, source)


@each_body
@each_head
def test_a_teacher_is_loaded_as_it_was_saved(body, head, tmp_path):
    model = make_model(body, head)
    experiment = experiment_of({}, teacher=saved(model, tmp_path))
    teacher = load_finetuned_teacher(experiment, task_of(head))
    assert same(teacher, model)
    assert not teacher.training
    assert load_finetuned_teacher(experiment_of({"source": "some-bert"}), task_of(head)) is None


def test_names_of_a_teachers_outputs_are_in_the_order_of_their_ids(tmp_path):
    model = make_model("bert", "sequence", num_labels=12)
    model.config.id2label = {index: f"class {index}" for index in range(12)}
    name = saved(model, tmp_path)
    assert teacher_labels(experiment_of({}, teacher=name)) == [f"class {i}" for i in range(12)]
    assert teacher_labels(experiment_of({"source": name})) is None


# Refusals


@each_body
@each_head
def test_a_teacher_without_a_head_is_refused(body, head, tmp_path):
    name = saved(make_model(body, "masked-lm"), tmp_path)
    with pytest.raises(ModelError, match="no head for this task") as caught:
        load_finetuned_teacher(experiment_of({}, teacher=name), task_of(head))
    assert f"teacher {name}" in caught.value.message
    assert "Fine-tune it first" in caught.value.hint
    with pytest.raises(ModelError, match=f"student {name}: it has no head"):
        load_finetuned(name, task_of(head))


@each_body
@pytest.mark.parametrize(
    ("saved_head", "head"),
    [(one, other) for one in HEADS for other in HEADS if one != other],
)
def test_a_teacher_with_a_head_for_something_else_is_refused(body, saved_head, head, tmp_path):
    """Of two outputs each: also where a weight of the one has name and shape of the other's."""
    name = saved(make_model(body, saved_head, num_labels=2), tmp_path)
    with pytest.raises(ModelError, match="no head for this task"):
        load_finetuned_teacher(experiment_of({}, teacher=name), task_of(head, ["no", "yes"]))


@each_body
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_a_head_of_another_size_is_refused(body, head, tmp_path):
    name = saved(make_model(body, head, num_labels=4), tmp_path)
    as_teacher = experiment_of({}, teacher=name)
    with pytest.raises(ModelError, match="4 outputs, the task needs 3") as caught:
        load_finetuned_teacher(as_teacher, task_of(head))
    assert name in caught.value.message
    as_student = experiment_of({"kind": "checkpoint", "model": name})
    with pytest.raises(ModelError, match="4 outputs, the task needs 3"):
        build_task_student(as_student, task_of(head), None)


@each_body
def test_a_student_with_a_head_for_something_else_gets_a_new_one(body, tmp_path):
    """Whatever its size: as of a sentence classifier that goes on to tag words."""
    source = make_model(body, "sequence", num_labels=4)
    experiment = experiment_of({"kind": "checkpoint", "model": saved(source, tmp_path)})
    student = build_task_student(experiment, task_of("token"), None)
    assert same_weights(body_weights(student), body_weights(source))
    assert student.classifier.weight.shape == (3, 16)
    fresh = CLASSES[body, "token"](student.config)  # near zero, where the source's are not
    assert 0.5 < student.classifier.weight.std() / fresh.classifier.weight.std() < 1.5


@each_head
def test_a_length_over_the_positions_is_refused(head, tmp_path):
    name = saved(make_model("bert", head), tmp_path / "40")
    short = saved(make_model("bert", head, positions=30), tmp_path / "30")
    files = {"files": ["none.csv"]}

    def of_length(length: int, teacher: str | None, student: str) -> TaskExperiment:
        task = {"kind": "classification", "max_length": length, "train": files, "dev": files}
        section = {"kind": "checkpoint", "model": student}
        return experiment_of(section, teacher, task=task)

    task = task_of(head)
    load_finetuned_teacher(of_length(NUM_POSITIONS, name, name), task)
    build_task_student(of_length(30, None, short), task, None)
    with pytest.raises(ModelError, match=r"max_length 41 is over the 40 positions of teacher"):
        load_finetuned_teacher(of_length(41, name, name), task)
    with pytest.raises(ModelError, match=r"max_length 31 is over the 30 positions of the st") as e:
        build_task_student(of_length(31, name, short), task, None)
    assert "task.max_length to 30" in e.value.hint


@each_body
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_body_that_is_not_whole_is_refused(body, role, tmp_path):
    name = saved(make_model(body, "token"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    stack = f".{FAMILIES[body].layers}.1."
    lost = next(key for key in sorted(weights) if stack in key and "weight" in key)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    def load() -> None:
        if role == "teacher":
            load_finetuned_teacher(experiment_of({}, teacher=name), task_of("token"))
        else:
            section = {"kind": "checkpoint", "model": name}
            build_task_student(experiment_of(section), task_of("token"), None)

    with pytest.raises(ModelError, match=f"1 weights of its body are missing, {lost}"):
        load()


# What fits together


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def teacher(tasks) -> str:
    """A teacher for the task of two classes, with the tokenizer of the tasks."""
    name = saved(tiny_model("sequence"), tasks.root / "teacher")
    pair_tokenizer().save_pretrained(name)
    return name


def tiny_model(head: str, width: int = 16) -> PreTrainedModel:
    return make_model("bert", head, num_labels=2, vocab=len(pair_tokenizer()), width=width)


def assemble(tasks: TinyTasks, **sections: Any) -> Any:
    return assemble_task(
        TaskExperiment.model_validate(tasks.experiment("classification", **sections)), CPU
    )


@pytest.mark.parametrize("kind", ["checkpoint", "copied"])
def test_a_teacher_of_other_tokens_than_the_student_reads_the_texts_itself(
    tasks, teacher, kind, tmp_path
):
    other = pair_tokenizer()
    other.backend_tokenizer.normalizer = BertNormalizer(lowercase=False)
    folder = saved(tiny_model("masked-lm"), tmp_path)
    other.save_pretrained(folder)
    student = {"kind": "checkpoint", "model": folder}
    if kind == "copied":
        student = {"kind": "copied", "source": folder}
    parts = assemble(tasks, teacher={"model": teacher}, student=student)
    assert isinstance(parts.teacher, PaddedTeacher)
    assert parts.tokenizer.name_or_path == folder
    pair_tokenizer().save_pretrained(folder)
    packed = assemble(tasks, teacher={"model": teacher}, student=student)
    assert isinstance(packed.teacher, PreTrainedModel)
    assert packed.tokenizer.name_or_path == teacher


def test_layers_that_there_are_not_are_refused_and_other_widths_are_not(tasks, teacher, tmp_path):
    folder = saved(tiny_model("masked-lm", width=32), tmp_path)
    pair_tokenizer().save_pretrained(folder)
    sections = {"teacher": {"model": teacher}, "student": {"kind": "checkpoint", "model": folder}}
    loss = {"hidden_states": {"weight": 0.5, "layers": [9, 9]}}
    with pytest.raises(ConfigError, match=r"loss.hidden_states.layers: 9 is over the"):
        assemble(tasks, **sections, loss=loss)
    loss = {"hidden_states": {"weight": 0.5}, "hidden_cosine": {"weight": 0.5}}
    assert assemble(tasks, **sections, loss=loss).student.config.hidden_size == 32
