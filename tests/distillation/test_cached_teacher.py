"""Training from a teacher's outputs on disk: the same as from itself, and never from another's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from kept_outputs import cut_short, key_of, names
from loss_settings import weights
from safetensors.torch import load_file
from task_models import make_model
from tiny_experiments import relative_difference
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from distilcli.cli import train as train_command
from distilcli.cli.console import Console
from distilcli.config.experiment import TaskExperiment
from distilcli.distillation import teacher_outputs
from distilcli.distillation.task_parts import assemble_task
from distilcli.distillation.tasks import TaskObjective
from distilcli.errors import DataError
from distilcli.training.processes import make_accelerator
from distilcli.training.run_folder import RunFolder
from distilcli.training.steps import Stepper

NO_DROPOUT = {"kind": "copied", "num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0}
KINDS = {
    "classification": ("sequence", 2),
    "multi-label": ("sequence", 3),
    "regression": ("sequence", 1),
    "question-answering": ("span", 2),
    "tagging": ("token", 3),
}


@pytest.fixture(autouse=True)
def _next_run_is_the_first():
    """Each run of this process makes an accelerator of its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


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


def steps_of(
    experiment: TaskExperiment, on_note: Callable[[str], None] = lambda _: None
) -> dict[str, Tensor]:
    """Take its steps and no more: nothing is measured or written but the teacher's outputs."""
    accelerator = make_accelerator(experiment)
    parts = assemble_task(experiment, accelerator.device)
    stepper = Stepper(
        experiment, TaskObjective(experiment, parts, accelerator, on_note), accelerator
    )
    stepper.distillation.train()
    for step, batches in enumerate(stepper.batches_from(0)):
        stepper.take(step, batches)
    AcceleratorState._reset_state(reset_partial_state=True)
    return parts.student.state_dict()


def test_what_looks_inside_is_not_kept_and_the_teacher_runs_in_every_step(tasks, tmp_path):
    save_teacher(tmp_path / "teacher", "tagging")
    told: list[str] = []
    found = [
        steps_of(experiment_of(tasks, "tagging", tmp_path, cache, **term), told.append)
        for cache, term in (
            (None, {"hidden_states": 1.0}),
            (tmp_path / "cache", {"hidden_states": 1.0}),
            (None, {}),
        )
    ]
    assert told == [
        "teacher.cache is not used: loss.hidden_states looks inside the teacher, which therefore "
        "runs in every step"
    ]
    assert not (tmp_path / "cache").exists()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert relative_difference(found[2], found[0]) > 1e-3  # so that the term took part


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
