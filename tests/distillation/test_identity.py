"""A checkpoint knows what it was trained on: whatever of that changes is named by a resume."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from tiny_experiments import TinyWorld, listing, run
from tiny_tasks import make_tasks
from typer.testing import CliRunner, Result

from distilcli.cli.app import app
from distilcli.distillation.identity import changed, identity_of_model
from distilcli.training import checkpoints
from distilcli.training.state import from_record

STEPS = ["train.max_steps=6", "train.save_every=2", "validation.every=0"]
STEPS += ["train.keep_checkpoints=9"]


@pytest.fixture(autouse=True, scope="module")
def _on_the_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def errors_of(result: Result) -> list[str]:
    lines = result.stderr.splitlines()
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def stop_before_the_end(folder: Path) -> None:
    """As if the run had been killed after its second checkpoint."""
    shutil.rmtree(checkpoints.checkpoint_folder(folder / "checkpoints", 6))
    shutil.rmtree(folder / "student")


def edit_weights(file: Path) -> None:
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 0.25
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(file: Path) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"layer_norm_eps": 1e-5}), encoding="utf-8")


def replace_text(old: str, new: str) -> Callable[[Path], None]:
    """An edit that leaves the file as long as it was."""
    assert len(old) == len(new)

    def edit(file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


@contextmanager
def changed_in_place(file: Path, edit: Callable[[Path], None]) -> Iterator[None]:
    before = file.read_bytes()
    edit(file)
    assert file.read_bytes() != before
    yield
    file.write_bytes(before)


# Masked LM


@pytest.fixture(scope="module")
def own(tiny_world: TinyWorld, tmp_path_factory) -> TinyWorld:
    """Teacher, text and store that these tests may change, with a run that is not finished."""
    root = tmp_path_factory.mktemp("own") / "world"
    shutil.copytree(tiny_world.root, root)
    shutil.rmtree(root / "store")  # it knows where its text lay
    world = TinyWorld(root)
    world.write_config(world.config)
    trained = invoke("train", "--config", str(world.config), *STEPS)
    assert trained.exit_code == 0, trained.stderr
    stop_before_the_end(root / "runs" / "tiny")
    return world


def resume(world: TinyWorld) -> Result:
    return invoke("train", "--config", str(world.config), *STEPS, "--resume")


CHANGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "teacher's weights": ("teacher/model.safetensors", edit_weights, "teacher.model weights"),
    "teacher's config": ("teacher/config.json", edit_config, "teacher.model configuration"),
    "student at start": (
        "runs/tiny/initial-student/model.safetensors",
        edit_weights,
        "initial student weights",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_resume_names_what_changed(own: TinyWorld, name):
    file, edit, what = CHANGES[name]
    run_folder = own.root / "runs" / "tiny"
    before = listing(run_folder / "checkpoints")
    records = (run_folder / "metrics.jsonl").read_bytes()
    with changed_in_place(own.root / file, edit):
        refused = resume(own)
    assert refused.exit_code == 2
    assert errors_of(refused) == [
        f"{run_folder}: what it was trained on has changed since: {what} ({own.root / file})"
    ]
    assert "Put that back as it was and resume again, start again with --force" in refused.stderr
    assert listing(run_folder / "checkpoints") == before
    assert (run_folder / "metrics.jsonl").read_bytes() == records


@pytest.mark.slow
def test_a_store_made_anew_from_other_text(own: TinyWorld):
    """In place, with the same settings: the store by itself is whole and looks right."""
    shutil.move(own.store, own.root / "store-before")
    with changed_in_place(own.text, lambda file: file.write_text("ba be bi bo bu .\n" * 400)):
        refused = resume(own)
    assert refused.exit_code == 2
    [message] = errors_of(refused)
    what = f"data.store content ({own.store}), data.store counts ({own.store})"
    assert message.endswith(f"has changed since: {what}")
    shutil.rmtree(own.store)
    shutil.move(own.root / "store-before", own.store)


@pytest.mark.slow
def test_before_the_first_checkpoint_the_run_folder_knows(own: TinyWorld):
    """The student of the old teacher lies there; the new one must not train it."""
    run_folder = own.root / "runs" / "tiny"
    aside = own.root / "aside"
    shutil.move(run_folder / "checkpoints", aside)
    with changed_in_place(own.root / "teacher" / "model.safetensors", edit_weights):
        refused = resume(own)
    shutil.move(aside, run_folder / "checkpoints")
    assert refused.exit_code == 2
    [message] = errors_of(refused)
    assert message.startswith(f"{run_folder}: what it was trained on has changed since: ")
    assert "teacher.model weights" in message


@pytest.mark.parametrize("num_processes", [2])
def test_every_process_ends_when_one_finds_a_change(own: TinyWorld, num_processes):
    with changed_in_place(own.root / "teacher" / "model.safetensors", edit_weights):
        arguments = ["train", "--config", str(own.config), *STEPS, "--resume"]
        refused = run(*arguments, num_processes=num_processes)
    assert refused.code == 2
    assert refused.stderr.count("teacher.model weights") == 1
    assert "Traceback" not in refused.stderr


def edit_record(folder: Path, edit: Callable[[dict[str, Any]], object]) -> bytes:
    file = folder / "checkpoint.json"
    before = file.read_bytes()
    record = json.loads(before)
    edit(record)
    file.write_text(json.dumps(record), encoding="utf-8")
    return before


def as_format_1(record: dict[str, Any]) -> None:
    for key in ("format", "record_sha256"):
        del record[key]


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "step": lambda record: record["state"].update(step=2),
    "tokens": lambda record: record["state"].update(tokens=0),
    "a key": lambda record: record["state"].update(colour="red"),
    "no key": lambda record: record["state"].pop("step"),
    "type": lambda record: record["state"].update(seconds="long"),
    "state": lambda record: record.update(state=[1]),
    "its own step": lambda record: record.update(step=2),
    "fingerprint": lambda record: record["state"]["identity"].clear(),
    "digest": lambda record: record.update(record_sha256="0" * 64),
    "no digest": lambda record: record.pop("record_sha256"),
    "files": lambda record: record.update(sha256={}),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_state_is_passed_over(own: TinyWorld, name):
    root = own.root / "runs" / "tiny" / "checkpoints"
    newest = checkpoints.checkpoint_folder(root, 4)
    before = edit_record(newest, EDITS[name])
    warnings: list[str] = []
    found = checkpoints.load_latest(root, warnings.append, from_record)
    (newest / "checkpoint.json").write_bytes(before)
    assert found is not None
    assert found.step == 2
    [warning] = warnings
    assert str(newest) in warning
    assert warning.endswith("; trying the one before")


@pytest.mark.parametrize("edit", ["a key", "no key", "type", "step"])
def test_a_state_of_the_first_format_is_looked_at_too(own: TinyWorld, edit):
    """It had no digest: what cannot be a state is found by looking at every value."""
    root = own.root / "runs" / "tiny" / "checkpoints"
    newest = checkpoints.checkpoint_folder(root, 4)
    before = edit_record(
        newest, lambda r: [EDITS[edit](r), r.pop("format"), r.pop("record_sha256")]
    )
    warnings: list[str] = []
    found = checkpoints.load_latest(root, warnings.append, from_record)
    (newest / "checkpoint.json").write_bytes(before)
    assert found is not None
    assert found.step == 2
    assert f"{newest / 'checkpoint.json'}: damaged (its state" in warnings[0]


def test_a_checkpoint_without_fingerprints_is_gone_on_from_with_a_warning(own: TinyWorld, tmp_path):
    """As the version before wrote them."""
    shutil.copytree(own.root / "runs", tmp_path / "runs")
    root = tmp_path / "runs" / "tiny" / "checkpoints"
    for step in (2, 4):
        edit_record(
            checkpoints.checkpoint_folder(root, step),
            lambda r: [r["state"].pop("identity"), as_format_1(r)],
        )
    arguments = ["train", "--config", str(own.config), *STEPS, f"output_dir={tmp_path / 'runs'}"]
    resumed = invoke(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert f"warning: {root / 'step-00000004'}: written by a version that kept no" in resumed.stderr
    assert "resumed after step 4 of 6" in resumed.stderr
    newest = checkpoints.load(root / "step-00000006")
    _, identity = from_record(newest.state)
    assert identity is not None
    assert "teacher.model weights" in identity


def test_what_does_not_matter_may_change(own: TinyWorld, tmp_path):
    """The store and the text elsewhere, who wrote config.json: the content is the same."""
    config = own.root / "teacher" / "config.json"
    found = identity_of_model("m", str(own.root / "teacher"))

    def rewrite(file: Path) -> None:
        tree = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(tree | {"transformers_version": "9.9"}, indent=7))

    with changed_in_place(config, rewrite):
        assert changed(found, identity_of_model("m", str(own.root / "teacher"))) == []
    shutil.copytree(own.root / "teacher", tmp_path / "elsewhere")
    assert changed(found, identity_of_model("m", str(tmp_path / "elsewhere"))) == []


# Tasks


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> tuple[Path, Path]:
    """An unfinished run of a student distilled on a task: its experiment file and root."""
    root = tmp_path_factory.mktemp("task")
    tasks = make_tasks(root)
    train = tasks.experiment("tagging")["train"] | {"max_steps": 6, "save_every": 2}
    common = {"train": train, "validation": {"every": 0}}
    first = tasks.write_config(root / "first.yaml", "tagging", name="first", **common)
    assert invoke("train", "--config", str(first)).exit_code == 0
    shutil.copytree(root / "runs" / "first" / "student", root / "teacher")
    config = tasks.write_config(
        root / "own.yaml",
        "tagging",
        teacher={"model": str(root / "teacher"), "precision": "fp32", "cache": str(root / "kept")},
        loss={"soft_targets": {"weight": 1.0}, "labels": {"weight": 1.0}},
        **common,
    )
    trained = invoke("train", "--config", str(config))
    assert trained.exit_code == 0, trained.stderr
    stop_before_the_end(root / "runs" / "tagging")
    return config, root


TASK_CHANGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a label": ("tagging/train.txt", replace_text("B-X\n", "I-X\n"), "task.train rows"),
    "a word": ("tagging/train.txt", replace_text("ba B", "be B"), "task.train rows"),
    "a dev label": ("tagging/dev.txt", replace_text("B-X\n", "I-X\n"), "task.dev rows"),
    "the source": ("bert/model.safetensors", edit_weights, "student.source weights"),
    "the teacher": ("teacher/model.safetensors", edit_weights, "teacher.model weights"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASK_CHANGES)
def test_a_resume_on_a_task_names_what_changed(task, name):
    config, root = task
    file, edit, what = TASK_CHANGES[name]
    before, kept = listing(root / "runs"), listing(root / "kept")
    with changed_in_place(root / file, edit):
        refused = invoke("train", "--config", str(config), "--resume")
    assert refused.exit_code == 2
    [message] = errors_of(refused)
    run_folder = root / "runs" / "tagging"
    assert message == (
        f"{run_folder}: what it was trained on has changed since: {what} ({root / file})"
    )
    assert listing(root / "runs") == before
    assert listing(root / "kept") == kept  # the teacher did not run over the other inputs


@pytest.mark.slow
def test_a_checkpoint_of_a_task_knows_by_itself(task):
    config, root = task
    (root / "runs" / "tagging" / "identity.json").rename(root / "aside.json")
    with changed_in_place(root / "tagging" / "dev.txt", replace_text("B-X\n", "I-X\n")):
        refused = invoke("train", "--config", str(config), "--resume")
    (root / "aside.json").rename(root / "runs" / "tagging" / "identity.json")
    [message] = errors_of(refused)
    newest = root / "runs" / "tagging" / "checkpoints" / "step-00000004"
    assert message.startswith(f"{newest}: what it was trained on has changed since: task.dev rows")


def test_outputs_of_the_teacher_that_were_made_anew_are_said(task):
    """The same teacher on the same inputs, but the numbers are others: another machine's, say."""
    config, root = task
    [entry] = (root / "kept").iterdir()
    [part] = entry.iterdir()
    before = part.read_bytes()
    tree = root / "runs-before"
    shutil.copytree(root / "runs", tree)
    from distilcli.distillation import teacher_outputs

    tensors = load_file(part)
    for name in tensors:
        tensors[name] += 1e-3
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    mark = f"{entry.name} {teacher_outputs._digest(arrays)}"
    save_file(tensors, part, metadata={teacher_outputs._MARK: mark})
    resumed = invoke("train", "--config", str(config), "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert f"teacher.cache outputs ({entry}) are not those that it was trained" in resumed.stderr
    part.write_bytes(before)
    shutil.rmtree(root / "runs")
    shutil.move(tree, root / "runs")
