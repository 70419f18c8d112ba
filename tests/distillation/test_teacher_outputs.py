"""A teacher's outputs on disk: what it gives, computed once, and never those of another one."""

import os
import threading
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from loss_settings import weights
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from task_models import HEADS, make_inputs, make_model, run_padded
from tiny_experiments import relative_difference
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from distilcli.cli import train as train_command
from distilcli.cli.console import Console
from distilcli.config.experiment import TaskExperiment
from distilcli.distillation import teacher_outputs
from distilcli.distillation.task_parts import assemble_task
from distilcli.distillation.tasks import TaskObjective
from distilcli.distillation.teacher_outputs import TeacherOutputs, weights_fingerprint
from distilcli.errors import DataError, DataLostError, NonFiniteLossError, WriteError
from distilcli.tasks.inputs import Inputs, join
from distilcli.training.processes import make_accelerator
from distilcli.training.run_folder import RunFolder
from distilcli.training.steps import Stepper

LENGTHS = [9, 5, 12, 12, 3, 20, 7, 4, 15, 6, 11]
NUM_PARTS = 3  # of four inputs each, the last one of three
ALONE = SimpleNamespace(
    process_index=0, num_processes=1, device=torch.device("cpu"), wait_for_everyone=lambda: None
)
# Hidden states are kept in half precision, with 11 bits: each is off by up to 2^-11 of itself.
HALF = 2.0**-11


@pytest.fixture
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(teacher_outputs, "PART", 4)


