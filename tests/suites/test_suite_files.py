"""Suite files: what they may say, and which file and key a mistake is answered with."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_suites import PAIRS, ROWS, SUITE, TAGS, suite_of

from distilcli.config.suite import Suite
from distilcli.errors import ConfigError
from distilcli.suites import plan as suite_plan
from distilcli.suites.plan import plan


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "suite.yaml"


def load(path: Path, *overrides: str, **changes: Any) -> Suite:
    path.write_text(yaml.safe_dump(SUITE | changes), encoding="utf-8")
    return suite_plan.load_suite(path, list(overrides))


def complaint(path: Path, *overrides: str, **changes: Any) -> str:
    """What is said of a suite file that cannot be planned, with PATH for the file."""
    with pytest.raises(ConfigError) as caught:
        plan(load(path, *overrides, **changes), 1, path, overrides)
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
        ({"name": "../up"}, "name: must be letters, digits, '.', '_' and '-'"),
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
    """Names of tasks and baselines that cannot name a folder are refused."""
    value = {"tasks": {"task": TAGS}, "baselines": {"source": "m"}}[section]
    message = complaint(path, **{section: {name: value}})
    assert message.startswith(f"PATH: {section}")
    assert "must be letters, digits, '.', '_' and '-'" in message


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


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.lrr=1", "train.lrr"),
        ("tasks.pears.train.lrr=1", "train.lrr"),
        ("tasks.pears.train={lrr: 1}", "train.lrr"),
        ("tasks.pears.optim.lr=-1", "optim.lr"),
        ("loss.labels.weight=-1", "loss.labels.weight"),
        ("tasks.pears.loss={labels: {weight: -1}}", "loss.labels.weight"),
    ],
)
def test_an_override_that_no_experiment_can_have_is_named(path, override, key):
    message = complaint(path, override, tasks={"pears": {"task": PAIRS}})
    assert message.startswith(f"override {override!r}: {key}")
    assert "pears" in message


def test_a_mistake_of_one_task_is_not_an_overrides(path):
    tasks = {"pears": {"task": PAIRS, "train": {"num_epochs": -1}}}
    message = complaint(path, "train.num_epochs=2", tasks=tasks)
    assert message.startswith("PATH: train.num_epochs")
    tasks = {"pears": {"task": PAIRS, "loss": {"labels": {"weight": -1}}}}
    message = complaint(path, "loss.labels.weight=2", tasks=tasks)
    assert message.startswith("PATH: loss.labels.weight")
