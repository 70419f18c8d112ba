"""Several teachers through all commands: masked LM and tasks, killed, resumed, on two processes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from disturbed_runs import finish, kill_at, run_folder
from safetensors.torch import load_file, save_file
from task_models import make_model
from tiny_experiments import (
    TinyWorld,
    bert,
    documents,
    learn,
    metrics,
    relative_difference,
    save,
    weights,
    word_tokenizer,
)
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from typer.testing import CliRunner, Result

from distilcli.cli.app import app
from distilcli.distillation import teacher_outputs

STEPS = ["train.max_steps=6", "train.save_every=2", "validation.every=3"]


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


def error_of(result: Result, code: int = 2) -> str:
    assert result.exit_code == code, result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def student_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student" / "model.safetensors")


# Masked LM


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A narrower teacher, which has learnt the same text."""
    model = bert(hidden_size=24, num_hidden_layers=2)
    learn(model, documents(), steps=150)
    return save(model, tmp_path_factory.mktemp("other") / "teacher")


def command(
    name: str,
    world: TinyWorld,
    folder: Path,
    *others: Path,
    more: tuple[str, ...] = (),
    weight: float = 0.5,
) -> list[str]:
    """With these teachers beside the one of the experiment file."""
    section = [{"model": str(path), "precision": "fp32", "weight": weight} for path in others]
    places = [f"teacher.others={json.dumps(section)}", f"output_dir={folder}"]
    steps = STEPS if name == "train" else []
    return [name, "--config", str(world.config), *places, *steps, *more]


@pytest.fixture(scope="module")
def trained(tiny_world, other, tmp_path_factory) -> Path:
    """A run of two teachers, which nothing disturbed."""
    folder = tmp_path_factory.mktemp("trained")
    finish(command("train", tiny_world, folder, other))
    return folder


def test_the_student_is_another_than_of_one_teacher(tiny_world, trained, tmp_path):
    result = invoke(*command("train", tiny_world, tmp_path))
    assert result.exit_code == 0, result.stderr
    difference = relative_difference(
        student_of(run_folder(trained)), student_of(run_folder(tmp_path))
    )
    assert difference > 1e-4
    found, alone = (metrics(run_folder(folder)) for folder in (trained, tmp_path))
    # The same student at first: only what is compared with the distribution of both differs.
    assert found[0]["loss/mlm"] == alone[0]["loss/mlm"]
    assert found[0]["loss/cos"] == alone[0]["loss/cos"]
    assert abs(found[0]["loss/kl"] - alone[0]["loss/kl"]) > 1e-3


def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(
    tiny_world, other, trained, tmp_path
):
    arguments = command("train", tiny_world, tmp_path, other)
    kill_at(3, tmp_path, *arguments)
    finish([*arguments, "--resume"])
    assert weights(run_folder(tmp_path)) == weights(run_folder(trained))
    assert metrics(run_folder(tmp_path)) == metrics(run_folder(trained))


@pytest.mark.slow
def test_two_processes_train_as_one_does(tiny_world, other, tmp_path):
    students = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        no_dropout = ("student.dropout=0.0", "student.attention_dropout=0.0")
        finish(command("train", tiny_world, folder, other, more=no_dropout), num_processes=number)
        students.append(student_of(run_folder(folder)))
    assert relative_difference(*students) < 1e-5


