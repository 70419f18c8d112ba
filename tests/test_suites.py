"""Suites: which runs they are, how these are taken, what they come to; and speeds on a task."""

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
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny_experiments
import torch
import yaml
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from tiny_experiments import bert, listing, start
from tiny_tasks import MAX_LENGTH, NUM_DEV, NUM_TRAIN, TinyTasks, make_tasks, pair_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)
from typer.testing import CliRunner, Result

from distilcli import experiment_file, suite_results, suite_runs, suites
from distilcli.attention import use_packed_attention
from distilcli.cli import app
from distilcli.commands import evaluate_suite
from distilcli.errors import ConfigError, DataError, DistilError, Interrupted, RunFolderError
from distilcli.run_folder import RunFolder
from distilcli.suite_results import Results
from distilcli.suites import Suite, SuiteRun, builtin_suite, plan
from distilcli.task_config import TaskExperiment
from distilcli.tasks import speed
from distilcli.tasks.inputs import Inputs, join

ROWS = {"train": {"files": "train.csv"}, "dev": {"files": "dev.csv"}}
PAIRS = {"kind": "classification", "max_length": 32} | ROWS
TAGS = {"kind": "tagging", "max_length": 128} | ROWS
SUITE = {
    "name": "small",
    "teacher": "big-bert",
    "student": {"num_layers": 2},
    "tasks": {"pairs": {"task": PAIRS}, "tags": {"task": TAGS}},
}
GLUE = ["CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI"]
WHERE = Path("suite.yaml")


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch):
    """A command has a process of its own; here each gets an accelerator of its own."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def suite_of(**changes: Any) -> Suite:
    return Suite.model_validate(SUITE | changes)


def runs_of(seeds: int = 1, **changes: Any) -> dict[str, SuiteRun]:
    """The runs of SUITE with some keys changed, by name, in order."""
    return {run.name: run for run in plan(suite_of(**changes), seeds, WHERE)}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", *arguments])


def refused(*arguments: str) -> str:
    """The error line of a command that must end with code 2 and say nothing on stdout."""
    result = invoke(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return error.removeprefix("error: ")


# Which runs a suite is


def test_runs_in_order():
    assert list(runs_of(seeds=2, baselines={"other": {"kind": "checkpoint", "model": "m"}})) == [
        f"{task}/{model}-{seed}"
        for seed in (1, 2)
        for task in ("pairs", "tags")
        for model in ("teacher", "student", "distilled", "other")
    ]


def expected(**sections: Any) -> TaskExperiment:
    """A run of `pairs` with seed 1, by hand."""
    common = {"output_dir": "runs/small/pairs", "seed": 1, "task": PAIRS, "teacher": None}
    return TaskExperiment.model_validate(common | sections)


def test_each_run_is_the_experiment_that_its_model_needs():
    dropouts = {"dropout": 0.3, "attention_dropout": 0.2}
    runs = runs_of(
        student={"num_layers": 2, "layers": "top"} | dropouts,
        baselines={"other": {"kind": "checkpoint", "model": "m"}},
        train={"num_epochs": 7},
        optim={"lr": 0.001},
        loss={"alpha_ce": 3.0},
    )
    settings = {"train": {"num_epochs": 7}, "optim": {"lr": 0.001}}
    copied = {"kind": "copied", "num_layers": 2, "layers": "top"} | dropouts
    fine_tuned = {
        "model": "runs/small/pairs/teacher-1/student",
        "cache": "runs/small/pairs/teacher-outputs-1",
    }
    for name, sections in {
        "teacher": {"student": {"kind": "checkpoint", "model": "big-bert"} | dropouts},
        "student": {"student": copied | {"source": "big-bert"}},
        "distilled": {"student": copied, "teacher": fine_tuned, "loss": {"alpha_ce": 3.0}},
        "other": {"student": {"kind": "checkpoint", "model": "m"}},
    }.items():
        run = runs[f"pairs/{name}-1"]
        assert run.experiment == expected(name=f"{name}-1", **settings, **sections)
        assert (run.task, run.model, run.seed) == ("pairs", name, 1)
        assert run.needs_teacher == (name == "distilled")


@pytest.mark.parametrize(
    "student",
    [{"source": "small-bert", "num_layers": 2}, {"kind": "checkpoint", "model": "small-bert"}],
)
def test_a_student_with_a_source_starts_from_it_both_ways(student):
    runs = runs_of(student=student)
    alone, distilled = (runs[f"pairs/{name}-1"].experiment for name in ("student", "distilled"))
    assert alone.student == distilled.student
    assert alone.model_source == distilled.model_source == "small-bert"
    assert alone.teacher is None


def test_a_task_may_bring_a_teacher_of_its_own():
    """It is not fine-tuned again, nobody waits for it, and its outputs are kept for all seeds."""
    changed = {"pairs": {"task": PAIRS, "teacher": "expert"}, "tags": {"task": TAGS}}
    runs = runs_of(seeds=2, tasks=changed)
    assert [name for name in runs if "teacher" in name] == ["tags/teacher-1", "tags/teacher-2"]
    for seed in (1, 2):
        own, other = (runs[f"{task}/distilled-{seed}"] for task in ("pairs", "tags"))
        assert (own.needs_teacher, other.needs_teacher) == (False, True)
        assert own.experiment.teacher.model == "expert"
        assert own.experiment.teacher.cache == "runs/small/pairs/teacher-outputs"
        assert other.experiment.teacher.cache == f"runs/small/tags/teacher-outputs-{seed}"
    # Without distillation the student still starts from the pretrained one.
    assert runs["pairs/student-1"].experiment.model_source == "big-bert"


@given(
    epochs=st.tuples(st.integers(1, 9), st.none() | st.integers(1, 9)),
    rate=st.tuples(st.none() | st.just(1e-5), st.none() | st.just(0.5)),
    temperature=st.tuples(st.none() | st.just(3.0), st.none() | st.just(4.0)),
    seeds=st.integers(1, 3),
)
def test_all_models_of_a_task_have_the_same_settings(epochs, rate, temperature, seeds):
    """The task's over the suite's over the defaults; other tasks have none of the task's."""

    def sections(place: int) -> dict[str, Any]:
        return {
            "train": {"num_epochs": epochs[place]} if epochs[place] else {},
            "optim": {"lr": rate[place]} if rate[place] else {},
            "loss": {"temperature": temperature[place]} if temperature[place] else {},
        }

    changed = {"pairs": {"task": PAIRS} | sections(1), "tags": {"task": TAGS}}
    baselines = {"other": {"kind": "checkpoint", "model": "m"}}
    for run in plan(suite_of(tasks=changed, baselines=baselines, **sections(0)), seeds, WHERE):
        experiment = run.experiment
        own = run.task == "pairs"
        assert experiment.train.num_epochs == ((own and epochs[1]) or epochs[0])
        assert experiment.optim.lr == ((own and rate[1]) or rate[0] or 5e-5)
        wanted = (own and temperature[1]) or temperature[0] or 2.0
        distils = run.model == "distilled"  # without a teacher there are labels alone
        assert experiment.loss.temperature == (wanted if distils else 2.0)
        assert experiment.seed == run.seed
        assert experiment.task.kind == ("classification" if own else "tagging")
        # What nobody says is a default, for every model.
        assert experiment.train.global_batch_size == 32
        assert experiment.loss.alpha_hard == experiment.loss.alpha_ce == 1.0


