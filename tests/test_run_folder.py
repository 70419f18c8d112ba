"""The run folder: what may be begun, resumed and replaced in it, and its records."""

import json
import os

import pytest
import yaml

from distilcli.config import Experiment
from distilcli.errors import RunFolderError
from distilcli.experiment_file import load
from distilcli.run_folder import RunFolder, describe_environment, write_atomically


def experiment(**sections: object) -> Experiment:
    data = {"sources": [{"files": "a.txt", "documents": "line"}], "store": "store"}
    tree = {"name": "x", "teacher": {"model": "teacher"}, "data": data}
    return Experiment.model_validate(tree | sections)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "x")


@pytest.fixture
def begun(folder) -> RunFolder:
    folder.begin(experiment(), force=False)
    folder.append_metrics([record(1)])
    return folder


def record(step: int) -> dict:
    return {"step": step, "loss/total": 1 / step}


def test_begin_writes_the_whole_experiment_and_the_environment(folder):
    assert not folder.has_run
    folder.begin(experiment(seed=7), force=False)
    assert load(folder.experiment) == experiment(seed=7)
    assert yaml.safe_load(folder.experiment.read_text())["optim"]["lr"] == 5e-4
    environment = json.loads((folder.root / "environment.json").read_text())
    assert {"python", "packages", "command", "commit", "distilcli"} <= environment.keys()
    assert "torch" in environment["packages"]
    assert sorted(path.name for path in folder.root.iterdir()) == [
        "environment.json",
        "experiment.yaml",
    ]


def test_environment_outside_of_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert describe_environment()["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert describe_environment()["commit"] is None


# Who may use it


def test_a_folder_in_which_nothing_has_run_is_free(folder):
    folder.check(experiment(), resume=False, force=False)
    folder.initial_student.mkdir(parents=True)
    folder.check(experiment(), resume=False, force=False)


@pytest.mark.parametrize("trace", ["metrics", "checkpoints", "student"])
def test_a_run_is_not_overwritten(folder, trace):
    path = getattr(folder, trace)
    path.parent.mkdir(parents=True)
    path.touch() if trace == "metrics" else path.mkdir()
    with pytest.raises(RunFolderError, match="this run folder exists") as error:
        folder.check(experiment(), resume=False, force=False)
    assert str(folder.root) in error.value.message
    assert "--resume" in error.value.hint
    assert "--force" in error.value.hint
    folder.check(experiment(), resume=False, force=True)


FREE = {
    "tokens_per_micro_batch": 512,
    "log_every": 3,
    "save_every": 3,
    "keep_checkpoints": 9,
    "trackers": ["tensorboard"],
}


def test_what_a_resume_may_change(begun):
    begun.check(experiment(), resume=True, force=False)
    begun.check(experiment(train=FREE, output_dir="elsewhere"), resume=True, force=False)


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ({"seed": 1}, ["seed"]),
        ({"optim": {"lr": 1e-3}}, ["optim.lr"]),
        ({"train": {"global_batch_size": 8} | FREE}, ["train.global_batch_size"]),
        ({"teacher": {"model": "another"}}, ["teacher.model"]),
        ({"teacher": None, "student": {"source": "b"}}, ["teacher.model", "student.source"]),
        ({"student": {"layers": [0, 1]}}, ["student.layers"]),
        ({"student": {"kind": "random"}}, ["student.kind", "student.layers"]),
        ({"loss": {"alpha_ce": 1}, "masking": {"smoothing": 0.7}}, ["loss.alpha_ce"]),
    ],
)
def test_what_a_resume_may_not_change(begun, changed, keys):
    with pytest.raises(RunFolderError, match="of another experiment; these keys differ") as error:
        begun.check(experiment(**changed), resume=True, force=False)
    named = error.value.message.rpartition(": ")[2].split(", ")
    assert set(keys) <= set(named)
    assert not any(key.startswith("train.") and key not in keys for key in named)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": no such file"),
        (b"", ": an experiment is a mapping of keys, the file is empty"),
        (b"a: [", ", line 1: expected the node content"),
        (b"\x00", ": not YAML"),
        (b"name: \xff", ", line 1: not UTF-8"),
        (b"[" * 10_000, ", line 1: nested more than 50 deep"),
    ],
)
def test_resume_without_a_readable_experiment(begun, content, message):
    begun.experiment.unlink()
    if content is not None:
        begun.experiment.write_bytes(content)
    with pytest.raises(RunFolderError) as caught:
        begun.check(experiment(), resume=True, force=False)
    assert caught.value.message.startswith(f"{begun.experiment}{message}")
    assert caught.value.exit_code == 2


def test_force_removes_what_ran_and_nothing_else(begun):
    for path in (begun.checkpoints, begun.student, begun.initial_student):
        (path / "deep").mkdir(parents=True)
    (begun.root / "notes.txt").write_text("mine")
    begun.begin(experiment(seed=3), force=True)
    assert not begun.has_run
    assert not begun.initial_student.exists()
    assert (begun.root / "notes.txt").read_text() == "mine"
    assert load(begun.experiment).seed == 3


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunFolderError, match="cannot be written") as error:
        RunFolder(tmp_path / "runs" / "x").begin(experiment(), force=False)
    assert "output_dir" in error.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o555)
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path / "runs" / "x").begin(experiment(), force=False)


# Records


def steps(folder: RunFolder) -> list[int]:
    return [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]


def test_truncate_drops_what_a_resume_does_again(folder):
    folder.root.mkdir(parents=True)
    folder.append_metrics([record(step) for step in range(1, 6)])
    before = folder.metrics.read_text()
    folder.truncate_metrics(5)
    assert folder.metrics.read_text() == before
    folder.truncate_metrics(3)
    assert steps(folder) == [1, 2, 3]
    folder.append_metrics([record(4)])
    assert steps(folder) == [1, 2, 3, 4]
    folder.truncate_metrics(0)
    assert folder.metrics.read_text() == ""


@pytest.mark.parametrize("cut", [2, 5, 20])
def test_truncate_drops_a_half_written_line(folder, cut):
    folder.root.mkdir(parents=True)
    folder.append_metrics([record(1), record(2), record(3)])
    folder.metrics.write_bytes(folder.metrics.read_bytes()[:-cut])
    folder.truncate_metrics(3)
    folder.append_metrics([record(3)])
    assert steps(folder) == [1, 2, 3]


def test_truncate_ends_a_line_that_lacks_only_its_end(folder):
    folder.root.mkdir(parents=True)
    folder.append_metrics([record(1), record(2)])
    folder.metrics.write_bytes(folder.metrics.read_bytes()[:-1])
    folder.truncate_metrics(2)
    folder.append_metrics([record(3)])
    assert steps(folder) == [1, 2, 3]


def test_truncate_without_records(folder):
    folder.truncate_metrics(3)
    assert not folder.metrics.exists()


def test_write_atomically_replaces_or_leaves(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]

    def die(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distilcli.run_folder.os.fsync", die)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "newer")
    assert path.read_text() == "new"


def test_records_that_cannot_be_written(folder):
    folder.metrics.mkdir(parents=True)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: cannot be written"):
        folder.append_metrics([record(1)])