@pytest.fixture(autouse=True)
def _next_run_is_the_first():
    """Each run of this process makes an accelerator of its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def compute(cached: TeacherOutputs, teacher: PreTrainedModel, accelerator: Any = ALONE) -> list:
    """Compute what is missing; what was said of the progress."""
    said: list[tuple[int, int]] = []
    teacher = deepcopy(teacher)  # which is changed to packed attention
    cached.compute(teacher, accelerator, 30, lambda done, total: said.append((done, total)))
    return said


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is kept


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("with_hidden", [False, True])
def test_what_is_kept_is_what_the_teacher_gives(head, with_hidden, small_parts, tmp_path):
    teacher, inputs = make_model("bert", head), make_inputs(LENGTHS, head)
    cached = TeacherOutputs(tmp_path, teacher, inputs, with_hidden)
    assert not cached.is_complete
    assert compute(cached, teacher) == [(1, 3), (2, 3), (3, 3)]
    assert cached.is_complete
    assert cached.num_parts == NUM_PARTS
    assert names(tmp_path) == [cached.key]
    assert names(tmp_path / cached.key) == [f"part-0000{i}.safetensors" for i in range(3)]
    again = TeacherOutputs(tmp_path, teacher, inputs, with_hidden)
    assert again.is_complete
    assert compute(again, teacher) == []
    for samples in ([0], [10, 3, 4], [7, 0, 7, 9], list(range(len(LENGTHS)))):
        outputs, hidden = again.of(samples)
        with torch.no_grad():
            expected = run_padded(teacher, inputs, samples)
        assert outputs.dtype == np.float32
        torch.testing.assert_close(
            torch.from_numpy(outputs), expected.outputs, rtol=1e-5, atol=1e-5
        )
        assert (hidden is not None) == with_hidden
        if hidden is not None:
            found = torch.from_numpy(hidden).float()
            torch.testing.assert_close(found, expected.hidden, rtol=2 * HALF, atol=1e-5)


@given(st.data())
def test_inputs_are_cut_where_parts_end(data):
    """Whatever the sizes: also where an input has no output, or a part a single input."""
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=9))
    rows = [data.draw(st.integers(0, length)) for length in lengths]
    part = data.draw(st.integers(1, 4))
    inputs = join(
        [[7] * length for length in lengths],
        [[0] * length for length in lengths],
        [list(range(number)) for number in rows],
        np.zeros(sum(rows), np.int64),
    )
    # In the place of files: each output says which input and which row of it it is.
    whole = [
        np.array([[sample, row] for row in range(number)], np.float32).reshape(-1, 2)
        for sample, number in enumerate(rows)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_outputs, "PART", part)
        cached = TeacherOutputs(Path("none"), make_model("bert", "token"), inputs, False)
        assert cached.num_parts == -(-len(lengths) // part)
        for index in range(cached.num_parts):
            values = np.concatenate(whole[index * part : (index + 1) * part])
            cached._parts[index] = {"outputs": values}
        samples = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
        outputs, _ = cached.of(samples)
    expected = np.concatenate([whole[sample] for sample in samples])
    assert outputs.tolist() == expected.tolist()


def test_processes_share_the_parts(small_parts, tmp_path):
    """Each computes its own ones, after all have looked what is missing."""
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    barrier = threading.Barrier(2, timeout=600)
    said: dict[int, list] = {}

    def work(rank: int) -> None:
        accelerator = SimpleNamespace(
            process_index=rank,
            num_processes=2,
            device=torch.device("cpu"),
            wait_for_everyone=barrier.wait,
        )
        own = TeacherOutputs(tmp_path, teacher, inputs, True)
        said[rank] = compute(own, teacher, accelerator)
        assert own.is_complete

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {0: [(1, 2), (2, 2)], 1: [(1, 1)]}
    alone = TeacherOutputs(tmp_path / "alone", teacher, inputs, True)
    compute(alone, teacher)
    everything = list(range(len(LENGTHS)))
    together = TeacherOutputs(tmp_path, teacher, inputs, True)
    for one, other in zip(together.of(everything), alone.of(everything), strict=True):
        assert np.array_equal(one, other)


# What an entry depends on


def key_of(teacher: PreTrainedModel, inputs: Inputs, with_hidden: bool = False) -> str:
    return TeacherOutputs(Path("root"), teacher, inputs, with_hidden).key


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.1.output.LayerNorm.bias",
        "classifier.weight",
        "classifier.bias",
    ],
)
def test_another_weight_is_another_entry(name):
    """By as little as fp32 can tell."""
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    before = key_of(teacher, inputs)
    with torch.no_grad():
        flat = teacher.get_parameter(name).view(-1)
        flat[-1] = torch.nextafter(flat[-1], torch.tensor(torch.inf))
    assert key_of(teacher, inputs) != before


def change_norm(teacher: PreTrainedModel) -> None:
    teacher.config.layer_norm_eps = 1e-3


def change_activation(teacher: PreTrainedModel) -> None:
    teacher.config.hidden_act = "relu"


@pytest.mark.parametrize("change", [change_norm, change_activation])
def test_the_same_weights_put_to_another_use_are_another_entry(change):
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    before = key_of(teacher, inputs)
    change(teacher)
    assert key_of(teacher, inputs) != before


def test_another_precision_is_another_entry_where_it_rounds_nothing_too():
    inputs = make_inputs(LENGTHS, "token")
    exact = make_model("bert", "token").bfloat16().float()
    rounded = deepcopy(exact).bfloat16()
    assert all(
        torch.equal(one, other.float())
        for one, other in zip(exact.parameters(), rounded.parameters(), strict=True)
    )
    assert key_of(exact, inputs) != key_of(rounded, inputs)


ROWS = {
    "token_ids": [[2, 7, 8, 3], [2, 9, 3]],
    "token_types": [[0, 0, 1, 1], [0, 0, 1]],
    "output_positions": [[1, 2], [1]],
}


@pytest.mark.parametrize(
    "changed",
    [
        {"token_ids": [[2, 7, 9, 3], [2, 9, 3]]},
        {"token_ids": [[2, 9, 8, 3], [2, 7, 3]]},
        {"token_ids": [[2, 7, 8], [3, 2, 9, 3]], "token_types": [[0, 0, 1], [1, 0, 0, 1]]},
        {"token_types": [[0, 1, 1, 1], [0, 0, 1]]},
        {"output_positions": [[1, 3], [1]]},
        {"output_positions": [[1], [2, 1]]},
        {name: rows[:1] for name, rows in ROWS.items()},
        {name: rows[::-1] for name, rows in ROWS.items()},
        {name: [*rows, rows[0]] for name, rows in ROWS.items()},
    ],
    ids=[
        *("another token", "exchanged tokens", "cut elsewhere", "another type"),
        *("read elsewhere", "read by another input", "one less", "another order", "one more"),
    ],
)
def test_other_inputs_are_another_entry(changed):
    """Also where the same numbers, end to end, are only cut in another place."""
    teacher = make_model("bert", "token")
    targets = np.zeros(3, np.int64)
    entries = {key_of(teacher, join(**(ROWS | rows), targets=targets)) for rows in ({}, changed)}
    assert len(entries) == 2


def test_hidden_states_are_another_entry():
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    assert key_of(teacher, inputs, True) != key_of(teacher, inputs, False)


def test_what_does_not_matter_is_the_same_entry(tmp_path):
    """Else the teacher would run again for nothing: for other labels, or where it was moved to."""
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    before = key_of(teacher, inputs)
    assert key_of(teacher, replace(inputs, targets=inputs.targets + 1)) == before
    loaded = []
    for name in ("here", "there"):
        teacher.save_pretrained(tmp_path / name)
        loaded.append(type(teacher).from_pretrained(tmp_path / name))
    assert key_of(loaded[0], inputs) == key_of(loaded[1], inputs)
    assert weights_fingerprint(loaded[0]) == weights_fingerprint(loaded[1])
    # Nor that it has run.
    compute(TeacherOutputs(tmp_path / "cache", loaded[0], inputs, False), loaded[0])
    assert key_of(loaded[0], inputs) == key_of(loaded[1], inputs)


# Experiments


NO_DROPOUT = {"kind": "copied", "num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0}
KINDS = {
    "classification": ("sequence", 2),
    "multi-label": ("sequence", 3),
    "regression": ("sequence", 1),
    "question-answering": ("span", 2),
    "tagging": ("token", 3),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def save_teacher(folder: Path, kind: str, seed: int = 0) -> Path:
    """A teacher that has learnt nothing: what it says differs from input to input all the same."""
    head, labels = KINDS[kind]
    vocab = len(pair_tokenizer())
    make_model("bert", head, labels, 3, seed, vocab=vocab).save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)
    return folder


def experiment_of(
    tasks: TinyTasks,
    kind: str,
    folder: Path,
    cache: Path | None,
    task: dict[str, Any] | None = None,
    **loss: float,
) -> TaskExperiment:
    """Distillation from `folder`/teacher into `folder`/KIND."""
    tree = tasks.experiment(kind) | {
        "output_dir": str(folder),
        "teacher": {
            "model": str(folder / "teacher"),
            "precision": "fp32",
            "cache": None if cache is None else str(cache),
        },
        "student": NO_DROPOUT,
        "loss": weights(**{"soft_targets": 1.0, "labels": 0.5} | loss),
    }
    tree["task"] |= task or {}
    tree["train"] |= {"max_steps": 8}
    return TaskExperiment.model_validate(tree)


def trained(experiment: TaskExperiment, *, resume: bool = False, force: bool = False) -> dict:
    """Train it, in this process; the weights of the student."""
    try:
        train_command.run(experiment, resume=resume, force=force, console=Console(as_json=True))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    return student_of(experiment)


def student_of(experiment: TaskExperiment) -> dict[str, Tensor]:
    return load_file(experiment.run_folder / "student" / "model.safetensors")


def moved(found: dict[str, Tensor], teacher: Path) -> float:
    """How far the weights that have the same name in the teacher, outside its layers, went."""
    start = load_file(teacher / "model.safetensors")
    names = [name for name in found if ".layer." not in name]
    return relative_difference({n: found[n] for n in names}, {n: start[n] for n in names})


def steps_of(experiment: TaskExperiment) -> dict[str, Tensor]:
    """Take its steps and no more: nothing is measured or written but the teacher's outputs."""
    accelerator = make_accelerator(experiment)
    parts = assemble_task(experiment, accelerator.device)
    stepper = Stepper(experiment, TaskObjective(experiment, parts, accelerator), accelerator)
    stepper.distillation.train()
    for step, batches in enumerate(stepper.batches_from(0)):
        stepper.take(step, batches)
    AcceleratorState._reset_state(reset_partial_state=True)
    return parts.student.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_with_what_is_kept(tasks, kind, tmp_path):
    save_teacher(tmp_path / "teacher", kind)
    without = steps_of(experiment_of(tasks, kind, tmp_path, None))
    assert names(tmp_path) == ["teacher"]
    kept = steps_of(experiment_of(tasks, kind, tmp_path, tmp_path / "cache"))
    assert len(names(tmp_path / "cache")) == 1
    assert relative_difference(kept, without) < 1e-5
    assert moved(kept, tmp_path / "teacher") > 1e-3


