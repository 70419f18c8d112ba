"""The command line of `suite`: which runs it asks for, and what it refuses."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_experiments import listing
from tiny_suites import GLUE, PAIRS, SUITE, invoke, refused, suite_file
from tiny_tasks import TinyTasks, make_tasks

from distilcli.cli import suite
from distilcli.config.experiment import TaskExperiment
from distilcli.errors import Interrupted
from distilcli.suites.plan import SuiteRun
from distilcli.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def taken(monkeypatch) -> list[list[SuiteRun]]:
    """In place of taking runs: they are noted, and nothing comes of them."""
    noted: list[list[SuiteRun]] = []

    def take(runs, num_jobs, gpus, on_note):
        noted.append(runs)
        return {}, []

    monkeypatch.setattr(suite, "take", take)
    return noted


@pytest.fixture
def glue(tmp_path, monkeypatch, taken) -> list[str]:
    """glue of a folder with one task, nothing of which is looked at."""
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    monkeypatch.setattr(suite, "look_at_rows", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return ["glue", "--data", str(tmp_path / "glue")]


def test_a_stopped_suite_says_what_to_type_to_go_on(monkeypatch):
    def stop(*_: Any) -> None:
        raise Interrupted("stopped; it goes on from there:", "", signal.SIGTERM)

    monkeypatch.setattr(suite, "run", stop)
    monkeypatch.setattr(sys, "argv", ["x", "suite", "my suite.yaml", "--seeds", "3"])
    result = invoke("my suite.yaml", "--seeds", "3")
    assert result.exit_code == 143
    assert result.stderr.splitlines()[-1] == "distilcli suite 'my suite.yaml' --seeds 3"


def planned(taken: list[list[SuiteRun]], *arguments: str) -> dict[str, TaskExperiment]:
    """The experiments that a command would run, by model; of seed 1."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    [runs] = taken
    return {run.model: run.experiment for run in runs if run.seed == 1}


def test_a_built_in_suite_of_a_model_and_others_beside_it(glue, taken, tmp_path):
    found = planned(taken, *glue, "m", "models/tiny", "--teacher", "t", "train.global_batch_size=8")
    assert list(found)[:3] == ["teacher", "student", "distilled"]
    assert [e.model_source for e in found.values()] == ["t", "m", "m", "models/tiny"]
    assert [e.teacher is None for e in found.values()] == [True, True, False, True]
    for experiment in found.values():
        assert experiment.output_dir == "runs/glue/RTE"
        assert experiment.train.global_batch_size == 8
    assert len(taken[0]) == 4 * 5  # seeds
    assert (tmp_path / "runs" / "glue" / "results.json").exists()


def test_tasks_that_are_not_there_are_named(glue, taken):
    result = invoke(*glue, "m", "--teacher", "t", "--json")
    assert result.exit_code == 0
    left_out = [line for line in result.stderr.splitlines() if "left out" in line]
    assert len(left_out) == len(GLUE) - 1
    assert all(name in line for name, line in zip(sorted({*GLUE} - {"RTE"}), left_out, strict=True))
    assert list(json.loads(result.stdout)["tasks"]) == ["RTE"]


@pytest.mark.parametrize("name", ["out", "deep/out", "2024", "1e3", "yes", "a: b/out"])
def test_output_is_the_folder_of_the_suite(glue, taken, tmp_path, name):
    """Whatever YAML would take its name for."""
    folder = tmp_path / name
    found = planned(taken, *glue, "m", "--teacher", "t", "--output", str(folder))
    assert found["teacher"].run_folder == folder / "RTE" / "teacher-1"
    assert (folder / "results.json").exists()


def masked_lm_run(folder: Path, teacher: str | None, trained: bool = True) -> Path:
    """A run folder as masked-LM training leaves it, as far as suites look at it."""
    data = {"sources": [{"files": "a.jsonl"}], "store": "s"}
    tree = {"name": folder.name, "teacher": {"model": teacher} if teacher else None, "data": data}
    tree |= {"student": {"source": "t"}}
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    if trained:
        (folder / "student").mkdir()
    return folder