@given(
    seeds=st.integers(1, 4),
    own_teachers=st.lists(st.booleans(), min_size=1, max_size=4),
    num_baselines=st.integers(0, 2),
)
def test_teachers_come_first_and_no_two_runs_share_a_folder(seeds, own_teachers, num_baselines):
    named = {
        f"t{index}": {"task": TAGS, "teacher": "expert" if own else None}
        for index, own in enumerate(own_teachers)
    }
    baselines = {
        f"b{index}": {"kind": "checkpoint", "model": "m"} for index in range(num_baselines)
    }
    runs = plan(suite_of(tasks=named, baselines=baselines), seeds, WHERE)
    assert len(runs) == seeds * sum(2 + num_baselines + (not own) for own in own_teachers)
    assert len({run.experiment.run_folder for run in runs}) == len(runs)
    assert len({(run.task, run.model, run.seed) for run in runs}) == len(runs)
    finished = set()
    for run in runs:
        if run.needs_teacher:
            assert run.experiment.teacher.model in finished
        finished.add(str(run.experiment.run_folder / "student"))


# Suite files


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "suite.yaml"


def load(path: Path, *overrides: str, **changes: Any) -> Suite:
    path.write_text(yaml.safe_dump(SUITE | changes), encoding="utf-8")
    return suites.load(path, list(overrides))


def complaint(path: Path, *overrides: str, **changes: Any) -> str:
    """What is said of a suite file that cannot be planned, with PATH for the file."""
    with pytest.raises(ConfigError) as caught:
        plan(load(path, *overrides, **changes), 1, path)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(path), "PATH")


def test_a_file_and_overrides(path):
    loaded = load(path, "name=other", "output_dir=elsewhere", "tasks.tags.train.num_epochs=9")
    assert loaded.folder == Path("elsewhere/other")
    assert loaded.tasks["tags"].train == {"num_epochs": 9}
    assert loaded.tasks["pairs"].train == {}
    assert load(path) == suite_of()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"techer": "m"}, "techer: unknown key; did you mean teacher?"),
        ({"task": PAIRS}, "task: unknown key; did you mean tasks?"),
        ({"tasks": {}}, "tasks: needs 1 or more"),
        ({"name": "../up"}, "name: must match ^[A-Za-z0-9]"),
        ({"student": {"kind": "random"}}, "student.kind: must be copied or checkpoint"),
        ({"student": {"num_layer": 2}}, "student.num_layer: unknown key; did you mean student.num"),
        ({"train": {"num_epoch": 1}}, "train.num_epoch: unknown key; did you mean train.num_epoc"),
        ({"optim": {"lr": "fast"}}, "optim.lr: must be a number (given: 'fast')"),
        (
            {"baselines": {"student": {"source": "m"}}},
            "baselines: student is the name of a model that is there anyway",
        ),
    ],
)
def test_a_mistake_is_answered_with_file_and_key(path, changes, message):
    assert complaint(path, **changes).startswith(f"PATH: {message}")


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", ""])
@pytest.mark.parametrize("section", ["tasks", "baselines"])
def test_names_become_folders(path, section, name):
    value = {"tasks": {"task": TAGS}, "baselines": {"source": "m"}}[section]
    message = complaint(path, **{section: {name: value}})
    assert message.startswith(f"PATH: {section}")
    assert "must match ^[A-Za-z0-9]" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tasks": {"pairs": {"task": PAIRS | {"max_lenght": 8}}}},
            "tasks.pairs.task.max_lenght: unknown key; did you mean tasks.pairs.task.max_length?",
        ),
        (
            {"tasks": {"pairs": {"task": PAIRS | {"kind": "foo"}}}},
            "tasks.pairs.task.kind: must be classification, multi-label",
        ),
        ({"tasks": {"pairs": {"task": ROWS}}}, "tasks.pairs.task.kind: must be classification"),
        ({"tasks": {"pairs": {"task": "sst2"}}}, "tasks.pairs.task: this is a section"),
        ({"tasks": {"pairs": {"train": {}}}}, "tasks.pairs.task: this key is required"),
        (
            {"tasks": {"pairs": {"task": PAIRS, "tran": {}}}},
            "tasks.pairs.tran: unknown key; did you mean tasks.pairs.train?",
        ),
        (
            {"tasks": {"pairs": {"task": PAIRS | {"dev": {"files": []}}}}},
            "tasks.pairs.task.dev.files: needs 1 or more",
        ),
        (
            {"baselines": {"other": {"kind": "checkpoint", "modl": "m"}}},
            "baselines.other.modl: unknown key; did you mean baselines.other.model?",
        ),
        (
            {"baselines": {"other": {"kind": "foo"}}},
            "baselines.other.kind: must be copied or check",
        ),
    ],
)
def test_a_mistake_below_a_name_is_answered_with_the_whole_key(path, changes, message):
    assert complaint(path, **changes).startswith(f"PATH: {message}")


