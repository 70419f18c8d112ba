"""Models with heads: packed they compute what transformers does, and they start as is asked."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from task_models import (
    BODIES,
    CLASSES,
    HEADS,
    NUM_POSITIONS,
    make_inputs,
    make_model,
    outputs_of,
    run_padded,
)
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from tokenizers.normalizers import BertNormalizer
from torch import nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    pipeline,
)

from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.task_parts import assemble_task
from distilcli.errors import ConfigError, ModelError
from distilcli.models.attention import use_packed_attention
from distilcli.models.families import FAMILIES
from distilcli.models.running import run_model
from distilcli.models.saving import save_model
from distilcli.models.task_models import (
    build_task_student,
    load_finetuned,
    load_finetuned_teacher,
    teacher_labels,
)
from distilcli.tasks.inputs import pack_inputs

LENGTHS = [9, 5, 12, 12, 3, 20, 2]
LABELS = {
    "sequence": ["no", "yes", "maybe"],
    "token": ["O", "B-X", "I-X"],
    "span": ["start", "end"],
}
CPU = torch.device("cpu")
AUTO_CLASSES = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
}

each_body = pytest.mark.parametrize("body", BODIES)
each_head = pytest.mark.parametrize("head", HEADS)


def task_of(head: str, labels: list[str] | None = None) -> Any:
    """As much of a task as models depend on."""
    rows = make_inputs([5], head)
    labels = labels or LABELS[head]
    return SimpleNamespace(
        head=head, outputs=outputs_of(head, "one-of"), labels=labels, train=rows, dev=rows
    )


def experiment_of(student: dict[str, Any], teacher: object = None, **more: Any) -> TaskExperiment:
    """An experiment whose task is never opened."""
    files = {"files": ["none.csv"]}
    sections = {
        "name": "models",
        "task": {"kind": "classification", "max_length": 16, "train": files, "dev": files},
        "teacher": None if teacher is None else {"model": str(teacher), "precision": "fp32"},
        "student": student,
    }
    return TaskExperiment.model_validate(sections | more)


def saved(model: PreTrainedModel, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def stack_of(model: PreTrainedModel) -> nn.Module:
    body = model.base_model
    return body.encoder if hasattr(body, "encoder") else body.transformer


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    return stack_of(model).layer


def same(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    return same_weights(one.state_dict(), other.state_dict())


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def body_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Without the pooler, which belongs to the head of a sequence."""
    weights = model.base_model.state_dict()
    return {name: weight for name, weight in weights.items() if "pooler" not in name}


def head_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    body = {f"{model.base_model_prefix}.{name}" for name in body_weights(model)}
    return {name: weight for name, weight in model.state_dict().items() if name not in body}


# Packed and padded


@each_body
@each_head
@settings(max_examples=20)
@given(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=6))
def test_packed_models_compute_what_padded_ones_do(body, head, samples):
    """In any order, an input twice too; of pairs, so that token types count."""
    model = make_model(body, head)
    inputs = make_inputs(LENGTHS, head)
    with torch.no_grad():
        expected = run_padded(model, inputs, samples)
        use_packed_attention(model)
        outputs, hidden = run_model(model, pack_inputs(inputs, samples))
    torch.testing.assert_close(outputs, expected.outputs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden, expected.hidden, rtol=1e-5, atol=1e-5)


@each_head
def test_token_types_reach_a_bert(head):
    """Else the comparison above would say nothing of them."""
    model, samples = make_model("bert", head), [0, 3]
    inputs = make_inputs(LENGTHS, head)
    use_packed_attention(model)
    batch = pack_inputs(inputs, samples)
    assert set(batch.token_type_ids.unique().tolist()) == {0, 1}
    outputs, _ = run_model(model, batch)
    inputs.token_types[:] = 0
    others, _ = run_model(model, pack_inputs(inputs, samples))
    assert (outputs - others).abs().max() > 0.01


@each_body
@each_head
def test_dropout_stands_where_transformers_has_it(body, head):
    """The head's own takes everything away, those of the body nothing, so that nothing is left
    to chance.
    """
    model, samples = make_model(body, head), [0, 3, 5]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    of_body = set(model.base_model.modules())
    of_head = [m for m in model.modules() if isinstance(m, nn.Dropout) and m not in of_body]
    for module in of_head:
        module.p = 1.0
    model.train()
    inputs = make_inputs(LENGTHS, head)
    expected = run_padded(model, inputs, samples)
    use_packed_attention(model)
    outputs, _ = run_model(model, pack_inputs(inputs, samples))
    torch.testing.assert_close(outputs, expected.outputs, rtol=1e-5, atol=1e-5)
    is_constant = bool((outputs == outputs[0]).all())
    assert is_constant == bool(of_head)


@each_body
@each_head
def test_outputs_are_in_fp32_whatever_the_weights_are_in(body, head):
    model = make_model(body, head).bfloat16()
    use_packed_attention(model)
    batch = pack_inputs(make_inputs(LENGTHS, head), [0, 1])
    outputs, _ = run_model(model, batch)
    assert outputs.dtype == torch.float32