def test_a_run_brings_its_student_and_its_teacher(glue, taken, tmp_path):
    folder = masked_lm_run(tmp_path / "own", "its-teacher")
    found = planned(taken, *glue, str(folder))
    assert found["student"].model_source == str(folder / "student")
    assert found["distilled"].model_source == str(folder / "student")
    assert found["teacher"].model_source == "its-teacher"
    taken.clear()
    assert planned(taken, *glue, str(folder), "--teacher", "t")["teacher"].model_source == "t"


def test_a_run_without_a_teacher_needs_one(glue, taken, tmp_path):
    folder = str(masked_lm_run(tmp_path / "own", None))
    assert refused(*glue, folder) == "suite glue: no teacher"
    assert planned(taken, *glue, folder, "--teacher", "t")["teacher"].model_source == "t"


def test_a_run_that_is_not_trained_yet_is_refused(glue, taken, tmp_path):
    folder = masked_lm_run(tmp_path / "own", "t", trained=False)
    assert str(folder) in refused(*glue, str(folder))
    assert taken == []


def test_a_run_on_a_task_is_no_student_of_a_suite(glue, taken, tmp_path):
    """Its head is of another task."""
    tree = {"name": "own", "task": PAIRS, "teacher": None, "student": {"source": "m"}}
    folder = tmp_path / "own"
    RunFolder(folder).begin(TaskExperiment.model_validate(tree), force=False)
    message = refused(*glue, str(folder), "--teacher", "t")
    assert message == f"{folder / 'experiment.yaml'}: this experiment is on a task"
    assert taken == []


@pytest.mark.parametrize(
    "others", [["a/x", "b/x"], ["a/student"], ["builtin:teacher"], ["a/teacher", "b/student"]]
)
def test_every_model_that_is_named_is_fine_tuned(glue, taken, others):
    found = planned(taken, *glue, "m", *others, "--teacher", "t")
    assert [experiment.model_source for experiment in found.values()][3:] == others


def test_a_run_among_the_other_models_is_its_student(glue, taken, tmp_path):
    folder = masked_lm_run(tmp_path / "own", "t")
    found = planned(taken, *glue, "m", str(folder), "--teacher", "t")
    assert [e.model_source for e in found.values()][3:] == [str(folder / "student")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gleu", "m"], "suite gleu: there is no such suite and no such file"),
        (["tokens", "m", "--teacher", "t"], "suite tokens: its data set has no fixed"),
        (["glue"], "suite glue: no student"),
        (["glue", "m"], "suite glue: no teacher"),
        (["glue", "m", "--teacher", "t", "trian.lr=1"], "override 'trian.lr=1': trian"),
        (["suite.yaml", "m"], "the file of a suite names its models and data"),
        (
            ["suite.yaml", "--teacher", "t"],
            "the file of a suite names its models and da",
        ),
        (["suite.yaml", "--data", "d"], "the file of a suite names its models and data"),
    ],
)
def test_what_the_command_line_gets_wrong(taken, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("suite.yaml").write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    before = listing(tmp_path)
    assert refused(*arguments).startswith(message)
    assert taken == []
    assert listing(tmp_path) == before


def test_a_suite_is_no_run_of_torchrun(glue, taken, monkeypatch):
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert refused(*glue, "m", "--teacher", "t") == "a suite starts processes of its own"


def test_bad_rows_are_found_before_anything_runs(tmp_path, tasks, taken):
    bad = tmp_path / "dev.csv"
    bad.write_text("text,label\nba be,0.5\nba bu,much\n", encoding="utf-8")
    task = tasks.task("regression") | {"dev": {"files": [str(bad)]}}
    both = {"tags": {"task": tasks.task("tagging")}, "numbers": {"task": task}}
    file = suite_file(tmp_path / "suite.yaml", tasks, tasks=both)
    message = refused(str(file))
    assert str(bad) in message
    assert taken == []
    assert not (tmp_path / "runs").exists()