def test_training_towards_hidden_states_is_nearly_the_same(tasks, tmp_path):
    """They are kept in half precision, with 11 bits: the direction of each is off by some 1e-4,
    and AdamW makes a step of full length of a gradient of any.
    """
    save_teacher(tmp_path / "teacher", "tagging")
    without, kept, other = (
        steps_of(experiment_of(tasks, "tagging", tmp_path, cache, hidden_cosine=weight))
        for cache, weight in ((None, 1.0), (tmp_path / "cache", 1.0), (tmp_path / "cache", 0.0))
    )
    assert relative_difference(kept, without) < 1e-4
    assert moved(kept, tmp_path / "teacher") > 1e-2
    assert relative_difference(other, without) > 2e-3  # so that the cosine took part


@pytest.mark.slow
def test_the_second_run_does_not_run_the_teacher(tasks, tmp_path, monkeypatch, capsys):
    save_teacher(tmp_path / "teacher", "classification")
    experiment = experiment_of(tasks, "classification", tmp_path, tmp_path / "cache")
    first = trained(experiment)
    assert "the teacher runs once over 160 inputs" in capsys.readouterr().err

    def refuse(*_: Any) -> None:
        raise AssertionError("the teacher ran")

    monkeypatch.setattr(teacher_outputs, "run_model", refuse)
    assert relative_difference(trained(experiment, force=True), first) == 0
    [entry] = (tmp_path / "cache").iterdir()
    said = capsys.readouterr().err
    assert f"the teacher's outputs are in {entry}" in said
    assert "the teacher runs" not in said
    [part] = entry.iterdir()
    part.unlink()
    with pytest.raises(AssertionError, match="the teacher ran"):
        trained(experiment, force=True)


