"""Teachers with tokenizers of their own in training: what is kept, what it depends on, refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from kept_outputs import compute, names
from own_tokenizer_models import TOKENIZERS, random_model, save
from pydantic import ValidationError
from task_models import make_model
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer

from distilcli.batches.plan import Draws
from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.own_tokenizer import OwnOutputs, ReadingTeacher
from distilcli.distillation.predictions import Predictions, for_model
from distilcli.distillation.task_parts import assemble_task
from distilcli.distillation.tasks import TaskObjective, TaskRun
from distilcli.errors import ConfigError, ModelError
from distilcli.models.padded_teacher import PaddedTeacher

CPU = torch.device("cpu")
OUTPUTS = {
    "classification": ("sequence", ["no", "yes"]),
    "tagging": ("token", ["O", "I-X", "B-X"]),
    "question-answering": ("span", ["start", "end"]),
}
LABELS = {"classification": ["yes", "no"], "tagging": ["B-X", "I-X", "O"]}
KINDS = pytest.mark.parametrize("kind", OUTPUTS)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def teachers(tasks) -> dict[str, Path]:
    """A DeBERTa for each kind, whose classes are in another order than the task's."""
    return {
        kind: save(random_model("deberta-v2", *OUTPUTS[kind]), tasks.root / f"deberta-{kind}")
        for kind in OUTPUTS
    }


def experiment(tasks: TinyTasks, kind: str, model: Any, /, **sections: Any) -> TaskExperiment:
    task = tasks.task(kind) | ({"labels": LABELS[kind]} if kind in LABELS else {})
    section = {"model": str(model), "cache": str(tasks.root / "cache"), "precision": "fp32"}
    section |= sections.pop("teacher", {})
    return TaskExperiment.model_validate(
        tasks.experiment(kind, task=task | sections.pop("task", {}), teacher=section, **sections)
    )


