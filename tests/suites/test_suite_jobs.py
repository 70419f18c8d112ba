"""One run of a suite: its process, what stays of it, and that what is done is not taken again."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scheduled_runs import MIXED, Scheduled, started_as
from tiny_suites import runs_of

from distilcli.config import reading
from distilcli.distillation.identity import Fingerprint
from distilcli.errors import ConfigError, DistilError, RunFolderError
from distilcli.suites import runs
from distilcli.suites.plan import SuiteRun
from distilcli.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


class FakeProcess:
    """What `subprocess.Popen` was asked for."""

    def __init__(self, words: list[str], **options: Any) -> None:
        self.words, self.options = words, options
        self.stdout, self.returncode = io.StringIO(""), 0


@pytest.fixture
def no_process(monkeypatch) -> None:
    monkeypatch.setattr(runs, "subprocess", started_as(FakeProcess))


@pytest.fixture
def run_of(tmp_path) -> dict[str, SuiteRun]:
    return runs_of(**MIXED | {"output_dir": str(tmp_path)})


@pytest.mark.usefixtures("no_process")
def test_a_job_is_train_resume_of_the_runs_experiment(run_of):
    run = run_of["pairs/distilled-1"]
    job = runs._Job(run, 0, 1, 0)
    *words, config, resume, as_json = job.process.words
    assert words == [sys.executable, "-m", "distilcli", "train", "--config"]
    assert {resume, as_json} == {"--resume", "--json"}
    assert reading.load_experiment(Path(config)) == run.experiment
    assert job.process.options["start_new_session"] is True
    assert job.process.options["stdout"] == subprocess.PIPE
    assert not run.experiment.run_folder.exists()  # that is the run's own to make
    log = Path(job.process.options["stderr"].name)
    log.write_text("".join(f"line {index}\n" for index in range(30)), encoding="utf-8")
    assert job.log == log
    assert job.last_lines() == [f"line {index}" for index in range(25, 30)]


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("given_ones", "gpus", "expected_ones"),
    [
        (None, 2, ["0", "1", "0", "1"]),
        (None, 4, ["0", "1", "2", "3"]),
        ("2,5", 2, ["2", "5", "2", "5"]),  # the user gave these two, and no others
        ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b", "GPU-a", "GPU-b"]),
    ],
)
def test_jobs_are_spread_over_the_gpus(run_of, monkeypatch, given_ones, gpus, expected_ones):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given_ones is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given_ones)
    environments = [
        runs._Job(run_of["pairs/student-1"], place, 4, gpus).process.options["env"]
        for place in range(4)
    ]
    found = [environment["CUDA_VISIBLE_DEVICES"] for environment in environments]
    assert found == expected_ones
    assert not any("OMP_NUM_THREADS" in environment for environment in environments)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(("cores", "num_jobs", "threads"), [(8, 2, "4"), (8, 3, "2"), (2, 4, "1")])
def test_jobs_share_the_cores(run_of, monkeypatch, cores, num_jobs, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SOMETHING", "else")
    run = run_of["pairs/student-1"]
    environment = runs._Job(run, 1, num_jobs, 0).process.options["env"]
    assert environment["OMP_NUM_THREADS"] == threads
    assert environment["SOMETHING"] == "else"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""  # as it was
    alone = runs._Job(run, 0, 1, 0).process.options["env"]
    assert alone == dict(os.environ)


@pytest.mark.usefixtures("no_process")
def test_a_suite_folder_that_cannot_be_written_is_refused(run_of, tmp_path):
    (tmp_path / "small").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        runs._Job(run_of["pairs/student-1"], 0, 1, 0)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("name", ["pairs/distilled-1", "tags/distilled-1", "tags/student-1"])
def test_scores_stay_and_what_only_training_needed_goes(run_of, name):
    run = run_of[name]
    folder = RunFolder(run.experiment.run_folder)
    folder.begin(run.experiment, force=False)
    caches = [folder.root.parent / "teacher-outputs-1", folder.root.parent / "teacher-outputs"]
    part = f"{'0a' * 16}/part-00000.safetensors"
    for made in ("checkpoints/step-00000004/checkpoint.json", "student/config.json"):
        (folder.root / made).parent.mkdir(parents=True)
        (folder.root / made).touch()
    for cache in caches:
        (cache / part).parent.mkdir(parents=True)
        (cache / part).touch()
    job = runs._Job(run, 0, 1, 0)
    said = {"held_out": {"held_out/f1": 0.5, "held_out/accuracy": 0.75}, "steps": 9}
    job.process.stdout = io.StringIO(json.dumps(said))
    assert list(job.finish().items()) == [("f1", 0.5), ("accuracy", 0.75)]
    assert list(runs.finished_scores(run).items()) == [("f1", 0.5), ("accuracy", 0.75)]
    assert not folder.checkpoints.exists()
    assert folder.student.exists()
    # The outputs of this seed's teacher; those of a teacher of all seeds are needed again.
    assert [cache.exists() for cache in caches] == [name != "pairs/distilled-1", True]


@pytest.mark.usefixtures("no_process")
def test_what_lies_beside_the_checkpoints_and_outputs_of_a_run_stays(run_of):
    run = run_of["pairs/distilled-1"]
    folder = RunFolder(run.experiment.run_folder)
    folder.begin(run.experiment, force=False)
    entry = folder.root.parent / "teacher-outputs-1" / ("0a" * 16)
    theirs = [folder.checkpoints / "step-best" / "mine", entry / "mine", entry.parent / "mine"]
    ours = [
        folder.checkpoints / "step-00000004" / "checkpoint.json",
        entry / "part-00000.safetensors",
    ]
    for path in (*theirs, *ours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    job = runs._Job(run, 0, 1, 0)
    job.process.stdout = io.StringIO(json.dumps({"held_out": {"held_out/f1": 0.5}}))
    assert job.finish() == {"f1": 0.5}
    assert [path.exists() for path in theirs] == [True] * 3
    assert [path.exists() for path in ours] == [False] * 2


@pytest.mark.usefixtures("no_process")
def test_a_run_that_failed_has_no_scores_and_keeps_its_checkpoints(run_of):
    run = run_of["pairs/distilled-1"]
    folder = RunFolder(run.experiment.run_folder)
    folder.begin(run.experiment, force=False)
    folder.checkpoints.mkdir()
    job = runs._Job(run, 0, 1, 0)
    job.process.returncode = 1
    assert job.finish() is None
    assert runs.finished_scores(run) is None
    assert folder.checkpoints.exists()


# What is done already


def finish(run: SuiteRun, scores: dict[str, float]) -> None:
    """A folder as a finished run leaves it, as far as suites look at it."""
    folder = RunFolder(run.experiment.run_folder)
    folder.begin(run.experiment, force=False)
    folder.student.mkdir(exist_ok=True)
    runs.write_scores(run, scores)


def test_what_is_done_is_not_taken_again(run_of):
    finish(run_of["pairs/teacher-1"], {"accuracy": 0.75})
    finish(run_of["tags/other-1"], {"accuracy": 0.25})
    scheduled = Scheduled(list(run_of.values()), 1, [], set())
    results, failed = scheduled.take()
    assert [job.run.name for job in scheduled.started] == [
        "pairs/student-1",
        "pairs/distilled-1",  # its teacher is there
        "pairs/other-1",
        "tags/student-1",
        "tags/distilled-1",
    ]
    assert failed == []
    assert scheduled.notes[0] == "2 runs are done, 5 are to do, 1 at a time"
    assert results["pairs", "teacher", 1] == {"accuracy": 0.75}
    assert results["tags", "other", 1] == {"accuracy": 0.25}
    assert len(results) == len(run_of)


def test_a_run_with_other_settings_is_refused_before_anything_starts(run_of, tmp_path):
    finish(run_of["tags/other-1"], {"accuracy": 0.25})
    changed = runs_of(**MIXED | {"output_dir": str(tmp_path), "optim": {"lr": 0.5}})
    scheduled = Scheduled(list(changed.values()), 1, [], set())
    with pytest.raises(RunFolderError, match=r"tags/other-1.*optim.lr") as caught:
        scheduled.take()
    assert caught.value.exit_code == 2
    assert scheduled.started == []
    free = {"train": {"save_every": 7, "tokens_per_micro_batch": 512}}  # nothing depends on these
    Scheduled(
        list(runs_of(**MIXED | {"output_dir": str(tmp_path)} | free).values()), 1, [], set()
    ).take()


def test_scores_of_another_teacher_are_refused(run_of, monkeypatch):
    run = run_of["pairs/distilled-1"]
    finish(run, {"accuracy": 0.75})
    before = {"teacher.model weights": Fingerprint("teacher/model.safetensors", "0a")}
    RunFolder(run.experiment.run_folder).write_identity(before)
    monkeypatch.setattr(runs, "identity_of_models", lambda _: before)
    assert runs.finished_scores(run) == {"accuracy": 0.75}
    now = {"teacher.model weights": Fingerprint("teacher/model.safetensors", "0b")}
    monkeypatch.setattr(runs, "identity_of_models", lambda _: now)
    with pytest.raises(RunFolderError, match="its scores are of other models") as caught:
        runs.finished_scores(run)
    assert "teacher.model weights (teacher/model.safetensors) changed" in caught.value.message
    assert "Remove that folder" in caught.value.hint


def test_scores_that_cannot_be_read_are_named(run_of):
    run = run_of["tags/other-1"]
    finish(run, {"accuracy": 0.25})
    file = run.experiment.run_folder / "scores.json"
    file.write_text('{"accuracy": 0.2', encoding="utf-8")
    with pytest.raises(DistilError, match="cannot be read") as caught:
        runs.finished_scores(run)
    assert str(file) in caught.value.message
