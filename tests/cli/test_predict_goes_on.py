"""`predict` goes on where a SIGKILL has ended it, to the same file."""

import pytest
from held_parts import start_held_after_parts
from own_tokenizer_models import random_model, save
from predicting import config, predict, rows_of
from tiny_suites import regression_model
from tiny_tasks import TinyTasks, make_tasks

from distilcli.distillation import predictions, teacher_outputs
from distilcli.distillation.teacher_outputs import TeacherOutputs

pytestmark = pytest.mark.usefixtures("alone_and_offline")
PART = 50  # of 160 inputs: four parts


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """The parts that are computed here, of so many inputs."""
    found: list[int] = []
    compute = TeacherOutputs._compute_part
    for module in (teacher_outputs, predictions):
        monkeypatch.setattr(module, "PART", PART)
    monkeypatch.setattr(
        TeacherOutputs,
        "_compute_part",
        lambda own, model, part, *more: found.append(part) or compute(own, model, part, *more),
    )
    return found


@pytest.mark.parametrize("own_tokenizer", [False, True])
def test_what_is_killed_between_parts_ends_with_the_same_file(
    own_tokenizer, tasks, tmp_path, computed
):
    if own_tokenizer:
        teacher = save(random_model("albert", "sequence", ["LABEL_0"]), tmp_path / "teacher")
    else:
        teacher = regression_model(tmp_path / "teacher", seed=3)
    student = {"source": str(tasks.model)}
    settings = config(tmp_path, tasks, "regression", teacher, student=student)
    whole = predict(tmp_path, teacher, settings, "whole.jsonl")
    assert computed == [0, 1, 2, 3]
    output = tmp_path / "killed.jsonl"
    words = ["predict", str(teacher), "--config", str(settings), "--output", str(output)]
    running = start_held_after_parts(2, PART, *words)
    parts = tmp_path / "killed.jsonl.parts"
    # Not rglob, which would look into folders that are gone when what is in them is written.
    assert running.wait_until(lambda: len(list(parts.glob("*/part-*.safetensors"))) == 2)
    running.kill()
    assert not output.exists()
    computed.clear()
    predict(tmp_path, teacher, settings, "killed.jsonl")
    assert computed == [2, 3]
    assert output.read_bytes() == whole.read_bytes()
    assert len(rows_of(output)) == 160
    assert not parts.exists()
