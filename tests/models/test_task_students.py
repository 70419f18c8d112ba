"""Students for a task: layers are copied as is asked, and heads are kept or new."""

from copy import deepcopy

import pytest
import torch
from head_models import (
    LABELS,
    LENGTHS,
    body_weights,
    each_body,
    each_head,
    experiment_of,
    head_weights,
    put_layers,
    same,
    same_weights,
    saved,
    task_of,
)
from task_models import CLASSES, make_inputs, make_model, run_padded
from tiny_families import fitting

from distilcli.errors import ConfigError
from distilcli.models.families import FAMILIES, encoder_layers
from distilcli.models.task_models import build_task_student, load_finetuned_teacher


@each_body
@each_head
def test_a_copy_of_every_layer_computes_what_its_source_does(body, head, tmp_path):
    source = make_model(body, head, num_layers=3)
    name = saved(source, tmp_path)
    experiment = experiment_of({"num_layers": 3}, teacher=name)
    task = task_of(head)
    teacher = load_finetuned_teacher(experiment, task)
    student = build_task_student(experiment, task, teacher)
    assert type(student) is type(source)
    assert same(student, source)
    inputs = make_inputs(LENGTHS, head)
    found, expected = (run_padded(m, inputs, [0, 1, 5]) for m in (student, source))
    assert torch.equal(found.outputs, expected.outputs)
    # What is trained is no view of the teacher.
    pointers = {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in student.parameters()}


@each_body
@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("student", [{"kind": "checkpoint"}, {"num_layers": 3}])
def test_a_head_with_the_classes_in_another_order_is_put_in_order(body, head, student, tmp_path):
    """By their names: the student computes what its source does, of every class."""
    source = make_model(body, head, num_layers=3)
    task = task_of(head)
    names = task.labels[1:] + task.labels[:1]
    source.config.id2label = dict(enumerate(names))
    key = "model" if "kind" in student else "source"
    experiment = experiment_of(student | {key: saved(source, tmp_path)})
    found = build_task_student(experiment, task, None)
    inputs = make_inputs(LENGTHS, head)
    with torch.no_grad():
        own, expected = (run_padded(m, inputs, [0, 1, 5]).outputs for m in (found, source))
    places = [names.index(label) for label in task.labels]
    assert places != sorted(places)
    torch.testing.assert_close(own, expected[:, places], rtol=0, atol=0)
    assert [found.config.id2label[i] for i in range(len(names))] == task.labels
    [note] = task.notes
    assert note == (
        f"{'student' if 'kind' in student else 'source'} {tmp_path}: its outputs are in the order "
        f"{', '.join(names)}, and are put into that of the task, {', '.join(task.labels)}"
    )


@each_body
@each_head
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({}, [0, 2]),
        ({"layers": [3, 1, 1]}, [3, 1, 1]),
        ({"num_layers": 3, "layers": "top"}, [1, 2, 3]),
    ],
)
def test_copied_layers_are_those_that_were_asked_for(body, head, shape, expected, tmp_path):
    source = make_model(body, head, num_layers=4)
    if isinstance(shape.get("layers"), list):
        shape = {"layers": fitting(source, shape["layers"])}
    expected = fitting(source, expected)
    task = task_of(head)
    experiment = experiment_of({"source": saved(source, tmp_path)} | shape)
    student = build_task_student(experiment, task, None)
    assert student.config.num_hidden_layers == len(encoder_layers(student)) == len(expected)
    for layer, index in zip(encoder_layers(student), expected, strict=True):
        assert same_weights(layer.state_dict(), encoder_layers(source)[index].state_dict())
    assert same_weights(head_weights(student), head_weights(source))
    embeddings = source.base_model.embeddings.state_dict()
    assert same_weights(student.base_model.embeddings.state_dict(), embeddings)
    # And they stand in that order: the source with its layers put so computes the same.
    put_layers(source, [deepcopy(encoder_layers(source)[i]) for i in expected])
    inputs = make_inputs(LENGTHS, head)
    with torch.no_grad():
        found, wanted = (run_padded(m, inputs, [0, 5]) for m in (student, source))
    torch.testing.assert_close(found.outputs, wanted.outputs)


def test_layers_that_the_source_does_not_have_are_refused(tmp_path):
    name = saved(make_model("bert", "token"), tmp_path)
    for shape in ({"num_layers": 3}, {"layers": [0, 2]}):
        with pytest.raises(ConfigError, match=r"student\.(num_)?layers"):
            build_task_student(experiment_of({"source": name} | shape), task_of("token"), None)


@each_body
def test_the_source_may_be_another_model_than_the_teacher(body, tmp_path):
    teacher, source = (make_model(body, "token", seed=seed) for seed in (1, 2))
    names = [saved(model, tmp_path / str(i)) for i, model in enumerate((teacher, source))]
    experiment = experiment_of({"source": names[1], "num_layers": 2}, teacher=names[0])
    task = task_of("token")
    assert same(
        build_task_student(experiment, task, load_finetuned_teacher(experiment, task)), source
    )


@each_body
@each_head
def test_a_student_knows_the_names_of_its_outputs_and_its_dropout(body, head, tmp_path):
    source = make_model(body, head)
    asked = {"source": saved(source, tmp_path), "dropout": 0.25, "attention_dropout": 0.5}
    student = build_task_student(experiment_of(asked | {"num_layers": 2}), task_of(head), None)
    assert student.config.id2label == dict(enumerate(LABELS[head]))
    assert student.config.label2id == {name: i for i, name in enumerate(LABELS[head])}
    assert not student.training
    names = FAMILIES[body].settings
    assert getattr(student.config, names.dropout) == 0.25
    assert getattr(student.config, names.attention_dropout) == 0.5


# New heads


@each_body
@each_head
@pytest.mark.parametrize("kind", ["checkpoint", "copied"])
def test_a_new_head_depends_on_the_seed_alone(body, head, kind, tmp_path):
    source = make_model(body, "masked-lm")
    name, task = saved(source, tmp_path), task_of(head)
    section = {"kind": "checkpoint", "model": name}
    if kind == "copied":
        section = {"source": name, "num_layers": 2}
    students = []
    for seed, state in ((7, 0), (7, 1), (8, 0)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        students.append(build_task_student(experiment_of(section, seed=seed), task, None))
        assert torch.equal(torch.get_rng_state(), before)
    first, again, other = students
    assert same(first, again)
    assert type(first) is CLASSES[body, head]
    assert same_weights(body_weights(first), body_weights(source))
    assert same_weights(body_weights(other), body_weights(source))
    # Some families have a part of their masked-LM head in the heads for tasks, too: it is kept.
    fresh = head_weights(CLASSES[body, head](first.config))
    shared = head_weights(first).keys() & source.state_dict().keys()
    for key, weight in head_weights(first).items():
        assert weight.isfinite().all(), key
        if key in shared:
            assert torch.equal(weight, source.state_dict()[key]), key
        elif weight.ndim > 1:
            assert not torch.equal(weight, head_weights(other)[key]), key
            assert 0.5 < weight.std() / fresh[key].std() < 1.5, key
        else:
            assert not weight.any(), key
    rows = 2 if head == "span" else 3
    assert {len(w) for key, w in head_weights(first).items() if "bias" in key} >= {rows}


@each_body
@each_head
def test_a_head_that_a_student_has_is_kept(body, head, tmp_path):
    model = make_model(body, head)
    section = {"kind": "checkpoint", "model": saved(model, tmp_path)}
    for seed in (1, 2):
        assert same(
            build_task_student(experiment_of(section, seed=seed), task_of(head), None), model
        )