def refusal(found: TaskExperiment, error: type[Exception] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        assemble_task(found, CPU)
    assert caught.value.hint
    return caught.value.message


@KINDS
def test_what_is_kept_is_what_the_teacher_says(tasks, teachers, kind, tmp_path, monkeypatch):
    """In parts, of any samples, with its classes in the order of the task."""
    monkeypatch.setattr("distilcli.distillation.teacher_outputs.PART", 64)
    parts = assemble_task(experiment(tasks, kind, teachers[kind]), CPU)
    teacher, inputs = parts.teacher, parts.task.train
    assert isinstance(teacher, PaddedTeacher)
    assert parts.task.own_readers == {"teacher"}
    cached = OwnOutputs(tmp_path, teacher, inputs, 200)
    compute(cached, teacher)
    assert cached.is_complete
    assert len(names(tmp_path / cached.key)) == cached.num_parts > 1
    again = OwnOutputs(tmp_path, teacher, inputs, 999)
    assert again.key == cached.key
    samples = [len(inputs) - 1, 0, 70]
    found, hidden = again.of(samples)
    assert hidden is None
    expected = torch.cat([teacher.run([inputs.shown[i]], 99) for i in samples])
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
    assert len(found) == inputs.num_outputs_of[samples].sum()
    if kind in LABELS:
        # The same model with its classes as they come.
        own = PaddedTeacher(teacher.model, teacher.tokenizer, teacher._head, teacher._reader, None)
        plain = torch.cat([own.run([inputs.shown[i]], 99) for i in samples])
        order = [OUTPUTS[kind][1].index(name) for name in LABELS[kind]]
        assert order != sorted(order)
        torch.testing.assert_close(expected, plain[:, order])


def test_whatever_it_depends_on_is_another_entry(tasks, teachers):
    def key(found: TaskExperiment, **changes: Any) -> str:
        parts = assemble_task(found, CPU)
        assert isinstance(parts.teacher, PaddedTeacher)
        inputs = replace(parts.task.train, **changes)
        return OwnOutputs(Path("root"), parts.teacher, inputs, 99).key

    base = experiment(tasks, "classification", teachers["classification"])
    parts = assemble_task(base, CPU)
    assert isinstance(parts.teacher, PaddedTeacher)
    texts = list(parts.task.train.shown)
    first = key(base)
    assert key(base) == first
    # The student's tokens do not matter, its texts do, also where it does not see a difference.
    shorter = experiment(
        tasks, "classification", teachers["classification"], task={"max_length": 8}
    )
    others = [
        key(shorter),  # the teacher reads fewer of its own tokens, too
        key(base, shown=[(texts[0][0].upper(), texts[0][1]), *texts[1:]]),
        key(base, shown=[*texts[1:], texts[0]]),
        key(
            experiment(
                tasks, "classification", teachers["classification"], teacher={"precision": "bf16"}
            )
        ),
        key(
            experiment(
                tasks,
                "classification",
                save(
                    random_model("deberta-v2", "sequence", ["no", "yes"], layer_norm_eps=1e-3),
                    tasks.root / "another",
                ),
            )
        ),
        key(
            experiment(
                tasks,
                "classification",
                teachers["classification"],
                task={"labels": ["no", "yes"]},
            )
        ),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_a_dry_run_reads_the_texts_of_each_step_and_writes_nothing(tasks, teachers, tmp_path):
    for kind in OUTPUTS:
        cache = tmp_path / kind
        found = experiment(tasks, kind, teachers[kind], teacher={"cache": str(cache)})
        accelerator = Accelerator(cpu=True)
        trying = TaskObjective(found, assemble_task(found, CPU), accelerator, cache=False)
        assert isinstance(trying.module.teacher, ReadingTeacher)
        assert not cache.exists()
        said: list[str] = []
        kept = TaskObjective(found, assemble_task(found, CPU), accelerator, said.append)
        assert said[0].startswith("the teacher runs once over")
        draws = Draws(np.array([5, 2, 11]), np.zeros(3, np.int64))
        coefficients = [torch.tensor(0.1)] * len(kept.module.terms)
        losses = [one.module(one.pack(draws), coefficients).total for one in (trying, kept)]
        assert losses[0].item() > 0
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)


def test_others_may_read_for_themselves(tasks, teachers, tmp_path):
    """Beside a first teacher whose tokens the student has; layers may be copied from that one."""
    first = tmp_path / "first"
    make_model("bert", "sequence", 2, 2, vocab=len(pair_tokenizer())).save_pretrained(first)
    pair_tokenizer().save_pretrained(first)
    others = [{"model": str(teachers["classification"]), "precision": "fp32"}]
    found = experiment(
        tasks,
        "classification",
        first,
        student={"kind": "copied", "num_layers": 1},
        teacher={"others": others, "cache": str(tmp_path / "cache")},
        task={"labels": ["no", "yes"]},
    )
    parts = assemble_task(found, CPU)
    assert parts.task.own_readers == {"teacher.others.0"}
    objective = TaskObjective(found, parts, Accelerator(cpu=True))
    batch = objective.pack(Draws(np.array([3, 1]), np.zeros(2, np.int64)))
    assert batch.teacher_outputs is not None
    assert batch.other_outputs is not None
    [other] = parts.others
    assert isinstance(other, PaddedTeacher)
    shown = [parts.task.train.shown[i] for i in (3, 1)]
    torch.testing.assert_close(batch.other_outputs[0], other.run(shown, 99), rtol=1e-4, atol=1e-5)
    identity = TaskRun(found).identity(parts, Path("unused"))
    assert "teacher.others.0.model tokenizer" in identity
    assert "teacher.model tokenizer" not in identity
    looking = found.model_copy(
        update={
            "loss": found.loss.model_copy(
                update={
                    "hidden_states": found.loss.hidden_states.model_copy(update={"weight": 1.0})
                }
            )
        }
    )
    assert refusal(looking).startswith("loss.hidden_states: teacher.others.0.model ")


def test_a_tokenizer_of_another_kind_is_enough(tasks, tmp_path):
    """A BERT whose words are not the student's: it could be packed, and is read by itself."""
    folder = save(random_model("electra", "sequence", ["no", "yes"]), tmp_path)
    parts = assemble_task(experiment(tasks, "classification", folder), CPU)
    assert isinstance(parts.teacher, PaddedTeacher)
    assert len(parts.tokenizer) == len(pair_tokenizer()) != len(TOKENIZERS["electra"]())


def test_what_a_run_depends_on_has_the_texts_and_the_tokenizer(tasks, teachers, tmp_path):
    found = experiment(tasks, "tagging", teachers["tagging"])
    parts = assemble_task(found, CPU)
    identity = TaskRun(found).identity(parts, tmp_path)
    mine = {"teacher.model tokenizer", "task.train texts", "task.dev texts"}
    assert mine < identity.keys()
    rows = tasks.task("tagging")["train"] | {"format": "conll"}
    without = {"train": None, "transfer": rows}
    alone = experiment(
        tasks, "tagging", teachers["tagging"], task=without, loss={"labels": {"weight": 0}}
    )
    of_transfer = TaskRun(alone).identity(assemble_task(alone, CPU), tmp_path)
    assert {"task.transfer texts", "task.dev texts"} < of_transfer.keys()
    assert "task.train texts" not in of_transfer
    packed = experiment(tasks, "tagging", teachers["tagging"])
    parts.task.own_readers = frozenset()
    assert not mine & TaskRun(packed).identity(parts, tmp_path).keys()


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"student": {"kind": "copied"}},
            "student.source: a student cannot be copied from teacher",
        ),
        ({"teacher": {"cache": None}}, "teacher.cache: null, but teacher.model "),
        ({"augmentation": {"copies": 1}}, "augmentation: teacher.model "),
        ({"loss": {"hidden_cosine": {"weight": 1.0}}}, "loss.hidden_cosine: teacher.model "),
        ({"loss": {"attention_relations": {"weight": 1.0}}}, "loss.attention_relations: teacher."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_needs_a_teacher_of_the_same_tokens_is_refused(tasks, teachers, sections, expected):
    found = experiment(tasks, "classification", teachers["classification"], **sections)
    message = refusal(found)
    assert message.startswith(expected)
    assert str(teachers["classification"]) in message


def test_to_write_its_outputs_to_a_file_a_teacher_needs_no_cache(tasks, teachers):
    model = teachers["classification"]
    without = experiment(tasks, "classification", model, teacher={"cache": None})
    assert refusal(without).startswith("teacher.cache: null, but teacher.model")
    found = Predictions.open(for_model(without, str(model), (), None), None, CPU)
    assert isinstance(found.model, PaddedTeacher)
    assert len(found.rows) == found.task.train.num_samples


def test_a_question_that_leaves_no_room_for_a_context_is_refused(tasks, tmp_path):
    """In tokens of the teacher, which takes fewer than the student."""
    model = random_model("electra", "span", ["start", "end"], max_position_embeddings=8)
    rows = [
        {"question": "bo", "context": "ba be", "answers": {"text": ["be"], "answer_start": [3]}},
        {"question": "ba be bi bo bu da", "context": "ba", "answers": None},
    ]
    tokenizer, path = TOKENIZERS["electra"](), tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    [around] = tokenizer([rows[1]["question"]], [""])["input_ids"]
    needed = len(around)
    assert needed == 3 + 6
    task = {"train": {"files": [str(path)]}, "stride": 1}
    message = refusal(
        experiment(tasks, "question-answering", save(model, tmp_path / "electra"), task=task)
    )
    assert message == (
        f"teacher {tmp_path}/electra: it takes 8 tokens, and its tokenizer makes {needed} of the "
        "question 'ba be bi bo bu da' alone, which leaves none for a context"
    )
    task |= {"max_question_length": 1}
    assemble_task(experiment(tasks, "question-answering", tmp_path / "electra", task=task), CPU)


def test_other_classes_are_refused(tasks, tmp_path):
    folder = save(random_model("albert", "sequence", ["no", "maybe"]), tmp_path)
    message = refusal(experiment(tasks, "classification", folder), ModelError)
    assert message == f"teacher {folder}: its classes are no, maybe, the task's are yes, no"


def test_a_model_of_entailment_teaches_classes_of_texts(tasks, tmp_path):
    outputs = ["contradiction", "neutral", "entailment"]
    folder = save(random_model("deberta-v2", "sequence", outputs), tmp_path / "nli")
    hypotheses = {"b": "of ba", "d": "of da", "f": "of fa"}
    found = experiment(tasks, "multi-label", folder, teacher={"hypotheses": hypotheses})
    parts = assemble_task(found, CPU)
    assert parts.task.labels == ["b", "d", "f"]
    assert isinstance(parts.teacher, PaddedTeacher)
    assert parts.teacher.run(parts.task.dev.shown[:5], 200).shape == (5, 3)
    other = experiment(tasks, "multi-label", folder, teacher={"hypothesis": "of {}"})
    texts = assemble_task(other, CPU).teacher
    assert isinstance(texts, PaddedTeacher)
    assert texts.reading() != parts.teacher.reading()


@pytest.mark.parametrize(
    ("kind", "section", "expected"),
    [
        ("classification", {"hypothesis": "it is {}"}, "teacher.hypothesis: a sentence that may"),
        ("tagging", {"hypothesis": "it is {}"}, "teacher.hypothesis: a sentence that may"),
        ("regression", {"hypotheses": {"a": "b", "c": "d"}}, "teacher.hypotheses: a sentence"),
        ("multi-label", {"hypothesis": "it is"}, "hypothesis must have {} once"),
        ("multi-label", {"hypothesis": "{} {}"}, "hypothesis must have {} once"),
        ("multi-label", {"hypotheses": {"a": "b"}}, "a sentence for each of two classes or more"),
        ("multi-label", {"hypotheses": {"a": "b", "c": " "}}, "a sentence for each of two"),
        (
            "multi-label",
            {"hypothesis": "{}", "hypotheses": {"a": "b", "c": "d"}},
            "hypothesis and hypotheses exclude each other",
        ),
    ],
)
def test_hypotheses_that_say_nothing_are_refused(tasks, kind, section, expected):
    with pytest.raises(ValidationError) as caught:
        experiment(tasks, kind, "nli", teacher=section)
    assert expected in str(caught.value)