def test_a_teacher_that_no_loss_looks_at_does_not_run(tasks, tmp_path):
    save_teacher(tmp_path / "teacher", "classification")
    experiment = experiment_of(
        tasks, "classification", tmp_path, tmp_path / "cache", soft_targets=0.0
    )
    trained(experiment)
    assert not (tmp_path / "cache").exists()


def change_weights(tasks: TinyTasks, folder: Path) -> dict[str, Any]:
    save_teacher(folder / "teacher", "classification", seed=1)
    return {}


def change_rows(tasks: TinyTasks, folder: Path) -> dict[str, Any]:
    [file] = tasks.task("classification")["train"]["files"]
    header, first, *lines = Path(file).read_text(encoding="utf-8").splitlines()
    first = first.replace("g", "k", 1)
    path = folder / "train.tsv"
    path.write_text("\n".join([header, first, *lines]) + "\n", encoding="utf-8")
    return {"task": {"train": {"files": [str(path)]}}}


def change_length(tasks: TinyTasks, folder: Path) -> dict[str, Any]:
    return {"task": {"max_length": 10}}


def change_pairs(tasks: TinyTasks, folder: Path) -> dict[str, Any]:
    return {"task": {"text": "second", "text_pair": "first"}}


def change_tokenizer(tasks: TinyTasks, folder: Path) -> dict[str, Any]:
    file = folder / "teacher" / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    swapped = text.replace('"ba"', '"??"').replace('"gi"', '"ba"').replace('"??"', '"gi"')
    assert swapped != text
    file.write_text(swapped, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    assert tokenizer.convert_tokens_to_ids("ba") == pair_tokenizer().convert_tokens_to_ids("gi")
    return {}


def change_precision(tasks: TinyTasks, folder: Path) -> dict[str, Any]:
    return {"precision": "bf16"}


def change_nothing(tasks: TinyTasks, folder: Path) -> dict[str, Any]:
    save_teacher(folder / "teacher", "classification")
    return {}


@pytest.mark.parametrize(
    "change",
    [
        *(change_nothing, change_weights, change_rows, change_length, change_pairs),
        *(change_tokenizer, change_precision),
    ],
)
def test_whatever_changes_behind_a_path_is_another_entry(tasks, change, tmp_path):
    """Nothing of an experiment's own words tells the one from the other in some of these."""
    save_teacher(tmp_path / "teacher", "classification")

    def key(changed: dict[str, Any]) -> str:
        experiment = experiment_of(
            tasks, "classification", tmp_path, tmp_path / "cache", changed.get("task")
        )
        precision = {"precision": changed.get("precision", "fp32")}
        teacher = experiment.teacher.model_copy(update=precision)
        experiment = experiment.model_copy(update={"teacher": teacher})
        parts = assemble_task(experiment, torch.device("cpu"))
        return key_of(parts.teacher, parts.task.train)

    before = key({})
    assert (key(change(tasks, tmp_path)) == before) == (change is change_nothing)


@pytest.mark.slow
def test_a_teacher_that_changed_in_its_place_is_asked_again(tasks, tmp_path):
    cache = tmp_path / "cache"

    def student(folder: str, cache: Path, seed: int) -> dict[str, Tensor]:
        save_teacher(tmp_path / folder / "teacher", "tagging", seed=0)
        model = save_teacher(tmp_path / "teacher", "tagging", seed)
        experiment = experiment_of(tasks, "tagging", tmp_path / folder, cache)
        teacher = experiment.teacher.model_copy(update={"model": str(model)})
        # The student starts from a model of its own, which stays.
        start = experiment.student.model_copy(update={"source": str(tmp_path / folder / "teacher")})
        return trained(experiment.model_copy(update={"teacher": teacher, "student": start}))

    first = student("first", cache, seed=1)
    second = student("second", cache, seed=2)
    assert len(names(cache)) == 2
    assert relative_difference(second, first) > 1e-3
    fresh = student("third", tmp_path / "empty", seed=2)
    assert relative_difference(second, fresh) == 0
    # Nor is the older one lost: what comes back is found again.
    back = student("fourth", cache, seed=1)
    assert len(names(cache)) == 2
    assert relative_difference(back, first) == 0


# Damage, kills, full disks


@pytest.fixture
def kept(small_parts, tmp_path) -> tuple[TeacherOutputs, PreTrainedModel]:
    """An entry that is complete, not looked at yet, and its teacher."""
    teacher, inputs = make_model("bert", "token"), make_inputs(LENGTHS, "token")
    compute(TeacherOutputs(tmp_path, teacher, inputs, False), teacher)
    return TeacherOutputs(tmp_path, teacher, inputs, False), teacher


def part_of(cached: TeacherOutputs, number: int) -> Path:
    return cached.folder / f"part-{number:05d}.safetensors"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def overwrite(path: Path) -> None:
    path.write_bytes(b"\x00" * path.stat().st_size)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[8:])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, overwrite, empty, drop_header, flip_a_bit])