def test_a_teacher_that_changed_is_named_by_a_resume(tiny_world, other, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs")
    copy = shutil.copytree(other, tmp_path / "teacher")
    found = json.loads((run_folder(trained) / "identity.json").read_text(encoding="utf-8"))
    assert {"teacher.model weights", "teacher.others.0.model weights"} < found.keys()
    file = copy / "model.safetensors"
    tensors = load_file(file)
    tensors["bert.embeddings.word_embeddings.weight"][7, 3] += 0.25
    save_file(tensors, file, metadata={"format": "pt"})
    arguments = command("train", tiny_world, tmp_path / "runs", other)
    shares = command("train", tiny_world, tmp_path / "runs", other, weight=0.75)
    assert "these keys differ: teacher.others" in error_of(invoke(*shares, "--resume"))
    moved = [argument.replace(str(other), str(copy)) for argument in arguments]
    assert "these keys differ: teacher.others" in error_of(invoke(*moved, "--resume"))
    # In its place, where the settings say nothing of it.
    before = (other / "model.safetensors").read_bytes()
    shutil.copy(file, other / "model.safetensors")
    try:
        assert "teacher.others.0.model weights" in error_of(invoke(*arguments, "--resume"))
    finally:
        (other / "model.safetensors").write_bytes(before)


def test_a_dry_run_looks_at_every_teacher(tiny_world, other, tmp_path):
    arguments = command("train", tiny_world, tmp_path, other, more=("--dry-run", "--json"))
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert 0 < record["teacher_loss"] < record["unigram_loss"]
    assert 0 < record["teacher_2_loss"] < record["unigram_loss"]
    assert record["teacher_2_loss"] != record["teacher_loss"]
    knows_nothing = save(bert(), tmp_path / "nothing")
    arguments = command(
        "train", tiny_world, tmp_path, other, knows_nothing, more=("--dry-run", "--json")
    )
    said = error_of(invoke(*arguments))
    assert f"teacher.others.1.model {knows_nothing}: its held-out masked-LM loss" in said


def test_each_teacher_and_their_mean_are_measured(tiny_world, other, trained):
    result = invoke("eval", str(run_folder(trained)), "--no-speed", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    names = ["teacher", "teacher 2", "teachers", "tiny at start", "tiny trained"]
    models = record["models"]
    assert list(models) == names
    assert models["teacher 2"]["path"] == str(other)
    assert models["teachers"]["path"] == f"{tiny_world.teacher}, {other}"
    assert models["teacher"]["scores"]["kl"] == pytest.approx(0.0, abs=1e-6)
    # The mean of distributions: its cross-entropy is below the mean of theirs (Jensen).
    losses = [models[name]["scores"]["loss"] for name in names[:3]]
    assert losses[2] < losses[0] / 1.5 + losses[1] * 0.5 / 1.5
    assert 0 < models["teachers"]["scores"]["kl"] < models["teacher 2"]["scores"]["kl"]
    sizes = [models[name]["parameters"] for name in names[:3]]
    assert sizes[2] == sizes[0] + sizes[1]


@pytest.mark.slow
def test_a_smaller_vocabulary_offloading_and_speed(tiny_world, other, tmp_path):
    more = ("student.vocabulary.keep=75", f"data.store={tmp_path}/store", "teacher.offload=true")
    finish(command("train", tiny_world, tmp_path, other, more=more))
    finished = finish(["eval", str(run_folder(tmp_path)), "--json"])
    models = finished.json["models"]
    assert list(models)[:3] == ["teacher", "teacher 2", "teachers"]
    assert models["teachers"]["speed"] is None
    assert models["teacher 2"]["speed"]["latency_ms"] > 0
    assert models["teachers"]["scores"]["num_masked"] == models["teacher"]["scores"]["num_masked"]


@pytest.mark.parametrize("name", ["prepare", "train"])
def test_teachers_of_other_tokens_are_refused(tiny_world, other, tmp_path, name):
    folder = shutil.copytree(other, tmp_path / "swapped")
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    swapped = text.replace('"ba"', '"??"').replace('"gi"', '"ba"').replace('"??"', '"gi"')
    file.write_text(swapped, encoding="utf-8")
    said = error_of(invoke(*command(name, tiny_world, tmp_path / "runs", other, folder)))
    assert said.startswith(f"teacher.others.1.model {folder}: its tokenizer is another than that")
    assert not (tmp_path / "runs").exists()


def test_teachers_of_another_vocabulary_size_are_refused(tiny_world, tmp_path):
    folder = save(bert(vocab_size=len(word_tokenizer()) + 8), tmp_path / "padded")
    said = error_of(invoke(*command("train", tiny_world, tmp_path / "runs", folder)))
    assert f"teacher.others.0.model {folder}: its vocabulary has 108 tokens" in said
    assert not (tmp_path / "runs").exists()


def test_a_teacher_is_not_written_over(tiny_world, other, tmp_path):
    folder = shutil.copytree(other, tmp_path / "runs" / "tiny" / "student")
    said = error_of(invoke(*command("train", tiny_world, tmp_path / "runs", folder)))
    assert "teacher.others.0.model" in said
    assert "which is read" in said


# Tasks


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def experts(tmp_path_factory) -> list[Path]:
    """Teachers that say different things, though they have learnt none of it."""
    root = tmp_path_factory.mktemp("experts")
    for seed in range(3):
        model = make_model("bert", "sequence", 2, 3, seed, vocab=len(pair_tokenizer()))
        model.save_pretrained(root / str(seed))
        pair_tokenizer().save_pretrained(root / str(seed))
    return [root / str(seed) for seed in range(3)]


def task_command(
    tasks: TinyTasks, experts: list[Path], folder: Path, name: str = "train", **teacher: object
) -> list[str]:
    first, *others = ({"model": str(path), "precision": "fp32"} for path in experts)
    section = {**first, "others": others, "cache": str(folder / "cache")} | teacher
    config = tasks.write_config(
        folder / "config.yaml",
        "classification",
        output_dir=str(folder / "runs"),
        teacher=section,
        student={"num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0},
        loss={"labels": {"weight": 0.5}},
    )
    return [name, "--config", str(config), *(STEPS if name == "train" else [])]


def run_of(folder: Path) -> Path:
    return folder / "runs" / "classification"


def train_task(*arguments: str) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def test_outputs_of_each_teacher_are_kept_and_averaged(tasks, experts, tmp_path):
    """A run that keeps them, one that does not, and one on two processes are the same."""
    folders = [tmp_path / name for name in ("kept", "each step")]
    for folder, more in zip(folders, ({}, {"cache": None}), strict=True):
        folder.mkdir()
        said = train_task(*task_command(tasks, experts, folder, **more)).stderr
        assert ("teacher.others.1 runs once over 160 inputs" in said) == (not more)
    assert len(list((folders[0] / "cache").iterdir())) == 3
    kept, each = (student_of(run_of(folder)) for folder in folders)
    assert relative_difference(kept, each) < 1e-5
    alone = tmp_path / "alone"
    alone.mkdir()
    train_task(*task_command(tasks, experts[:1], alone))
    assert relative_difference(student_of(run_of(alone)), kept) > 1e-3
    # What one of them has said is found again where it is asked alone.
    said = train_task(*task_command(tasks, experts[2:], folders[0]), "name=again").stderr
    assert "the teacher's outputs are in" in said


@pytest.mark.slow
def test_a_task_on_two_processes_is_that_on_one(tasks, experts, tmp_path):
    students = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        finish(task_command(tasks, experts, folder), num_processes=number)
        students.append(student_of(run_of(folder)))
    assert relative_difference(*students) < 1e-5


def test_a_task_that_is_killed_and_resumed_ends_with_the_same_bits(tasks, experts, tmp_path):
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
        train_task(*task_command(tasks, experts, folder))
    run = run_of(folders[1])
    shutil.rmtree(run / "checkpoints" / "step-00000006")  # as if killed in the fifth step
    shutil.rmtree(run / "student")
    train_task(*task_command(tasks, experts, folders[1]), "--resume")
    assert weights(run) == weights(run_of(folders[0]))


def test_outputs_that_were_computed_again_are_told_of(tasks, experts, tmp_path):
    """The same teachers on the same inputs, but one has other numbers: another machine's, say."""
    arguments = task_command(tasks, experts, tmp_path)
    said = train_task(*arguments).stderr
    [line] = [line for line in said.splitlines() if "teacher.others.1 runs once" in line]
    entry = Path(line.rpartition(": ")[2])
    shutil.rmtree(run_of(tmp_path) / "checkpoints" / "step-00000006")
    shutil.rmtree(run_of(tmp_path) / "student")
    [part] = entry.iterdir()
    arrays = {name: tensor.numpy() + 1e-3 for name, tensor in load_file(part).items()}
    mark = f"{entry.name} {teacher_outputs._digest(arrays)}"
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_file(tensors, part, metadata={teacher_outputs._MARK: mark})
    said = train_task(*arguments, "--resume").stderr
    what = f"teacher.cache outputs of teacher.others.1 ({entry}) are not those that it was trained"
    assert what in said
    assert "outputs of teacher.others.0" not in said


def test_each_teacher_of_a_task_and_their_mean_are_measured(tasks, experts, tmp_path):
    train_task(*task_command(tasks, experts, tmp_path))
    result = invoke("eval", str(run_of(tmp_path)), "--speed", "--num-sequences", "4", "--json")
    assert result.exit_code == 0, result.stderr
    models = json.loads(result.stdout)["models"]
    names = ["teacher", "teacher 2", "teacher 3", "teachers", "classification"]
    assert list(models) == names
    assert models["teacher"]["agreement"] == 1.0
    assert models["teachers"]["passes"] == []
    assert len(models["teacher 3"]["passes"]) == 1
    assert models["teachers"]["parameters"] == 3 * models["teacher"]["parameters"]
    table = invoke("eval", str(run_of(tmp_path)), "--speed", "--num-sequences", "4")
    assert table.exit_code == 0, table.stderr


def test_another_tokenizer_may_make_the_same_inputs(tasks, experts, tmp_path):
    """One more token that no text has; with a token that a text has it reads the texts itself."""
    folder = shutil.copytree(experts[1], tmp_path / "more")
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    unused = text.replace('"zu"', '"zy"')
    assert unused != text
    file.write_text(unused, encoding="utf-8")
    alone = "teacher.others.0 reads the texts by itself"
    assert alone not in train_task(*task_command(tasks, [experts[0], folder], tmp_path)).stderr
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    used = text.replace('"ba"', '"??"').replace('"gi"', '"ba"').replace('"??"', '"gi"')
    file.write_text(used, encoding="utf-8")
    assert alone in train_task(*task_command(tasks, [experts[0], folder], tmp_path)).stderr


def test_a_teacher_of_another_task_is_refused(tasks, experts, tmp_path):
    other = tmp_path / "other"
    make_model("bert", "sequence", 3, 2, vocab=len(pair_tokenizer())).save_pretrained(other)
    pair_tokenizer().save_pretrained(other)
    said = error_of(invoke(*task_command(tasks, [experts[0], other], tmp_path)))
    assert said.startswith(f"teacher.others.0.model {other}: its head has 3 outputs")
    assert not (tmp_path / "runs").exists()