def test_an_override_below_a_name_is_answered_with_the_whole_key(path):
    message = complaint(path, "tasks.pairs.task.max_lenght=8")
    assert message.startswith(
        "override 'tasks.pairs.task.max_lenght=8': tasks.pairs.task.max_lenght: unknown key"
    )


@pytest.mark.parametrize(
    ("changes", "place", "key"),
    [
        (
            {"tasks": {"tags": {"task": TAGS}, "pears": {"task": PAIRS, "train": {"lrr": 1}}}},
            "pears",
            "train.lrr",
        ),
        ({"baselines": {"plums": {"kind": "copied"}}}, "plums", "source"),
        (
            {"tasks": {"tags": {"task": TAGS}, "pears": {"task": PAIRS | {"max_length": 5000}}}},
            "pears",
            "task.max_length 5000",
        ),
    ],
)
def test_a_setting_of_one_task_or_model_that_cannot_be_is_named_with_it(path, changes, place, key):
    message = complaint(path, **changes)
    assert message.startswith("PATH: ")
    assert key in message
    assert place in message


# Built-in suites


def built_in(name: str, data: Path | None, **student: Any) -> tuple[Suite, list[str]]:
    tree, left_out = builtin_suite(name, data, "t", student or {"kind": "checkpoint", "model": "m"})
    return Suite.model_validate(tree), left_out


def test_glue_of_a_folder_leaves_out_what_is_not_there(tmp_path):
    for name in ("WNLI", "RTE", "CoLA", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "MRPC").touch()  # a file is no folder of a task
    suite, left_out = built_in("glue", tmp_path)
    assert list(suite.tasks) == ["CoLA", "RTE", "WNLI"]
    assert left_out == ["MNLI", "MRPC", "QNLI", "QQP", "SST-2", "STS-B"]
    for name, task in suite.tasks.items():
        assert (task.task.kind, task.task.name) == ("glue", name)
        assert task.task.folder == str(tmp_path / name)
    with pytest.raises(DataError, match="there is no folder of a GLUE task") as caught:
        builtin_suite("glue", tmp_path / "other", "t", {})
    assert "CoLA, MNLI" in caught.value.hint


def test_glue_of_the_hub_has_all_nine_and_more_epochs_for_small_ones():
    suite, left_out = built_in("glue", None)
    assert left_out == []
    assert list(suite.tasks) == GLUE
    assert all(task.task.folder is None for task in suite.tasks.values())
    runs = plan(suite, 1, WHERE)
    assert len(runs) == 9 * 3
    epochs = {run.task: run.experiment.train.num_epochs for run in runs}
    small = {"CoLA": 5, "MRPC": 5, "RTE": 8, "STS-B": 8, "WNLI": 5}
    assert epochs == dict.fromkeys(GLUE, 3) | small


def test_imdb_and_squad_of_the_hub():
    imdb = built_in("imdb", None)[0].tasks["IMDb"].task
    assert (imdb.train.hub, imdb.train.split) == ("stanfordnlp/imdb", "train")
    assert (imdb.dev.hub, imdb.dev.split) == ("stanfordnlp/imdb", "test")
    assert (imdb.labels, imdb.max_length, imdb.text) == (["neg", "pos"], 512, "text")
    squad = built_in("squad", None)[0].tasks["SQuAD"].task
    assert squad.kind == "question-answering"
    assert (squad.train.hub, squad.train.split) == ("rajpurkar/squad", "train")
    assert (squad.dev.hub, squad.dev.split) == ("rajpurkar/squad", "validation")


@pytest.mark.parametrize(
    ("name", "task", "endings"),
    [
        ("imdb", "IMDb", ["jsonl", "jsonl.gz", "csv", "tsv", "parquet"]),
        ("squad", "SQuAD", ["json"]),
        ("tokens", "tokens", ["tsv", "txt", "conll"]),
    ],
)
def test_files_of_a_folder(tmp_path, name, task, endings):
    (tmp_path / f"train.{endings[-1]}").touch()
    with pytest.raises(DataError) as caught:
        builtin_suite(name, tmp_path, "t", {})
    assert str(tmp_path) in caught.value.message
    assert ", ".join(f"dev.{ending}" for ending in endings) in caught.value.message
    for ending in reversed(endings):  # the first of them is taken
        (tmp_path / f"dev.{ending}").touch()
        found = built_in(name, tmp_path)[0].tasks[task].task
        assert found.train.files == [str(tmp_path / f"train.{endings[-1]}")]
        assert found.dev.files == [str(tmp_path / f"dev.{ending}")]
    assert found.dev.format == ("conll" if name == "tokens" else "auto")
    assert getattr(found, "labels", None) == (["0", "1"] if name == "imdb" else None)


def test_tokens_have_no_place_on_the_hub():
    with pytest.raises(DataError, match="no fixed place on the hub") as caught:
        builtin_suite("tokens", None, "t", {})
    assert "--data" in caught.value.hint


@pytest.mark.parametrize("name", suites.SUITES)
def test_built_in_suites_can_be_planned(tmp_path, name):
    (tmp_path / "RTE").mkdir()
    for file in ("train.tsv", "dev.tsv", "train.json", "dev.json"):
        (tmp_path / file).touch()
    suite, _ = built_in(name, tmp_path, kind="copied", num_layers=3)
    assert suite.folder == Path("runs") / name
    assert [run.model for run in plan(suite, 1, WHERE)] == ["teacher", "student", "distilled"]


# Results


