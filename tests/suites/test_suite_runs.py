"""Whole suites, taken again and again: as forked commands, and once as processes of their own."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scheduled_runs import Forked, started_as
from tiny_experiments import listing, metrics
from tiny_suites import invoke, plain_score, regression_model, suite_file
from tiny_tasks import NUM_TRAIN, TinyTasks, make_tasks
from typer.testing import Result

from distilcli.cli import suite
from distilcli.config import reading
from distilcli.suites import plan as suite_plan
from distilcli.suites import runs
from distilcli.suites.plan import plan
from distilcli.suites.results import Results

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


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
        self.removed = self.take("--json", popen=subprocess.Popen)
        self.after_removed = listing(self.folder)
        self.changed = self.take("optim.lr=0.1")

    def take(self, *more: str, popen: type = Forked) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "subprocess", started_as(popen))
            patch.setenv("COLUMNS", "160")
            # A fork takes one thread, a Python of its own all: sums would be rounded otherwise.
            patch.setenv("OMP_NUM_THREADS", "1")
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
        experiment = reading.load_experiment(folder / "experiment.yaml")
        assert (experiment.seed, experiment.optim.lr, experiment.task.score) == (
            1,
            3e-3,
            "pearson_spearman",
        )


def test_the_distilled_student_had_the_fine_tuned_teacher(flow):
    folder = flow.folder / "numbers"
    experiment = reading.load_experiment(folder / "distilled-1" / "experiment.yaml")
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
    """As a user has it taken: by a Python of its own."""
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
def test_rows_without_labels_are_for_the_distilled_student_alone(tmp_path, tasks, monkeypatch):
    """It takes more steps in an epoch; the others are fine-tuned on labels."""
    monkeypatch.setattr(runs, "subprocess", started_as(Forked))
    more = tmp_path / "more.txt"
    more.write_text("".join(f"b{a} d{a} fa g{b}\n" for a in "aeiu" for b in "aeiouaei"))
    task = tasks.task("regression") | {"transfer": {"files": [str(more)]}}
    one = {"task": task, "train": {"num_epochs": 1}}
    file = suite_file(tmp_path / "suite.yaml", tasks, tasks={"numbers": one})
    result = invoke(str(file), "--seeds", "1", "--json")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "runs" / "whole" / "numbers"
    steps = {}
    for name in MODELS[:3]:
        records = metrics(folder / f"{name}-1")
        steps[name] = records[-1]["step"]
        assert ("loss/kl" in records[-1]) == (name == "distilled")
        assert np.isfinite(summaries(result)[name]["median"])
    assert steps == {"teacher": NUM_TRAIN // 16, "student": NUM_TRAIN // 16, "distilled": 12}
    assert NUM_TRAIN // 16 + 32 // 16 == 12


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
