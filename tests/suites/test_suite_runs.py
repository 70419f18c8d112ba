"""How the runs of a suite are taken: in which order, as which processes, and each only once.

Most tests have something in place of these processes: jobs that only count, or forked commands.
"""

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_experiments
from hypothesis import given
from hypothesis import strategies as st
from tiny_experiments import listing, start
from tiny_suites import PAIRS, TAGS, invoke, plain_score, regression_model, runs_of, suite_file
from tiny_tasks import NUM_TRAIN, TinyTasks, make_tasks
from typer.testing import Result

from distilcli.cli import suite
from distilcli.config import reading
from distilcli.distillation.identity import Fingerprint
from distilcli.errors import ConfigError, DistilError, Interrupted, RunFolderError
from distilcli.suites import plan as suite_plan
from distilcli.suites import runs
from distilcli.suites.plan import SuiteRun, plan
from distilcli.suites.results import Results
from distilcli.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


# Scheduling, with processes that only count


class FakeJob:
    """A run that takes some looks, in the place of `_Job`.

    Attributes:
        started: every job so far.
        looks: by name of the run, how often it is asked before it has ended.
        failing: names of the runs that fail.
    """

    started: list["FakeJob"]
    looks: dict[str, int]
    failing: set[str]

    def __init__(self, run: SuiteRun, place: int, num_jobs: int, gpus: int) -> None:
        self.run, self.place, self.process = run, place, self
        self.left = self.looks.get(run.name, 1)
        self.signals: list[int] = []
        self.waited = self.finished = False
        self.started.append(self)

    def poll(self) -> int | None:
        if self.waited:
            return 0
        self.left -= 1
        return 0 if self.left < 0 else None

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def wait(self) -> int:
        self.waited = True
        return 0

    def finish(self) -> dict[str, float] | None:
        self.finished = True
        return None if self.run.name in self.failing else {"accuracy": self.run.seed / 8}

    @property
    def log(self) -> Path:
        return Path(f"{self.run.name}.log")

    def last_lines(self) -> list[str]:
        return ["the end of", self.run.name]


class Scheduled:
    """Runs that are taken with fake jobs, and what is checked between two looks."""

    def __init__(self, runs: list[SuiteRun], num_jobs: int, looks: list[int], failing: set[str]):
        self.runs, self.num_jobs, self.failing = runs, num_jobs, failing
        names = [run.name for run in runs]
        own = {"started": [], "failing": failing, "looks": dict(zip(names, looks, strict=False))}
        self.job_class = type("Job", (FakeJob,), own)
        self.notes: list[str] = []
        self.at_look: list[Any] = []

    @property
    def started(self) -> list[FakeJob]:
        return self.job_class.started

    def take(self) -> tuple[Results, list[str]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "_Job", self.job_class)
            patch.setattr(runs, "time", SimpleNamespace(sleep=self.look))
            return runs.take(self.runs, self.num_jobs, 0, self.notes.append)

    def look(self, _seconds: float) -> None:
        """Between two looks: as many run as can, each at a place of its own."""
        running = [job for job in self.started if not job.finished]
        done = {job.run.name for job in self.started if job.finished} - self.failing
        names = {job.run.name for job in self.started}
        ready = [
            run
            for run in self.runs
            if run.name not in names
            and (not run.needs_teacher or f"{run.task}/teacher-{run.seed}" in done)
        ]
        assert len(running) <= self.num_jobs
        assert len(running) == self.num_jobs or not ready
        places = [job.place for job in running]
        assert len(set(places)) == len(places)
        assert set(places) <= set(range(self.num_jobs))
        for action in self.at_look:
            action()


MIXED = {
    "output_dir": "nowhere",
    "tasks": {"pairs": {"task": PAIRS}, "tags": {"task": TAGS, "teacher": "expert"}},
    "baselines": {"other": {"kind": "checkpoint", "model": "m"}},
}
MIXED_RUNS = list(runs_of(seeds=2, **MIXED).values())