def results_of(**scores: list[float]) -> Results:
    """Scores of models on the task `pairs`, a seed each."""
    return {
        ("pairs", model, seed): {"accuracy": value, "f1": 0.125}
        for model, values in scores.items()
        for seed, value in enumerate(values, start=1)
    }


PAIRS_ALONE = {"tasks": {"pairs": {"task": PAIRS}}}


def test_medians_ranges_and_what_is_retained():
    results = results_of(teacher=[0.9, 0.5, 0.8], student=[0.4, 0.7, 0.6, 0.3], distilled=[0.6])
    table = suite_results.table(suite_of(**PAIRS_ALONE), results)
    assert table["suite"] == "small"
    models = table["tasks"]["pairs"]["models"]
    assert list(models) == ["teacher", "student", "distilled"]
    figures = {
        name: [summary[key] for key in ("median", "lowest", "highest")]
        for name, summary in models.items()
    }
    assert figures["teacher"] == [0.8, 0.5, 0.9]
    assert figures["student"] == [0.5, 0.3, 0.7]  # of four the mean of the middle two
    assert figures["distilled"] == [0.6, 0.6, 0.6]
    assert "retained" not in models["teacher"]
    assert models["student"]["retained"] == pytest.approx(0.625)
    assert models["distilled"]["retained"] == pytest.approx(0.75)
    assert models["teacher"]["score"] == "accuracy"
    assert models["teacher"]["seeds"] == {
        str(seed): {"accuracy": value, "f1": 0.125}
        for seed, value in ((1, 0.9), (2, 0.5), (3, 0.8))
    }
    assert "published" not in table["tasks"]["pairs"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_summary_is_of_the_first_score_of_all_seeds(values, random):
    found = list(results_of(teacher=values).items())
    random.shuffle(found)
    summary = suite_results.table(suite_of(**PAIRS_ALONE), dict(found))
    summary = summary["tasks"]["pairs"]["models"]["teacher"]
    ordered = sorted(values)
    low, high = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    assert summary["median"] == pytest.approx((low + high) / 2)
    assert (summary["lowest"], summary["highest"]) == (ordered[0], ordered[-1])
    assert [scores["accuracy"] for scores in summary["seeds"].values()] == values
    assert list(summary["seeds"]) == [str(seed) for seed in range(1, len(values) + 1)]


def on(task: str, **scores: float) -> Results:
    return {(task, model, 1): {"any": value} for model, value in scores.items()}


THREE_TASKS = {"tasks": {name: {"task": TAGS} for name in "abc"}}


def test_means_are_over_the_tasks_that_all_models_have():
    results = (
        on("a", teacher=0.9, student=0.6, distilled=0.8)
        | on("b", teacher=0.5, student=0.3, distilled=0.4)
        | on("c", teacher=0.1, student=0.1)
    )
    macro = suite_results.table(suite_of(**THREE_TASKS), results)["macro"]
    assert macro["tasks"] == 2
    assert macro["teacher"] == {"mean": pytest.approx(0.7)}
    assert macro["student"] == {"mean": pytest.approx(0.45), "retained": pytest.approx(0.45 / 0.7)}
    assert macro["distilled"] == {"mean": pytest.approx(0.6), "retained": pytest.approx(0.6 / 0.7)}


def test_a_model_without_any_run_is_left_out():
    results = on("a", teacher=0.9, student=0.6) | on("b", teacher=0.5, student=0.3)
    table = suite_results.table(suite_of(**THREE_TASKS), results)
    assert table["macro"].keys() == {"tasks", "teacher", "student"}
    assert table["macro"]["tasks"] == 2
    assert list(table["tasks"]) == ["a", "b", "c"]
    assert table["tasks"]["c"]["models"] == {}


def test_without_a_task_that_all_models_have_there_is_no_mean():
    results = on("a", teacher=0.9, student=0.6) | on("b", teacher=0.5, distilled=0.3)
    assert suite_results.table(suite_of(**THREE_TASKS), results)["macro"] == {}


def test_without_a_teacher_nothing_is_known_to_be_retained():
    """Every teacher failed, students did not."""
    table = suite_results.table(
        suite_of(**THREE_TASKS), on("a", student=0.6) | on("b", student=0.2)
    )
    assert "retained" not in table["tasks"]["a"]["models"]["student"]
    assert table["macro"]["student"] == {"mean": pytest.approx(0.4)}


def test_of_a_teacher_that_learnt_nothing_no_share_is_retained():
    """CoLA's score is 0 for a model that says the same of every sentence."""
    table = suite_results.table(suite_of(**THREE_TASKS), on("a", teacher=0.0, student=0.1))
    assert "retained" not in table["tasks"]["a"]["models"]["student"]
    assert table["macro"]["student"].get("retained") is None
    assert table["macro"]["student"]["mean"] == pytest.approx(0.1)


def test_baselines_are_beside_the_others():
    baselines = {"other": {"kind": "checkpoint", "model": "m"}}
    results = on("a", teacher=0.8, other=0.2, distilled=0.4)
    table = suite_results.table(suite_of(**THREE_TASKS, baselines=baselines), results)
    assert list(table["tasks"]["a"]["models"]) == ["teacher", "distilled", "other"]
    assert table["macro"]["other"]["retained"] == pytest.approx(0.25)


def test_published_figures_stand_beside_tasks_of_their_name():
    """Sanh et al. 2019, tables 1 and 2; a GLUE task is known by what it is, not by its label."""
    cola = {"task": {"kind": "glue", "name": "CoLA"}}
    named = {"grammar": cola, "SQuAD": {"task": TAGS}, "IMDb": {"task": PAIRS}}
    found = suite_results.table(suite_of(tasks=named | {"POS": {"task": TAGS}}), {})["tasks"]
    assert found["grammar"]["published"] == {"bert": 56.3, "distilbert": 51.3}
    assert found["SQuAD"]["published"] == {"bert": 88.5, "distilbert": 85.8}
    assert found["IMDb"]["published"] == {"bert": 93.46, "distilbert": 92.82}
    assert "published" not in found["POS"]
    assert [task["is_glue"] for task in found.values()] == [True, False, False, False]


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

    def last_lines(self) -> str:
        return f"the end of {self.run.name}"


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
            patch.setattr(suite_runs, "_Job", self.job_class)
            patch.setattr(suite_runs, "time", SimpleNamespace(sleep=self.look))
            return suite_runs.take(self.runs, self.num_jobs, 0, self.notes.append)

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
        word = f"failed: the end of {job.run.name}" if failed_it else f"{12.5 * job.run.seed:.1f}"
        assert len(about) == 1
        assert word in about[0]


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
    monkeypatch.setattr(suite_runs, "subprocess", started_as(FakeProcess))


@pytest.fixture
def run_of(tmp_path) -> dict[str, SuiteRun]:
    return runs_of(**MIXED | {"output_dir": str(tmp_path)})


@pytest.mark.usefixtures("no_process")
def test_a_job_is_train_resume_of_the_runs_experiment(run_of):
    run = run_of["pairs/distilled-1"]
    job = suite_runs._Job(run, 0, 1, 0)
    *words, config, resume, as_json = job.process.words
    assert words == [sys.executable, "-m", "distilcli", "train", "--config"]
    assert {resume, as_json} == {"--resume", "--json"}
    assert experiment_file.load_any(Path(config)) == run.experiment
    assert job.process.options["start_new_session"] is True
    assert job.process.options["stdout"] == subprocess.PIPE
    assert not run.experiment.run_folder.exists()  # that is the run's own to make
    log = Path(job.process.options["stderr"].name)
    log.write_text("".join(f"line {index}\n" for index in range(30)), encoding="utf-8")
    assert str(log) in job.last_lines()
    assert "line 29" in job.last_lines()
    assert "line 9" not in job.last_lines()


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
        suite_runs._Job(run_of["pairs/student-1"], place, 4, gpus).process.options["env"]
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
    environment = suite_runs._Job(run, 1, num_jobs, 0).process.options["env"]
    assert environment["OMP_NUM_THREADS"] == threads
    assert environment["SOMETHING"] == "else"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""  # as it was
    alone = suite_runs._Job(run, 0, 1, 0).process.options["env"]
    assert alone == dict(os.environ)


@pytest.mark.usefixtures("no_process")
def test_a_suite_folder_that_cannot_be_written_is_refused(run_of, tmp_path):
    (tmp_path / "small").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        suite_runs._Job(run_of["pairs/student-1"], 0, 1, 0)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("name", ["pairs/distilled-1", "tags/distilled-1", "tags/student-1"])
def test_scores_stay_and_what_only_training_needed_goes(run_of, name):
    run = run_of[name]
    folder = RunFolder(run.experiment.run_folder)
    folder.begin(run.experiment, force=False)
    caches = [folder.root.parent / "teacher-outputs-1", folder.root.parent / "teacher-outputs"]
    for made in (folder.checkpoints, folder.student, *caches):
        (made / "inside").mkdir(parents=True)
    job = suite_runs._Job(run, 0, 1, 0)
    said = {"held_out": {"held_out/f1": 0.5, "held_out/accuracy": 0.75}, "steps": 9}
    job.process.stdout = io.StringIO(json.dumps(said))
    assert list(job.finish().items()) == [("f1", 0.5), ("accuracy", 0.75)]
    assert list(suite_runs.finished_scores(run).items()) == [("f1", 0.5), ("accuracy", 0.75)]
    assert not folder.checkpoints.exists()
    assert folder.student.exists()
    # The outputs of this seed's teacher; those of a teacher of all seeds are needed again.
    assert [cache.exists() for cache in caches] == [name != "pairs/distilled-1", True]


@pytest.mark.usefixtures("no_process")
def test_a_run_that_failed_has_no_scores_and_keeps_its_checkpoints(run_of):
    run = run_of["pairs/distilled-1"]
    folder = RunFolder(run.experiment.run_folder)
    folder.begin(run.experiment, force=False)
    folder.checkpoints.mkdir()
    job = suite_runs._Job(run, 0, 1, 0)
    job.process.returncode = 1
    assert job.finish() is None
    assert suite_runs.finished_scores(run) is None
    assert folder.checkpoints.exists()


# What is done already


def finish(run: SuiteRun, scores: dict[str, float]) -> None:
    """A folder as a finished run leaves it, as far as suites look at it."""
    folder = RunFolder(run.experiment.run_folder)
    folder.begin(run.experiment, force=False)
    folder.student.mkdir(exist_ok=True)
    suite_runs.write_scores(run, scores)


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


def test_scores_that_cannot_be_read_are_named(run_of):
    run = run_of["tags/other-1"]
    finish(run, {"accuracy": 0.25})
    file = run.experiment.run_folder / "scores.json"
    file.write_text('{"accuracy": 0.2', encoding="utf-8")
    with pytest.raises(DistilError, match="cannot be read") as caught:
        suite_runs.finished_scores(run)
    assert str(file) in caught.value.message


# Plain transformers, to compare with


def rows_of(tasks: TinyTasks, split: str = "dev") -> list[tuple[str, float]]:
    """Texts and numbers of the regression."""
    lines = (tasks.root / "regression" / f"{split}.csv").read_text().splitlines()[1:]
    return [(text, float(number)) for text, number in (line.rsplit(",", 1) for line in lines)]


@torch.no_grad()
def plain_outputs(folder: str | Path, tasks: TinyTasks) -> np.ndarray:
    """What a saved model puts out for each dev text, one at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(tasks.model)
    found = []
    for text, _ in rows_of(tasks):
        row = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        found.append(model(row["input_ids"]).logits[0].numpy())
    return np.stack(found)


def ranks(values: np.ndarray) -> np.ndarray:
    """Equal values share the mean of their places."""
    below, up_to = (
        (values[None] < values[:, None]).sum(1),
        (values[None] <= values[:, None]).sum(1),
    )
    return (below + up_to + 1) / 2


def plain_score(folder: str | Path, tasks: TinyTasks) -> float:
    """The mean of Pearson's and Spearman's correlation."""
    outputs = plain_outputs(folder, tasks)[:, 0].astype(np.float64)
    numbers = np.array([number for _, number in rows_of(tasks)])
    pearson = np.corrcoef(outputs, numbers)[0, 1]
    return float(pearson + np.corrcoef(ranks(outputs), ranks(numbers))[0, 1]) / 2


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


def suite_file(path: Path, tiny: TinyTasks, *kinds: str, **changes: Any) -> Path:
    """A suite of some of the tiny tasks, which takes a second a run."""
    tree = {
        "name": "whole",
        "output_dir": str(path.parent / "runs"),
        "teacher": str(tiny.model),
        "student": {"num_layers": 2},
        "tasks": {kind: {"task": tiny.task(kind)} for kind in kinds},
        "optim": {"lr": 3e-3},
        "train": {
            "precision": "fp32",
            "global_batch_size": 16,
            "tokens_per_micro_batch": 256,
            "num_epochs": 3,
        },
    }
    path.write_text(yaml.safe_dump(tree | changes), encoding="utf-8")
    return path


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
            patch.setattr(suite_runs, "subprocess", started_as(Forked))
            patch.setenv("COLUMNS", "160")
            return invoke("--suite", str(self.file), "--seeds", "1", *more)

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
        experiment = experiment_file.load_any(folder / "experiment.yaml")
        assert (experiment.seed, experiment.optim.lr, experiment.task.score) == (
            1,
            3e-3,
            "pearson_spearman",
        )


def test_the_distilled_student_had_the_fine_tuned_teacher(flow):
    folder = flow.folder / "numbers"
    experiment = experiment_file.load_any(folder / "distilled-1" / "experiment.yaml")
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
    arguments = ["eval", "--suite", str(file), "--seeds", "1", "--jobs", "2", "--json"]
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


# Teachers that were fine-tuned before, and rows


def regression_model(folder: Path, seed: int, distilbert: bool = False) -> Path:
    """A model with a head for a number, every weight of it random and large."""
    shape = bert().config
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel
        if distilbert:
            config = DistilBertConfig(
                vocab_size=shape.vocab_size,
                dim=16,
                hidden_dim=24,
                n_layers=2,
                n_heads=4,
                max_position_embeddings=shape.max_position_embeddings,
                num_labels=1,
            )
            model = DistilBertForSequenceClassification(config)
        else:
            shape.num_labels = 1
            model = BertForSequenceClassification(shape)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)
    return folder


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
    suite = suites.load(file)
    results: Results = {("tags", "teacher", 1): {"accuracy": 0.5}}
    suite_runs.measure_teachers(suite, plan(suite, 3, file), results)
    assert results.keys() == {
        ("tags", "teacher", 1),
        *(("numbers", "teacher", seed) for seed in (1, 2, 3)),
    }
    score = plain_score(expert, tasks)
    for seed in (1, 2, 3):
        scores = results["numbers", "teacher", seed]
        assert next(iter(scores)) == "pearson_spearman"
        assert scores["pearson_spearman"] == pytest.approx(score, abs=1e-5)


@pytest.fixture
def taken(monkeypatch) -> list[list[SuiteRun]]:
    """In place of taking runs: they are noted, and nothing comes of them."""
    noted: list[list[SuiteRun]] = []

    def take(runs, num_jobs, gpus, on_note):
        noted.append(runs)
        return {}, []

    monkeypatch.setattr(evaluate_suite, "take", take)
    return noted


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
    monkeypatch.setattr(evaluate_suite, "take", lambda *_: (dict(done), failed))
    result = invoke("--suite", str(file), "--seeds", "1", "--json")
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert "damaged" in result.stderr
    record = json.loads((tmp_path / "runs" / "whole" / "results.json").read_text())
    assert record["tasks"]["tags"]["models"]["distilled"]["median"] == 0.5


def test_bad_rows_are_found_before_anything_runs(tmp_path, tasks, taken):
    bad = tmp_path / "dev.csv"
    bad.write_text("text,label\nba be,0.5\nba bu,much\n", encoding="utf-8")
    task = tasks.task("regression") | {"dev": {"files": [str(bad)]}}
    both = {"tags": {"task": tasks.task("tagging")}, "numbers": {"task": task}}
    file = suite_file(tmp_path / "suite.yaml", tasks, tasks=both)
    message = refused("--suite", str(file))
    assert str(bad) in message
    assert taken == []
    assert not (tmp_path / "runs").exists()


# The table for people


def test_the_table_has_medians_ranges_and_published_figures(tmp_path, monkeypatch):
    cola = {"kind": "glue", "name": "CoLA"}
    file = tmp_path / "suite.yaml"
    tree = SUITE | {"tasks": {"CoLA": {"task": cola}, "SQuAD": {"task": TAGS}}}
    file.write_text(yaml.safe_dump(tree | {"output_dir": str(tmp_path)}), encoding="utf-8")
    results = {
        ("CoLA", model, seed): {"matthews": value + 0.01 * seed}
        for model, value in (("teacher", 0.5), ("student", 0.3), ("distilled", 0.4))
        for seed in (1, 2, 3)
    }
    results["SQuAD", "teacher", 1] = {"f1": 0.875}
    monkeypatch.setattr(evaluate_suite, "take", lambda *_: (results, []))
    monkeypatch.setattr(evaluate_suite, "open_task_of", lambda _: None)
    monkeypatch.setenv("COLUMNS", "160")
    result = invoke("--suite", str(file), "--seeds", "3")
    assert result.exit_code == 0, result.output
    rows = [
        [cell.strip() for cell in line.strip("\u2502").split("\u2502")]
        for line in result.stdout.splitlines()
        if "\u2502" in line
    ]
    cola_scores = ["52.0", "32.0 (61.5 %)", "42.0 (80.8 %)"]
    assert rows[0] == ["CoLA", "matthews", *cola_scores, "56.3 / 51.3"]
    assert rows[1] == ["SQuAD", "f1", "87.5", "-", "-", "88.5 / 85.8"]
    assert rows[2] == ["mean", "1 tasks", *cola_scores, "-"]
    assert rows[3] == ["CoLA", "51.0 - 53.0 (3)", "31.0 - 33.0 (3)", "41.0 - 43.0 (3)"]
    assert rows[4] == ["SQuAD", "-", "-", "-"]
    assert "exact match 81.2" in result.stdout


# The command line


@pytest.fixture
def glue(tmp_path, monkeypatch, taken) -> list[str]:
    """--suite glue of a folder with one task, nothing of which is looked at."""
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    monkeypatch.setattr(evaluate_suite, "open_task_of", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return ["--suite", "glue", "--data", str(tmp_path / "glue")]


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
    assert refused(*glue, folder) == "--suite glue: no teacher"
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
        (["--suite", "gleu", "m"], "--suite gleu: there is no such suite and no such file"),
        (["--suite", "tokens", "m", "--teacher", "t"], "--suite tokens: its data set has no fixed"),
        (["--suite", "glue"], "--suite glue: no student"),
        (["--suite", "glue", "m"], "--suite glue: no teacher"),
        (["--suite", "glue", "m", "--config", "x.yaml"], "--config and --num-sequences do not go"),
        (
            ["--suite", "glue", "m", "--num-sequences", "3"],
            "--config and --num-sequences do not go",
        ),
        (["m", "--data", "d"], "--data goes with --suite"),
        (["m", "--teacher", "t"], "--teacher goes with --suite"),
        (["m", "--jobs", "2"], "--jobs goes with --suite"),
        (["--suite", "glue", "m", "--teacher", "t", "trian.lr=1"], "override 'trian.lr=1': trian"),
        (["--suite", "suite.yaml", "m"], "the file of a suite names its models and data"),
        (
            ["--suite", "suite.yaml", "--teacher", "t"],
            "the file of a suite names its models and da",
        ),
        (["--suite", "suite.yaml", "--data", "d"], "the file of a suite names its models and data"),
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
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert refused(*glue, "m", "--teacher", "t") == "--suite starts processes of its own"


# eval of a run on a task


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tasks, expert) -> Path:
    """A run folder with a student that was never trained; its teacher is `expert`."""
    root = tmp_path_factory.mktemp("trained")
    tree = tasks.experiment("regression", name="own", output_dir=str(root))
    experiment = TaskExperiment.model_validate(tree | {"teacher": {"model": str(expert)}})
    RunFolder(root / "own").begin(experiment, force=False)
    regression_model(root / "own" / "student", 2, distilbert=True)
    return root / "own"


def test_eval_of_a_run_on_a_task(trained, expert, tasks, tmp_path):
    arguments = [str(trained), "--output", str(tmp_path / "out")]
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record.pop("results") == str(tmp_path / "out" / "results.json")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == record
    assert not (trained / "results.json").exists()
    assert (record["experiment"], record["score"]) == ("own", "pearson_spearman")
    assert list(record["models"]) == ["teacher", "own"]
    folders = {"teacher": expert, "own": trained / "student"}
    wanted = {name: plain_score(folder, tasks) for name, folder in folders.items()}
    assert abs(wanted["own"] - wanted["teacher"]) > 0.01
    for name, model in record["models"].items():
        assert model["scores"]["pearson_spearman"] == pytest.approx(wanted[name], abs=1e-5)
        assert model["retained"] == pytest.approx(wanted[name] / wanted["teacher"], rel=1e-3)
        plain = AutoModelForSequenceClassification.from_pretrained(folders[name])
        assert model["parameters"] == sum(tensor.numel() for tensor in plain.parameters())
        assert model["size_mib"] == pytest.approx(4 * model["parameters"] / 2**20)
        [one] = model["passes"]
        assert (one["device"], one["inputs"]) == ("cpu", NUM_DEV)
        assert one["threads"] == torch.get_num_threads()
        assert one["best_batch_size"] in (1, 2, 4, 8, 16, 32, 64)
        assert one["single_seconds"] > one["batched_seconds"] > 0
    assert record["models"]["own"]["path"] == str(trained / "student")
    assert record["models"]["teacher"]["retained"] == 1.0


def test_eval_on_a_task_for_people_and_of_fewer_inputs(trained, tasks, tmp_path):
    arguments = [str(trained), "--output", str(tmp_path), "--num-sequences", "7"]
    shown = invoke(*arguments)
    assert shown.exit_code == 0, shown.output
    for word in ("pearson_spearman", "retained", "parameters", "MiB", "one by one", "batches of"):
        assert word in shown.stdout
    assert f"{NUM_DEV} dev examples" in shown.stdout
    assert "7 inputs, cpu" in shown.stdout
    record = json.loads((tmp_path / "results.json").read_text())
    # Fewer inputs are timed; scores are of all of them.
    for model in record["models"].values():
        assert model["passes"][0]["inputs"] == 7
    score = record["models"]["own"]["scores"]["pearson_spearman"]
    assert score == pytest.approx(plain_score(trained / "student", tasks), abs=1e-5)


def test_eval_without_a_teacher_and_of_a_model_by_name(trained, expert, tasks, tmp_path):
    """The experiment is given, the models are folders; nothing is retained of no teacher."""
    config = tasks.write_config(tmp_path / "alone.yaml", "regression")
    arguments = ["--config", str(config), "--num-sequences", "2", "--output", str(tmp_path)]
    result = invoke(str(expert), *arguments, "--json")
    assert result.exit_code == 0, result.output
    models = json.loads(result.stdout)["models"]
    assert list(models) == [str(expert)]
    assert models[str(expert)].get("retained") is None
    score = models[str(expert)]["scores"]["pearson_spearman"]
    assert score == pytest.approx(plain_score(expert, tasks), abs=1e-5)


def test_runs_of_one_name_are_all_measured(trained, tmp_path):
    """Runs of a suite have one name on every task; `teacher` may be a run's name, too."""
    names = []
    for folder in ("a/own", "b/own", "teacher"):
        shutil.copytree(trained, tmp_path / folder)
        names.append(str(tmp_path / folder))
    result = invoke(*names, "--output", str(tmp_path), "--num-sequences", "2", "--json")
    assert result.exit_code == 0, result.output
    models = json.loads(result.stdout)["models"]
    paths = {model["path"] for model in models.values()}
    assert paths == {None, *(f"{name}/student" for name in names)}
    assert models["teacher"]["path"] is None


def test_eval_of_a_run_that_has_no_student_yet(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "own")
    shutil.rmtree(tmp_path / "own" / "student")
    message = refused(str(tmp_path / "own"))
    assert message == f"{tmp_path / 'own'}: this run has no student yet"


# Passes over inputs


def inputs_of(lengths: list[int], typed: list[int]) -> Inputs:
    """Inputs whose tokens are all different; the last tokens of each are of a second text."""
    counter = itertools.count(5)
    ids = [[next(counter) for _ in range(length)] for length in lengths]
    types = [
        [0] * (length - min(length, ones)) + [1] * min(length, ones)
        for length, ones in zip(lengths, typed, strict=True)
    ]
    return join(ids, types, [[0]] * len(lengths), np.zeros(len(lengths), np.float32))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=8),
    st.data(),
    st.booleans(),
)
def test_padding_is_that_of_a_tokenizer(shapes, data, with_types):
    """Each row by itself, zeros to the right of it up to the longest that is chosen."""
    inputs = inputs_of(*(list(column) for column in zip(*shapes, strict=True)))
    samples = data.draw(st.lists(st.integers(0, len(shapes) - 1), min_size=1, max_size=6))
    batch = speed.padded(inputs, samples, with_types)
    width = max(shapes[sample][0] for sample in samples)
    first = np.cumsum([5, *(length for length, _ in shapes)])
    wanted: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
    types = []
    for sample in samples:
        length, ones = shapes[sample]
        empty = [0] * (width - length)
        wanted["input_ids"].append([*range(first[sample], first[sample] + length), *empty])
        wanted["attention_mask"].append([1] * length + empty)
        types.append([int(place >= length - ones) for place in range(length)] + empty)
    if with_types:
        wanted["token_type_ids"] = types
    assert {name: tensor.tolist() for name, tensor in batch.items()} == wanted
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


