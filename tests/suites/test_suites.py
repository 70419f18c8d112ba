"""Suites: which runs a suite is, and the suites that are built in."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loss_settings import weights
from tiny_suites import GLUE, PAIRS, TAGS, WHERE, runs_of, suite_of

from distilcli.config.experiment import TaskExperiment
from distilcli.config.suite import Suite
from distilcli.errors import DataError
from distilcli.suites import plan as suite_plan
from distilcli.suites.plan import builtin_suite, plan


def test_runs_in_order():
    """All models of all tasks with one seed come before the next seed."""
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
        loss=weights(soft_targets=3.0),
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
        "distilled": {"student": copied, "teacher": fine_tuned, "loss": weights(soft_targets=3.0)},
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


def test_only_what_has_a_teacher_is_shown_copies():
    """The task's settings over the suite's; null: none on this task."""
    for of_suite, of_task, expected in (
        ({}, {}, None),
        ({"copies": 2}, {}, (2, 0.15)),
        ({"copies": 2}, {"replaced": 0.3}, (2, 0.3)),
        ({"copies": 2}, None, None),
        ({}, {"copies": 3}, (3, 0.15)),
    ):
        runs = runs_of(
            augmentation=of_suite, tasks={"pairs": {"task": PAIRS, "augmentation": of_task}}
        )
        for model in ("teacher", "student", "distilled"):
            found = runs[f"pairs/{model}-1"].experiment.augmentation
            wanted = expected if model == "distilled" else None
            assert (found and (found.copies, found.replaced)) == wanted


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
        assert experiment.loss.labels.weight == experiment.loss.soft_targets.weight == 1.0


def test_what_a_task_says_of_one_loss_leaves_the_others():
    """A section below `loss` is laid over the suite's key by key, too."""
    own = weights(labels=0.0, hidden_cosine=0.25)
    tasks = {"pairs": {"task": PAIRS, "loss": own}, "tags": {"task": TAGS}}
    of_all = weights(soft_targets=3.0, labels=0.5) | {"temperature": 4.0}
    found = {
        run.task: run.experiment.loss
        for run in plan(suite_of(tasks=tasks, loss=of_all), 1, WHERE)
        if run.model == "distilled"
    }
    asked = {"soft_targets": 3.0, "labels": 0.0, "hidden_cosine": 0.25}
    assert {name: found["pairs"].weights[name] for name in asked} == asked
    assert found["tags"].labels.weight == 0.5
    assert found["pairs"].temperature == found["tags"].temperature == 4.0


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


@pytest.mark.parametrize("name", suite_plan.SUITES)
def test_built_in_suites_can_be_planned(tmp_path, name):
    (tmp_path / "RTE").mkdir()
    for file in ("train.tsv", "dev.tsv", "train.json", "dev.json"):
        (tmp_path / file).touch()
    suite, _ = built_in(name, tmp_path, kind="copied", num_layers=3)
    assert suite.folder == Path("runs") / name
    assert [run.model for run in plan(suite, 1, WHERE)] == ["teacher", "student", "distilled"]