def test_a_damaged_part_is_refused_and_made_anew_once_removed(kept, damage):
    cached, teacher = kept
    before = part_of(cached, 1).read_bytes()
    damage(part_of(cached, 1))
    cached.of([0, 3, 8])  # of other parts
    with pytest.raises(DataError, match="damaged") as caught:
        cached.of([0, 4])
    assert caught.value.exit_code == 2
    assert str(part_of(cached, 1)) in caught.value.message
    assert "Remove it" in caught.value.hint
    part_of(cached, 1).unlink()
    assert not cached.is_complete
    assert compute(cached, teacher) == [(1, 1)]
    assert part_of(cached, 1).read_bytes() == before


@pytest.mark.parametrize("size", [0, 300])
def test_a_part_that_is_cut_short_while_it_is_used_is_told(kept, size):
    """After it was looked at; mapped, it would end the process (SIGBUS)."""
    cached, _ = kept
    path = part_of(cached, 1)
    whole, (expected, _) = path.read_bytes(), cached.of([4, 7])
    os.truncate(path, size)
    with pytest.raises(DataLostError, match=r"cut short: .* while it was being read") as caught:
        cached.of([4, 7])
    assert caught.value.exit_code == 1
    assert str(path) in caught.value.message
    assert caught.value.hint == "Remove it; it is made anew. Then go on with --resume."
    path.write_bytes(whole)
    assert cached.of([4, 7])[0].tolist() == expected.tolist()