class Watched:
    """Models on whose passes a clock runs that only they move."""

    COSTS: ClassVar = {1: 1.0, 2: 1.5, 4: 2.0, 8: 2.5, 16: 90.0, 32: 90.0, 64: 90.0}

    def __init__(self, folders: dict[str, Path], late_call: int | None = None) -> None:
        load = AutoModelForSequenceClassification.from_pretrained
        self.models = {name: load(folder) for name, folder in folders.items()}
        self.now, self.late_call = 0.0, late_call
        self.calls: list[tuple[str, dict[str, Any]]] = []
        for name, model in self.models.items():
            model.train()
            model.bfloat16()
            use_packed_attention(model)  # as measuring scores leaves it
            model.register_forward_pre_hook(self._hook(name), with_kwargs=True)

    def _hook(self, name: str) -> Any:
        def hook(model: PreTrainedModel, positional: Any, named: dict[str, Any]) -> None:
            assert positional == ()
            assert not model.training
            assert not torch.is_grad_enabled()
            assert model.config._attn_implementation == "sdpa"
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
            self.calls.append((name, {key: tensor.tolist() for key, tensor in named.items()}))
            rows = len(named["input_ids"])
            size = next(size for size in self.COSTS if size >= rows)
            self.now += self.COSTS[size] * (1 if name == "slow" else 0.5)
            self.now += 1000.0 * (len(self.calls) == self.late_call)

        return hook


