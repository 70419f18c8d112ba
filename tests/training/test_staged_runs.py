"""Experiments of several stages end as if nothing had happened, wherever they are killed."""

import shutil
import signal
from os.path import relpath
from pathlib import Path

import pytest
import yaml
from disturbed_runs import contents, finish
from held_steps import start_held
from safetensors.torch import load_file, save_file
from staged_runs import STAGES, STEPS, assert_same_stages, make_staged_world, stage
from tiny_experiments import metrics, relative_difference, run, start

from distilcli.config.reading import load_any_experiment, load_of_run
from distilcli.config.stages import StagedExperiment
from distilcli.errors import RunFolderError
from distilcli.files import atomic
from distilcli.training.staged_run import StagedFolder


@pytest.fixture(scope="module")
def staged(tiny_world, tmp_path_factory):
    return make_staged_world(tiny_world, tmp_path_factory.mktemp("staged"))


@pytest.fixture(scope="module")
def whole(staged, tmp_path_factory) -> Path:
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    finished = finish(staged.command(folder, "--json"))
    assert [one["stage"] for one in finished.json["stages"]] == ["general", "short", "task"]
    assert finished.json["student"] == str(folder / "staged" / "student")
    assert "held_out/accuracy" in finished.json["held_out"]
    return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def experiment(staged, folder: Path, *overrides: str) -> StagedExperiment:
    found = load_any_experiment(staged.config, [f"output_dir={folder}", *overrides])
    assert isinstance(found, StagedExperiment)
    return found


# What a run leaves


def test_each_stage_is_a_run_that_starts_from_the_student_before(staged, whole):
    """With its own data, losses and length; the whole run has what all of them were."""
    for name, before in zip(STAGES[1:2], STAGES, strict=False):
        start = (stage(whole, name) / "initial-student" / "model.safetensors").read_bytes()
        assert start == (stage(whole, before) / "student" / "model.safetensors").read_bytes()
    for name in STAGES:
        assert [one["step"] for one in metrics(stage(whole, name))][-1] == STEPS[name]
        assert load_of_run(stage(whole, name) / "experiment.yaml").name == name
    assert not (stage(whole, "3-task") / "initial-student").exists()
    again = load_any_experiment(whole / "staged" / "experiment.yaml")
    assert again == experiment(staged, whole)
    temperatures = [one["temperature/soft_targets"] for one in metrics(stage(whole, "1-general"))]
    assert temperatures == [4.0, 3.25, 2.5, 1.75, 1.0]
    assert [one["weight/masked_lm"] for one in metrics(stage(whole, "2-short"))][::2] == [0.0, 2.0]


def test_a_finished_run_says_so_and_writes_nothing(staged, whole):
    before = contents(whole)
    finished = finish(staged.command(whole, "--resume", "--json"))
    assert finished.json["already_finished"]
    assert [one["already_finished"] for one in finished.json["stages"]] == [True] * 3
    assert contents(whole) == before
    refused = run(*staged.command(whole))
    assert refused.code == 2
    assert "this run folder exists" in refused.stderr


# Killed and stopped


@pytest.mark.slow
def test_killed_inside_of_stages_and_between_them(staged, whole, tmp_path):
    """One run that is killed again and again goes on to the end of one that was not."""
    arguments = [*staged.command(tmp_path), "--resume"]
    reached = [
        "staged/stages/1-general/metrics.jsonl",
        "staged/stages/1-general/student",
        "staged/stages/2-short/experiment.yaml",
        "staged/stages/2-short/initial-student",
        "staged/stages/2-short/student",
        "staged/stages/3-task/metrics.jsonl",
        "staged/stages/3-task/student",
    ]
    for path in reached:
        running = start(*arguments)
        assert running.wait_until((tmp_path / path).exists, pause=0), running.wait()
        running.kill()
    finish(arguments)
    assert_same_stages(tmp_path, whole)


@pytest.mark.slow
def test_two_processes_go_through_all_stages(staged, whole, tmp_path):
    """In one group, killed in the second stage; the same steps but for dropout and rounding."""
    arguments = staged.command(tmp_path, "student.dropout=0", "student.attention_dropout=0")
    start_of_second = stage(tmp_path, "2-short") / "metrics.jsonl"
    running = start(*arguments, num_processes=2)
    assert running.wait_until(start_of_second.exists), running.wait()
    running.kill()
    finish([*arguments, "--resume"], num_processes=2)
    alone = tmp_path / "alone"
    finish([*arguments, f"output_dir={alone}"])
    for name in STAGES:
        found, expected = (
            load_file(stage(folder, name) / "student" / "model.safetensors")
            for folder in (tmp_path, alone)
        )
        assert relative_difference(found, expected) < 1e-4