@given(
    num_jobs=st.integers(1, 5),
    looks=st.lists(st.integers(0, 4), min_size=len(MIXED_RUNS), max_size=len(MIXED_RUNS)),
    failing=st.sets(st.sampled_from([run.name for run in MIXED_RUNS]), max_size=5),
)
def test_every_run_is_taken_once_after_its_teacher(num_jobs, looks, failing):
    scheduled = Scheduled(MIXED_RUNS, num_jobs, looks, failing)
    results, failed = scheduled.take()
    names = [job.run.name for job in scheduled.started]
    assert len(set(names)) == len(names)
    given_up = {f"pairs/distilled-{seed}" for seed in (1, 2) if f"pairs/teacher-{seed}" in failing}
    assert set(names) == {run.name for run in MIXED_RUNS} - given_up
    assert sorted(failed) == sorted(failing | given_up)
    assert results == {
        (run.task, run.model, run.seed): {"accuracy": run.seed / 8}
        for run in MIXED_RUNS
        if run.name not in failed
    }
    assert not any(job.signals for job in scheduled.started)
    for job in scheduled.started:  # each is told of, with its score or the end of its log
        about = [note for note in scheduled.notes if note.startswith(job.run.name)]
        failed_it = job.run.name in failing
        word = f"failed: see {job.log}" if failed_it else f"{12.5 * job.run.seed:.1f}"
        assert len(about) == 1
        assert word in about[0]
        if failed_it:
            at = scheduled.notes.index(about[0])
            assert scheduled.notes[at + 1 : at + 3] == ["  the end of", f"  {job.run.name}"]


def test_one_at_a_time_goes_in_order():
    scheduled = Scheduled(MIXED_RUNS, 1, [2] * len(MIXED_RUNS), set())
    scheduled.take()
    assert [job.run for job in scheduled.started] == MIXED_RUNS
    assert scheduled.notes[0] == "0 runs are done, 14 are to do, 1 at a time"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_stops_what_runs(number):
    scheduled = Scheduled(MIXED_RUNS, 3, [1, 1, 99, 1] + [99] * 10, set())
    looks = itertools.count(1)
    scheduled.at_look.append(lambda: next(looks) == 6 and signal.raise_signal(number))
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        scheduled.take()
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    assert len(scheduled.started) == 6
    for job in scheduled.started[:3]:
        assert (job.finished, job.signals) == (True, [])
    for job in scheduled.started[3:]:
        assert (job.finished, job.waited) == (False, True)
        assert job.signals == [signal.SIGTERM]


def test_whatever_goes_wrong_no_run_goes_on_unseen():
    scheduled = Scheduled(MIXED_RUNS, 2, [99] * 14, set())
    looks = itertools.count(1)

    def fail() -> None:
        if next(looks) == 3:
            raise RuntimeError("out of order")

    scheduled.at_look.append(fail)
    with pytest.raises(RuntimeError, match="out of order"):
        scheduled.take()
    assert [(job.signals, job.waited) for job in scheduled.started] == [
        ([signal.SIGTERM], True)
    ] * 2


# One job, with a process that is none


class FakeProcess:
    """What `subprocess.Popen` was asked for."""

    def __init__(self, words: list[str], **options: Any) -> None:
        self.words, self.options = words, options
        self.stdout, self.returncode = io.StringIO(""), 0


def started_as(popen: type) -> SimpleNamespace:
    """What a suite uses of `subprocess`, with something in place of `Popen`."""
    return SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE)


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
    assert reading.load_any(Path(config)) == run.experiment
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


# A whole suite


class Forked:
    """In place of `subprocess.Popen`: the command in a process that has imported everything."""

    def __init__(self, words: list[str], stderr: Any, **_: Any) -> None:
        assert words[:3] == [sys.executable, "-m", "distilcli"]
        self.running = start(*words[3:])
        self.log = Path(stderr.name)
        self.returncode: int | None = None
        self.stdout: io.StringIO | None = None

    def poll(self) -> int | None:
        if self.returncode is None and not self.running.processes[0].is_alive():
            self.wait()
        return self.returncode

    def wait(self) -> None:
        if self.returncode is None:
            finished = self.running.wait()
            self.log.write_text(finished.stderr, encoding="utf-8")
            self.returncode, self.stdout = finished.code, io.StringIO(finished.stdout)

    def send_signal(self, number: int) -> None:
        self.running.signal(number)


class Flow:
    """A suite with a damaged model among its baselines, taken again and again."""

    def __init__(self, root: Path, tasks: TinyTasks) -> None:
        self.folder = root / "runs" / "whole"
        broken = root / "broken"
        shutil.copytree(tasks.model, broken)
        weights = broken / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-100])
        self.file = suite_file(
            root / "suite.yaml",
            tasks,
            tasks={"numbers": {"task": tasks.task("regression"), "train": {"num_epochs": 2}}},
            baselines={"broken": {"kind": "checkpoint", "model": str(broken)}},
        )
        self.first = self.take("--jobs", "2", "--json")
        self.after_first = listing(self.folder)
        weights.write_bytes(whole)
        self.mended = self.take("--json")
        self.after_mended = listing(self.folder)
        self.again = self.take()
        self.after_again = listing(self.folder)
        shutil.rmtree(self.folder / "numbers" / "student-1")
        self.removed = self.take("--json")
        self.after_removed = listing(self.folder)
        self.changed = self.take("optim.lr=0.1")

    def take(self, *more: str) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "subprocess", started_as(Forked))
            patch.setenv("COLUMNS", "160")
            return invoke(str(self.file), "--seeds", "1", *more)

    def changed_between(self, before: dict[str, int], after: dict[str, int]) -> set[str]:
        """The runs whose folders differ."""
        parts = [path.split("/") for path, _ in before.items() ^ after.items()]
        return {run for task, run, *inside in (p for p in parts if len(p) > 2) if inside}