def test_passes_are_the_plain_models_and_their_medians(expert, trained, monkeypatch):
    folders = {"slow": expert, "fast": trained / "student"}
    # The 400th call is in a timed pass, one by one; one slow pass of three changes no median.
    watched = Watched(folders, late_call=400)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: watched.now))
    inputs = inputs_of([3 + index % 4 for index in range(64)], [index % 3 for index in range(64)])
    inputs.token_ids[:] = inputs.token_ids % 60
    notes: list[str] = []
    found = speed.measure_passes(watched.models, inputs, None, notes.append)
    assert len(watched.calls) > 2 * (3 * 64 + 3 * 8)
    for name, [one] in found.items():
        cost = 1.0 if name == "slow" else 0.5
        assert (one.device, one.inputs, one.best_batch_size) == ("cpu", 64, 8)
        assert one.single_seconds == pytest.approx(64 * cost)
        assert one.batched_seconds == pytest.approx(8 * 2.5 * cost)
    assert len(notes) == 1
    # BERT is told of second texts, DistilBERT knows none.
    assert all("token_type_ids" in batch for name, batch in watched.calls if name == "slow")
    assert all("token_type_ids" not in batch for name, batch in watched.calls if name == "fast")


@pytest.mark.parametrize(("wanted", "count"), [(None, 10), (4, 4), (10, 10), (99, 10)])
def test_fewer_inputs_are_spread_evenly(expert, monkeypatch, wanted, count):
    watched = Watched({"slow": expert})
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: watched.now))
    inputs = inputs_of([2] * 10, [0] * 10)
    [one] = speed.measure_passes(watched.models, inputs, wanted, lambda _: None)["slow"]
    assert one.inputs == count
    seen = {(row[0] - 5) // 2 for _, batch in watched.calls for row in batch["input_ids"]}
    assert seen == ({0, 2, 5, 7} if count == 4 else set(range(10)))