# Copied students


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
    task = task_of(head)
    experiment = experiment_of({"source": saved(source, tmp_path)} | shape)
    student = build_task_student(experiment, task, None)
    assert student.config.num_hidden_layers == len(layers_of(student)) == len(expected)
    for layer, index in zip(layers_of(student), expected, strict=True):
        assert same_weights(layer.state_dict(), layers_of(source)[index].state_dict())
    assert same_weights(head_weights(student), head_weights(source))
    embeddings = source.base_model.embeddings.state_dict()
    assert same_weights(student.base_model.embeddings.state_dict(), embeddings)
    # And they stand in that order: the source with its layers put so computes the same.
    stack_of(source).layer = nn.ModuleList(deepcopy(layers_of(source)[i]) for i in expected)
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
    for key, weight in head_weights(first).items():
        assert weight.isfinite().all(), key
        if weight.ndim > 1:
            assert not torch.equal(weight, head_weights(other)[key]), key
            assert 0.5 < weight.std() / first.config.initializer_range < 1.5, key
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


# Teachers


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
    assert student.classifier.weight.std() < 0.05


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
    lost = next(key for key in sorted(weights) if ".layer.1." in key and "weight" in key)
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
def test_a_student_that_reads_other_tokens_is_refused(tasks, teacher, kind, tmp_path):
    other = pair_tokenizer()
    other.backend_tokenizer.normalizer = BertNormalizer(lowercase=False)
    folder = saved(tiny_model("masked-lm"), tmp_path)
    other.save_pretrained(folder)
    student = {"kind": "checkpoint", "model": folder}
    if kind == "copied":
        student = {"kind": "copied", "source": folder}
    with pytest.raises(ModelError, match=r"its tokenizer is another than that of teacher"):
        assemble(tasks, teacher={"model": teacher}, student=student)
    pair_tokenizer().save_pretrained(folder)
    assert assemble(tasks, teacher={"model": teacher}, student=student).teacher is not None


def test_other_widths_are_refused_where_hidden_states_are_compared(tasks, teacher, tmp_path):
    folder = saved(tiny_model("masked-lm", width=32), tmp_path)
    pair_tokenizer().save_pretrained(folder)
    sections = {"teacher": {"model": teacher}, "student": {"kind": "checkpoint", "model": folder}}
    with pytest.raises(ModelError, match="student's hidden size is 32, the teacher's 16"):
        assemble(tasks, **sections, loss={"hidden_cosine": {"weight": 0.5}})
    assert assemble(tasks, **sections).student.config.hidden_size == 32


# What others make of it


@each_body
@each_head
def test_a_saved_student_loads_with_plain_transformers(body, head, tmp_path):
    source = make_model(body, "masked-lm", num_layers=2)
    experiment = experiment_of({"source": saved(source, tmp_path / "source")})
    student = build_task_student(experiment, task_of(head), None)
    use_packed_attention(student)  # as training leaves it
    inputs, samples = make_inputs(LENGTHS, head), [2, 4]
    with torch.no_grad():
        expected, _ = run_model(student, pack_inputs(inputs, samples))
    save_model(student, pair_tokenizer(), tmp_path / "student")
    loaded, info = AUTO_CLASSES[head].from_pretrained(
        tmp_path / "student", output_loading_info=True
    )
    assert not any(info.values())
    assert type(loaded) is type(student)
    assert loaded.config.architectures == [type(student).__name__]
    assert loaded.config.id2label == dict(enumerate(LABELS[head]))
    with torch.no_grad():
        found = run_padded(loaded.eval(), inputs, samples).outputs
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@each_body
def test_a_saved_student_is_used_by_a_pipeline(body, tmp_path):
    """It must say by itself what its outputs are: of one class, or of several."""
    tokenizer = pair_tokenizer()
    source = make_model(body, "masked-lm", vocab=len(tokenizer))
    experiment = experiment_of({"kind": "checkpoint", "model": saved(source, tmp_path / "source")})
    texts = ["ba bi bo", "ku ma"]
    for family in ("one-of", "any-of", "number"):
        labels = ["LABEL_0"] if family == "number" else LABELS["sequence"]
        task = task_of("sequence", labels)
        task.outputs = outputs_of("sequence", family)
        student = build_task_student(experiment, task, None)
        save_model(student, tokenizer, tmp_path / family)
        found = pipeline("text-classification", str(tmp_path / family), device="cpu")(
            texts, top_k=None
        )
        for text, scores in zip(texts, found, strict=True):
            student.set_attn_implementation("eager")
            with torch.no_grad():
                logits = student(**tokenizer(text, return_tensors="pt")).logits[0].double()
            if family == "one-of":
                expected = logits.exp() / logits.exp().sum()
            else:
                expected = 1 / (1 + (-logits).exp()) if family == "any-of" else logits
            by_name = {entry["label"]: entry["score"] for entry in scores}
            assert [by_name[name] for name in labels] == pytest.approx(expected.tolist(), rel=1e-4)