@pytest.fixture(scope="module")
def flow(tmp_path_factory, tasks) -> Flow:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return Flow(tmp_path_factory.mktemp("suite"), tasks)


MODELS = ["teacher", "student", "distilled", "broken"]


def saved_student(flow: Flow, model: str) -> Path:
    return flow.folder / "numbers" / f"{model}-1" / "student"


def summaries(result: Result) -> dict[str, Any]:
    """What a suite says of each model on its one task."""
    record = json.loads(result.stdout)
    assert record["suite"] == "whole"
    assert list(record["tasks"]) == ["numbers"]
    found: dict[str, Any] = record["tasks"]["numbers"]["models"]
    return found


@pytest.mark.slow
def test_a_failing_run_is_reported_and_the_others_finish(flow):
    assert flow.first.exit_code == 1
    said = flow.first.stderr
    assert "0 runs are done, 4 are to do, 2 at a time" in said
    log = flow.folder / "numbers" / "broken-1.log"
    assert f"numbers/broken-1 failed: see {log}" in said
    assert "model.safetensors is damaged" in said
    assert "error: 1 runs failed: numbers/broken-1" in said
    assert list(summaries(flow.first)) == MODELS[:3]
    assert json.loads(flow.first.stdout)["macro"]["tasks"] == 1


@pytest.mark.slow
def test_scores_are_those_of_the_saved_students(flow, tasks):
    found = summaries(flow.mended)
    scores = {name: plain_score(saved_student(flow, name), tasks) for name in MODELS}
    for name, summary in found.items():
        assert summary["score"] == "pearson_spearman"
        # Ranks of outputs that are all but equal depend on how sums are rounded.
        assert summary["median"] == pytest.approx(scores[name], abs=1e-3)
        assert summary["lowest"] == summary["highest"] == summary["median"]
        assert summary["seeds"]["1"]["pearson_spearman"] == summary["median"]
        assert {"pearson", "spearman"} < summary["seeds"]["1"].keys()
        retained = scores[name] / scores["teacher"]
        assert summary.get("retained", 1.0) == pytest.approx(retained, rel=1e-2)
    # So that one cannot be taken for another.
    values = sorted(scores[name] for name in MODELS[:3])
    assert min(np.diff(values)) > 5e-3
    record = json.loads(flow.mended.stdout)
    results = Path(record.pop("results"))
    assert results == flow.folder / "results.json"
    assert json.loads(results.read_text()) == record


def test_settings_reach_the_runs(flow):
    """Those of the suite, of its task and of the seed; two epochs are 20 steps."""
    for name in MODELS:
        folder = flow.folder / "numbers" / f"{name}-1"
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2 * NUM_TRAIN // 16
        experiment = reading.load_any(folder / "experiment.yaml")
        assert (experiment.seed, experiment.optim.lr, experiment.task.score) == (
            1,
            3e-3,
            "pearson_spearman",
        )


def test_the_distilled_student_had_the_fine_tuned_teacher(flow):
    folder = flow.folder / "numbers"
    experiment = reading.load_any(folder / "distilled-1" / "experiment.yaml")
    assert experiment.teacher.model == str(saved_student(flow, "teacher"))
    log = (folder / "distilled-1.log").read_text()
    assert f"the teacher runs once over {NUM_TRAIN} inputs" in log
    assert "kl" in log
    alone = (folder / "student-1.log").read_text()
    assert "the teacher runs" not in alone
    # Half of the teacher's layers, both times.
    for name, layers in (("teacher", 4), ("student", 2), ("distilled", 2)):
        config = json.loads((saved_student(flow, name) / "config.json").read_text())
        assert config["num_hidden_layers"] == layers


def test_what_only_training_needed_is_gone(flow):
    for name in MODELS:
        assert (saved_student(flow, name) / "model.safetensors").exists()
        assert not (flow.folder / "numbers" / f"{name}-1" / "checkpoints").exists()
    assert not list(flow.folder.rglob("teacher-outputs*"))