def test_a_signal_in_the_last_step_of_a_stage_stops_before_the_next(staged, whole, tmp_path):
    """Told to one of two processes, when nothing of the stage is left to be stopped."""
    arguments = staged.command(tmp_path)
    gate = tmp_path / "gate"
    last = STEPS["1-general"] - 1
    running = start_held(last, gate, *arguments, num_processes=2)
    path = stage(tmp_path, "1-general") / "metrics.jsonl"
    assert running.wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") == last)
    running.signal(signal.SIGTERM)
    gate.touch()
    finished = running.wait()
    assert [process.exitcode for process in running.processes] == [143, 143], finished.stderr
    assert "stopped by SIGTERM after the last step; " in finished.stderr
    assert finished.stderr.splitlines()[-1].endswith("--resume")
    assert (stage(tmp_path, "1-general") / "student").exists()
    assert not stage(tmp_path, "2-short").exists()


# What has changed since


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stages.0.train.max_steps=6"], "1-general: its checkpoints are of another experiment; "),
        (["stages.1.loss.temperature=3"], "2-short: its checkpoints are of another experiment; "),
        (["student.num_layers=1"], "1-general: its checkpoints are of another experiment; "),
        (["stages.1.name=other"], "2-short: trained by another experiment: no stage has this "),
    ],
)
def test_a_stage_that_has_begun_may_not_change(staged, whole, overrides, said):
    folder = StagedFolder(experiment(staged, whole, *overrides))
    with pytest.raises(RunFolderError) as error:
        folder.check(resume=True, force=False)
    assert said in error.value.message


def test_stages_that_have_not_begun_may_change_and_come(staged, copy):
    """And what changes the cadence alone; also where the run has been moved."""
    shutil.rmtree(stage(copy, "3-task"))
    tree = yaml.safe_load(staged.config.read_text())
    tree["stages"][2]["train"]["max_steps"] = 2
    tree["stages"].append(tree["stages"][2] | {"name": "again"})
    path = copy / "more.yaml"
    path.write_text(yaml.safe_dump(tree))
    command = ["train", "--config", str(path), f"output_dir={copy}", "stages.0.train.save_every=3"]
    finish([*command, "--resume"])
    last = stage(copy, "4-again") / "student" / "model.safetensors"
    assert (copy / "staged" / "student" / "model.safetensors").read_bytes() == last.read_bytes()
    written = load_any_experiment(copy / "staged" / "experiment.yaml")
    assert [one.name for one in written.stages] == ["general", "short", "task", "again"]


def test_a_student_that_was_replaced_is_not_gone_on_from(staged, copy):
    """Neither by a stage that trains on it itself nor by one that has a copy of it."""
    for name, before in (("3-task", "2-short"), ("2-short", "1-general")):
        shutil.rmtree(stage(copy, name) / "student")
        path = stage(copy, before) / "student" / "model.safetensors"
        tensors = load_file(path)
        next(iter(tensors.values())).add_(1.0)
        save_file(tensors, path, metadata={"format": "pt"})
        refused = run(*staged.command(copy), "--resume")
        assert refused.code == 2
        assert f"stage {name[2:]}: {stage(copy, name)}: what it was trained on" in refused.stderr
        assert f"student of stage {before[0]} weights" in refused.stderr


def test_an_experiment_without_stages_does_not_take_their_folder(staged, whole, tiny_world):
    path = ["--config", str(tiny_world.config), "name=staged", f"output_dir={whole}"]
    for resume in ([], ["--resume"]):
        refused = run("train", *path, *resume)
        assert refused.code == 2
        said = "another experiment; these keys differ" if resume else "this run folder exists"
        assert said in refused.stderr


def test_stages_do_not_take_the_folder_of_an_experiment_without(staged, tmp_path):
    (tmp_path / "staged" / "checkpoints").mkdir(parents=True)
    folder = StagedFolder(experiment(staged, tmp_path))
    with pytest.raises(RunFolderError, match="trained by another experiment: it had no stages"):
        folder.check(resume=True, force=False)


