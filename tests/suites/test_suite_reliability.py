"""Calibration and flips of the models of a suite, measured when its runs are done."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_suites import suite_file
from tiny_tasks import TinyTasks, make_tasks

from distilcli.cli import suite as suite_command
from distilcli.cli.console import Console
from distilcli.config.suite import Suite
from distilcli.distillation.task_parts import open_task_of
from distilcli.evaluation.calibration import RELIABILITY_TITLES
from distilcli.evaluation.dev_examples import measured_outputs
from distilcli.models.saving import save_model
from distilcli.models.task_models import (
    build_task_student,
    load_finetuned,
    load_finetuned_teacher,
)
from distilcli.suites import reliability, runs
from distilcli.suites.plan import SuiteRun, load_suite, plan
from distilcli.suites.reliability import add_reliability
from distilcli.suites.results import Results, table
from distilcli.text.tokenizers import load_tokenizer
from distilcli.training.processes import single_accelerator

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def make_student(run: SuiteRun) -> None:
    """The student of a run, never trained, with weights that are random and large."""
    experiment = run.experiment
    task = open_task_of(experiment)
    model = build_task_student(experiment, task, load_finetuned_teacher(experiment, task))
    generator = torch.Generator().manual_seed(len(run.model) + run.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    folder = experiment.run_folder / "student"
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, load_tokenizer(experiment.model_source or experiment.teacher.model), folder)


class Done:
    """A suite whose runs are done, so to say."""

    def __init__(self, file: Path, seeds: int = 1) -> None:
        self.suite: Suite = load_suite(file)
        self.runs = plan(self.suite, seeds, file)
        self.results: Results = {}
        self.said: list[str] = []
        for run in self.runs:
            make_student(run)
            self.results[run.task, run.model, run.seed] = {"accuracy": 0.5}

    def add(self) -> None:
        add_reliability(self.suite, self.runs, self.results, self.said.append, self.said.append)

    def folder(self, model: str, seed: int = 1) -> Path:
        [run] = [run for run in self.runs if (run.model, run.seed) == (model, seed)]
        return run.experiment.run_folder


def answers(done: Done, model: str, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """What a saved student says, by name, and what is right."""
    [run] = [run for run in done.runs if (run.model, run.seed) == (model, seed)]
    task = open_task_of(run.experiment)
    student = load_finetuned(str(done.folder(model, seed) / "student"), task)
    outputs = measured_outputs(task, student, single_accelerator(), 256, model)
    names = np.array([label.lower() for label in task.labels])
    return names[outputs.argmax(axis=1)], names[task.dev.targets]


def assert_flips(done: Done, model: str, teacher: np.ndarray, seed: int = 1) -> None:
    said, right = answers(done, model, seed)
    found = done.results[next(iter(done.suite.tasks)), model, seed]
    assert found["flips"] == pytest.approx((said != teacher).mean())
    lost = (teacher == right) & (said != right)
    assert found["right_to_wrong"] == pytest.approx(lost.mean())
    assert found["accuracy"] == 0.5  # as it was, and first
    assert next(iter(found)) == "accuracy"
    assert 0.0 < found["ece"] < 1.0


def test_students_are_held_against_the_teacher_of_their_seed(tmp_path, tasks):
    done = Done(suite_file(tmp_path / "suite.yaml", tasks, "tagging"), seeds=2)
    done.add()
    for seed in (1, 2):
        teacher, _ = answers(done, "teacher", seed)
        for model in ("teacher", "student", "distilled"):
            assert_flips(done, model, teacher, seed)
        assert done.results["tagging", "teacher", seed]["flips"] == 0.0
        # The one without a teacher, too.
        assert done.results["tagging", "student", seed]["flips"] > 0.0
    one, other = (done.results["tagging", "student", seed]["flips"] for seed in (1, 2))
    assert one != other
    summary = table(done.suite, done.results)["tasks"]["tagging"]["models"]["student"]
    assert summary["reliability"].keys() == RELIABILITY_TITLES.keys()
    assert summary["reliability"]["flips"] == pytest.approx((one + other) / 2)


def test_a_model_is_measured_once(tmp_path, tasks, monkeypatch):
    done = Done(suite_file(tmp_path / "suite.yaml", tasks, "classification"))
    done.add()
    for run in done.runs:
        written = json.loads((run.experiment.run_folder / "scores.json").read_text())
        assert written == done.results["classification", run.model, 1]
    monkeypatch.setattr(reliability, "measured_outputs", None)  # must not be called
    said = len(done.said)
    done.add()
    assert len(done.said) == said


def test_one_that_is_gone_is_told_and_the_others_are_measured(tmp_path, tasks):
    done = Done(suite_file(tmp_path / "suite.yaml", tasks, "classification"))
    shutil.rmtree(done.folder("student") / "student")
    done.add()
    assert done.results["classification", "student", 1] == {"accuracy": 0.5}
    assert any("classification/student-1: no calibration" in text for text in done.said)
    assert "flips" in done.results["classification", "distilled", 1]
    models = table(done.suite, done.results)["tasks"]["classification"]["models"]
    assert models["student"]["reliability"] == {}


def test_numbers_have_neither_flips_nor_calibration(tmp_path, tasks, monkeypatch):
    monkeypatch.setattr(reliability, "open_task_of", None)  # must not be called
    done = Done(suite_file(tmp_path / "suite.yaml", tasks, "regression"))
    done.add()
    assert set(map(tuple, done.results.values())) == {("accuracy",)}


def test_classes_may_be_in_another_order_in_a_teacher_that_was_there_before(tmp_path, tasks):
    first = Done(suite_file(tmp_path / "first.yaml", tasks, "classification"))
    expert = tmp_path / "expert"
    shutil.copytree(first.folder("teacher") / "student", expert)
    config = json.loads((expert / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "yes"}
    config |= {"id2label": {"0": "Yes", "1": "No"}, "label2id": {"Yes": 0, "No": 1}}
    (expert / "config.json").write_text(json.dumps(config))
    said, _ = answers(first, "teacher")
    teacher = np.where(said == "no", "yes", "no")  # the same outputs mean the opposite
    own = {"task": tasks.task("classification"), "teacher": str(expert)}
    file = suite_file(tmp_path / "suite.yaml", tasks, tasks={"classification": own}, name="second")
    done = Done(file)
    runs.measure_teachers(done.suite, done.runs, done.results)
    found = done.results["classification", "teacher", 1]
    assert (found["flips"], found["right_to_wrong"]) == (0.0, 0.0)
    assert 0.0 < found["ece"] < 1.0
    done.add()
    for model in ("student", "distilled"):
        assert_flips(done, model, teacher)


def test_the_suite_shows_them_below_its_scores(tmp_path, tasks, monkeypatch, capsys):
    done = Done(suite_file(tmp_path / "suite.yaml", tasks, "classification"))
    done.add()
    record = table(done.suite, done.results)
    suite_command._show(record, Console(as_json=False))
    shown = capsys.readouterr().out
    assert "flips / right to wrong / ECE in percent" in shown
    found = record["tasks"]["classification"]["models"]["student"]["reliability"]
    assert " / ".join(f"{100 * found[key]:.1f}" for key in RELIABILITY_TITLES) in shown