def test_a_mended_cause_runs_what_had_failed_alone(flow):
    assert flow.mended.exit_code == 0, flow.mended.stderr
    assert "3 runs are done, 1 are to do, 1 at a time" in flow.mended.stderr
    assert flow.changed_between(flow.after_first, flow.after_mended) == {"broken-1"}
    found, before = summaries(flow.mended), summaries(flow.first)
    assert list(found) == MODELS
    assert {name: found[name] for name in before} == before
    # What was broken is the teacher's model: started alike, it learnt alike.
    assert found["broken"]["seeds"] == found["teacher"]["seeds"]


def test_a_suite_that_is_done_does_nothing_but_show(flow):
    assert flow.again.exit_code == 0
    assert flow.changed_between(flow.after_mended, flow.after_again) == set()
    assert flow.again.stderr.splitlines() == ["4 runs are done, 0 are to do, 1 at a time"]
    shown = flow.again.stdout
    for model, summary in summaries(flow.mended).items():
        assert model in shown
        assert f"{100 * summary['median']:.1f}" in shown
    assert f"written: {flow.folder / 'results.json'}" in shown
    assert "{" not in shown


def test_a_run_whose_folder_is_gone_is_taken_again_alone(flow):
    assert flow.removed.exit_code == 0, flow.removed.stderr
    assert "3 runs are done, 1 are to do" in flow.removed.stderr
    assert flow.changed_between(flow.after_again, flow.after_removed) == {"student-1"}
    # The same run again, bit for bit.
    assert flow.removed.stdout == flow.mended.stdout


def test_changed_settings_are_refused(flow):
    assert flow.changed.exit_code == 2
    assert "teacher-1" in flow.changed.stderr
    assert "optim.lr" in flow.changed.stderr
    assert flow.changed.stdout == ""
    assert flow.changed_between(flow.after_removed, listing(flow.folder)) == set()


@pytest.mark.slow
def test_runs_are_processes_of_their_own(tmp_path, tasks):
    """As a user starts it, with nothing in place of anything."""
    file = suite_file(tmp_path / "suite.yaml", tasks, "regression")
    arguments = ["suite", str(file), "--seeds", "1", "--jobs", "2", "--json"]
    first = tiny_experiments.run(*arguments)
    assert first.code == 0, first.stderr
    folder = tmp_path / "runs" / "whole"
    for name, summary in first.json["tasks"]["regression"]["models"].items():
        student = folder / "regression" / f"{name}-1" / "student"
        assert summary["median"] == pytest.approx(plain_score(student, tasks), abs=1e-3)
    before = listing(folder / "regression")
    again = tiny_experiments.run(*arguments)
    assert again.json == first.json
    assert "3 runs are done, 0 are to do" in again.stderr
    assert listing(folder / "regression") == before


# Teachers that were fine-tuned before


@pytest.fixture(scope="module")
def expert(tmp_path_factory) -> Path:
    return regression_model(tmp_path_factory.mktemp("expert"), 1)


def with_expert(tmp_path: Path, tasks: TinyTasks, expert: Path) -> Path:
    """A suite of two tasks, of which one brings its teacher."""
    own = {"task": tasks.task("regression"), "teacher": str(expert)}
    both = {"numbers": own, "tags": {"task": tasks.task("tagging")}}
    return suite_file(tmp_path / "suite.yaml", tasks, tasks=both)


def test_a_teacher_of_the_task_is_measured_once_for_every_seed(tmp_path, tasks, expert):
    file = with_expert(tmp_path, tasks, expert)
    suite = suite_plan.load_suite(file)
    results: Results = {("tags", "teacher", 1): {"accuracy": 0.5}}
    runs.measure_teachers(suite, plan(suite, 3, file), results)
    assert results.keys() == {
        ("tags", "teacher", 1),
        *(("numbers", "teacher", seed) for seed in (1, 2, 3)),
    }
    score = plain_score(expert, tasks)
    for seed in (1, 2, 3):
        scores = results["numbers", "teacher", seed]
        assert next(iter(scores)) == "pearson_spearman"
        assert scores["pearson_spearman"] == pytest.approx(score, abs=1e-5)


def test_a_teacher_that_cannot_be_measured_does_not_hide_what_is_done(
    tmp_path, tasks, expert, monkeypatch
):
    """The runs of other tasks took hours: their table is shown and written."""
    damaged = tmp_path / "damaged"
    shutil.copytree(expert, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    file = with_expert(tmp_path, tasks, damaged)
    done = {("tags", model, 1): {"accuracy": 0.5} for model in ("teacher", "student", "distilled")}
    failed = ["numbers/distilled-1"]
    monkeypatch.setattr(suite, "take", lambda *_: (dict(done), failed))
    result = invoke(str(file), "--seeds", "1", "--json")
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert "damaged" in result.stderr
    record = json.loads((tmp_path / "runs" / "whole" / "results.json").read_text())
    assert record["tasks"]["tags"]["models"]["distilled"]["median"] == 0.5