# Starting again


def test_force_removes_all_stages_before_the_first_begins(staged, copy):
    """So that what is killed then has nothing of the run before, but for its beginning."""
    (stage(copy, "2-short") / "notes.txt").write_text("mine")
    folder = StagedFolder(experiment(staged, copy))
    folder.begin(force=True)
    left = {"experiment.yaml", "environment.json", ".lock", "stages/2-short/notes.txt"}
    found = contents(copy / "staged").keys()
    assert {path for path in found if not path.startswith("stages/1-general/")} == left
    assert folder.num_finished() == 1


def test_a_run_that_is_started_again_is_that_of_the_settings_of_now(staged, copy):
    words = [*staged.command(copy), "--force", "--json", "stages.0.train.max_steps=1"]
    finished = finish([*words, "stages.1.train.max_steps=2", "stages.2.name=last"])
    assert [one["steps"] for one in finished.json["stages"]] == [1, 2, STEPS["3-task"]]
    assert not stage(copy, "3-task").exists()


def test_what_is_wrong_with_the_first_stage_is_found_before_anything_is_written(staged, copy):
    """Also where the run before would be removed."""
    before = contents(copy)
    for folder, option in ((copy, ["--force"]), (copy / "other", [])):
        refused = run(*staged.command(folder), *option, "teacher.model=/nowhere")
        assert refused.code == 2
        assert "stage general: teacher.model /nowhere" in refused.stderr
    assert contents(copy) == before
    assert not (copy / "other").exists()


def test_the_teachers_of_later_stages_are_looked_for_before_the_first_is_trained(staged, copy):
    """But for one that a stage before trains."""
    before = contents(copy)
    refused = run(*staged.command(copy / "other"), "stages.1.teacher.model=/nowhere")
    assert refused.code == 2
    assert "stage short: teacher.model /nowhere: no such folder" in refused.stderr
    assert contents(copy) == before
    trained_there = copy / "other" / "staged" / "stages" / "1-general" / "student"
    finish(staged.command(copy / "other", f"stages.1.teacher.model={relpath(trained_there)}"))


def test_force_removes_nothing_where_something_else_lies(staged, copy):
    (stage(copy, "2-short") / "student" / "notes.txt").write_text("mine")
    before = contents(copy)
    folder = StagedFolder(experiment(staged, copy))
    with pytest.raises(RunFolderError, match=r"it holds what distilcli did not write: notes\.txt"):
        folder.begin(force=True)
    assert contents(copy) == before


def test_a_run_has_its_folder_to_itself(staged, whole):
    """Also while it is between two stages, in neither of which it trains."""
    before = contents(whole)
    with atomic.locked(whole / "staged" / ".lock", 0.0):
        refused = run(*staged.command(whole), "--resume", "train.timeout_seconds=1")
    assert refused.code == 2
    assert "another process trains here" in refused.stderr
    assert contents(whole) == before


# The other commands


def test_a_dry_run_tries_all_stages_and_writes_nothing(staged, whole, tmp_path):
    finished = finish([*staged.command(tmp_path), "--dry-run", "--json"])
    assert [one["stage"] for one in finished.json["stages"]] == ["general", "short", "task"]
    assert all(len(one["losses"]) == 2 for one in finished.json["stages"])
    assert finished.json["seconds_to_finish"] > 0
    assert list(tmp_path.iterdir()) == []


def test_prepare_init_student_and_eval(staged, whole, tmp_path):
    """All data; the student of the first stage; the student of the last."""
    words = ["--config", str(staged.config), f"output_dir={tmp_path}", "--json"]
    prepared = finish(["prepare", *words, f"stages.1.data.store={tmp_path / 'store'}"])
    assert [one["stage"] for one in prepared.json["stages"]] == ["general", "short", "task"]
    assert (tmp_path / "store" / "manifest.json").exists()
    made = finish(["init-student", *words])
    assert made.json["student"] == str(stage(tmp_path, "1-general") / "initial-student")
    for names in ([str(whole / "staged")], ["--config", str(staged.config)]):
        found = finish(["eval", *names, f"output_dir={whole}", "--json", "--output", str(tmp_path)])
        [model] = found.json["models"].values()
        assert model["path"] == str(whole / "staged" / "student")
    text = finish(["eval", str(stage(whole, "2-short")), "--no-speed", "--json"])
    assert len(text.json["models"]) == 3
