"""Teachers and students that do not fit: exit code 2, one line, and nothing is written."""

import pytest
from refusals import invoke, refused
from tiny_experiments import listing

pytestmark = pytest.mark.usefixtures("alone_and_offline")

TEACHERS = {
    "no such folder": ("./nowhere", ["./nowhere"]),
    "no masked-LM head": ("headless", ["headless", "no masked-LM head"]),
    "another architecture": ("gpt2", ["gpt2", "which predicts the next token"]),
    "too few positions": ("positions", ["data.max_length 24", "16 positions"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["init-student", "train"])
@pytest.mark.parametrize("case", TEACHERS)
def test_teachers(tiny_world, models, folder, case, command):
    """A folder that is not a usable teacher is refused, and no file is written."""
    name, words = TEACHERS[case]
    model = name if name.startswith(".") else models / name
    arguments = ["--config", str(tiny_world.config), f"output_dir={folder}"]
    refused(command, *arguments, f"teacher.model={model}", words=words)
    assert listing(folder) == {}


STUDENTS = {
    "vocabulary": ("vocabulary", [], ["97 tokens", "the teacher's"]),
    "layers": (
        "narrow",
        ["loss.hidden_states.weight=1", "loss.hidden_states.layers=[1]"],
        ["loss.hidden_states.layers: 1 entries", "the student has"],
    ),
    "positions": ("positions", [], ["data.max_length 24", "16 positions"]),
    "no masked-LM head": ("headless", [], ["headless", "no masked-LM head"]),
    "architecture": ("gpt2", ["student.new_head=true"], ["which predicts the next"]),
}


@pytest.mark.parametrize("command", ["init-student", "train"])
@pytest.mark.parametrize("case", STUDENTS)
def test_students_from_a_checkpoint(tiny_world, models, folder, tmp_path, case, command):
    name, more, words = STUDENTS[case]
    student = {"kind": "checkpoint", "model": str(models / name)}
    config = tiny_world.write_config(tmp_path / "own.yaml", student=student)
    refused(command, "--config", str(config), f"output_dir={folder}", *more, words=words)
    assert listing(folder) == {}


def test_a_student_may_be_narrower_than_its_teacher(tiny_world, models, folder, tmp_path):
    student = {"kind": "checkpoint", "model": str(models / "narrow")}
    config = tiny_world.write_config(tmp_path / "own.yaml", student=student)
    settings = [f"output_dir={folder}", "loss.hidden_cosine.weight=1", "train.max_steps=2"]
    result = invoke("train", "--config", str(config), *settings)
    assert result.exit_code == 0, result.stderr


LAYERS = {
    "outside": ("student.layers=[0,4]", ["student.layers", "4 is not a layer", "has 4"]),
    "none": ("student.layers=[]", ["student.layers", "empty"]),
    "negative": ("student.layers=[-1]", ["student.layers"]),
    "too deep": ("student.num_layers=5", ["student.num_layers 5", "4 layers"]),
}


@pytest.mark.parametrize("command", ["init-student", "train"])
@pytest.mark.parametrize("case", LAYERS)
def test_layers_that_there_are_not(tiny_world, folder, case, command):
    override, words = LAYERS[case]
    arguments = ["--config", str(tiny_world.config), f"output_dir={folder}", override]
    refused(command, *arguments, words=words)
    assert listing(folder) == {}


ALONE = {
    "neither": ([], ["no teacher is named"]),
    "no output": (["--teacher", "TEACHER"], ["--output is missing"]),
    "two teachers": (["--config", "x.yaml", "--teacher", "TEACHER"], ["cannot be used together"]),
    "both": (["--config", "x.yaml", "--layers", "0,1"], ["--layers", "--teacher"]),
    "override": (["--teacher", "TEACHER", "--output", "OUT", "seed=1"], ["seed=1", "--config"]),
    "list": (["--teacher", "TEACHER", "--output", "OUT", "--layers", "0,x"], ["--layers 0,x"]),
    "strategy": (
        ["--teacher", "TEACHER", "--output", "OUT", "--strategy", "middle"],
        ["--strategy middle", "alternate"],
    ),
    "list and strategy": (
        ["--teacher", "TEACHER", "--output", "OUT", "--layers", "0", "--strategy", "top"],
        ["--layers", "--strategy"],
    ),
    "layer": (["--teacher", "TEACHER", "--output", "OUT", "--layers", "9"], ["9", "4"]),
    "no such teacher": (["--teacher", "./nowhere", "--output", "OUT"], ["nowhere"]),
}


@pytest.mark.parametrize("case", ALONE)
def test_init_student_without_a_config(tiny_world, folder, case):
    given, words = ALONE[case]
    places = {"TEACHER": str(tiny_world.teacher), "OUT": str(folder / "student")}
    refused("init-student", *(places.get(word, word) for word in given), words=words)
    assert listing(folder) == {}


def test_a_student_is_not_overwritten(tiny_world, folder):
    arguments = ["--teacher", str(tiny_world.teacher), "--output", str(folder)]
    (folder / "mine.txt").write_text("mine")
    before = listing(folder)
    refused("init-student", *arguments, words=[str(folder), "no distilcli.json", "mine.txt"])
    assert listing(folder) == before
    file = folder / "mine.txt"
    refused("init-student", *arguments[:-1], str(file), words=[str(file)])
    refused("init-student", *arguments[:-1], str(file / "deeper"), words=[str(file)])
    assert listing(folder) == before