@pytest.mark.parametrize("head", ["token", "sequence"])
def test_outputs_that_are_not_finite_are_not_kept(small_parts, tmp_path, head):
    """Every weight is finite; the head's products are not."""
    teacher, inputs = make_model("bert", head), make_inputs(LENGTHS, head)
    with torch.no_grad():
        teacher.classifier.bias.fill_(3e38)
        teacher.classifier.weight.fill_(3e38)
    cached = TeacherOutputs(tmp_path, teacher, inputs, False)
    with pytest.raises(NonFiniteLossError, match="the teacher's outputs for training inputs"):
        compute(cached, teacher)
    assert not list(tmp_path.rglob("part-*"))


def test_a_part_of_another_entry_is_refused(kept, tmp_path):
    """Of the same sizes, so that nothing else would tell it."""
    cached, _ = kept
    other = make_model("bert", "token", seed=1)
    elsewhere = TeacherOutputs(tmp_path, other, cached.inputs, False)
    compute(elsewhere, other)
    part_of(cached, 0).write_bytes(part_of(elsewhere, 0).read_bytes())
    with pytest.raises(DataError, match="made for something else") as caught:
        cached.of([0])
    assert str(part_of(cached, 0)) in caught.value.message


@pytest.mark.slow
def test_a_run_names_the_damaged_part(tasks, tmp_path):
    """And goes on once it is gone."""
    save_teacher(tmp_path / "teacher", "tagging")
    experiment = experiment_of(tasks, "tagging", tmp_path, tmp_path / "cache")
    first = trained(experiment)
    [part] = (tmp_path / "cache").rglob("part-*")
    cut_short(part)
    with pytest.raises(DataError, match="damaged") as caught:
        trained(experiment, force=True)
    assert str(part) in caught.value.message
    assert not RunFolder(experiment.run_folder).student.exists()
    part.unlink()
    assert relative_difference(trained(experiment, resume=True), first) == 0


class Killed(BaseException):
    """Nothing in the package catches it, as nothing catches SIGKILL."""


def test_a_kill_leaves_whole_parts_only(small_parts, tmp_path, monkeypatch):
    teacher, inputs = make_model("bert", "span"), make_inputs(LENGTHS, "span")
    undisturbed = TeacherOutputs(tmp_path / "other", teacher, inputs, True)
    compute(undisturbed, teacher)
    save, calls = teacher_outputs.save_file, []

    def save_half(tensors: dict, path: Path, **more: Any) -> None:
        save(tensors, path, **more)
        calls.append(path)
        if len(calls) == 2:
            os.truncate(path, path.stat().st_size // 2)
            raise Killed

    monkeypatch.setattr(teacher_outputs, "save_file", save_half)
    cached = TeacherOutputs(tmp_path, teacher, inputs, True)
    with pytest.raises(Killed):
        compute(cached, teacher)
    assert [path.name for path in cached.folder.glob("part-*")] == ["part-00000.safetensors"]
    assert not cached.is_complete
    assert compute(cached, teacher) == [(1, 2), (2, 2)]  # those that are missing
    for number in range(NUM_PARTS):
        assert part_of(cached, number).read_bytes() == part_of(undisturbed, number).read_bytes()


def test_a_full_disk_is_named_and_leaves_nothing_half_written(small_parts, tmp_path, monkeypatch):
    teacher, inputs = make_model("bert", "span"), make_inputs(LENGTHS, "span")
    save = teacher_outputs.save_file

    def save_or_fail(tensors: dict, path: Path, **more: Any) -> None:
        save(tensors, path, **more)
        if "00001" in str(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(teacher_outputs, "save_file", save_or_fail)
    cached = TeacherOutputs(tmp_path, teacher, inputs, False)
    with pytest.raises(WriteError, match="No space left") as caught:
        compute(cached, teacher)
    assert caught.value.exit_code == 1
    assert str(part_of(cached, 1)) in caught.value.message
    assert "teacher.cache" in caught.value.hint
    assert names(cached.folder) == ["part-00000.safetensors"]
    assert load_arrays(part_of(cached, 0)).keys() == {"outputs"}


def test_a_folder_that_cannot_be_made_is_named(small_parts, tmp_path):
    teacher, inputs = make_model("bert", "span"), make_inputs(LENGTHS, "span")
    (tmp_path / "file").write_text("in the way")
    cached = TeacherOutputs(tmp_path / "file", teacher, inputs, False)
    with pytest.raises(WriteError, match="cannot be written"):
        compute(cached, teacher)
