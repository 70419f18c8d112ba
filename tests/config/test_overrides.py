"""Overrides of an experiment file: what they change, and what is said of those that are wrong."""

from pathlib import Path

import pytest
from experiment_settings import complaint, data, load

from distilcli.config import reading
from distilcli.config.data import FilesSource, HubSource
from distilcli.config.models import RandomStudent


def test_overrides_go_over_the_file_the_last_one_wins(path: Path) -> None:
    experiment = load(path, "optim.lr=1e-4", "optim.lr=2e-4", "seed=7", optim={"lr": 1.0})
    assert experiment.optim.lr == 2e-4
    assert experiment.seed == 7


def test_an_override_makes_the_sections_on_its_way(path: Path) -> None:
    assert load(path, "validation.every=5").validation.every == 5
    assert load(path, "teacher.model=m", teacher=None).tokenizer_source == "m"


def test_an_override_reaches_into_a_list(path: Path) -> None:
    sources = load(path, "data.sources.0.files=[b.txt, c.txt]").data.sources
    assert sources == [FilesSource(files=["b.txt", "c.txt"])]
    assert load(path, "data.sources.0={hub: a/b}").data.sources == [HubSource(hub="a/b")]


def test_an_override_may_be_null_a_list_or_a_section(path: Path) -> None:
    experiment = load(
        path, "teacher=null", "student={kind: random, like: m}", "train.trackers=[wandb]"
    )
    assert experiment.teacher is None
    assert experiment.student == RandomStudent(like="m")
    assert experiment.train.trackers == ["wandb"]
    assert load(path, "train.max_steps=null", train={"max_steps": 5}).train.max_steps is None


def test_an_override_value_may_hold_an_equals_sign(path: Path) -> None:
    assert load(path, "data.store=a=b").data.store == "a=b"


def test_an_override_changes_one_use_of_a_shared_anchor(path: Path) -> None:
    path.write_text(
        "name: a\nteacher: {model: m}\n"
        "data: {store: s, sources: &text [{files: x}], held_out_sources: *text}\n",
        encoding="utf-8",
    )
    changed = reading.load_masked_lm_experiment(path, ["data.sources.0.files=y"]).data
    assert changed.sources == [FilesSource(files=["y"])]
    assert changed.held_out_sources == [FilesSource(files=["x"])]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "not of the form key.sub=value"),
        ("=3", "not of the form key.sub=value"),
        ("optim..lr=3", "not of the form key.sub=value"),
        ("seed=[1", "the value is not YAML"),
        ("student={kind: random, kind: copied}", "the value is not YAML (kind is given twice"),
        ("name.first=x", "name has no keys below it"),
        ("data.sources.1.files=x", "data.sources has 1 entry, and 1 is not one of them"),
        ("data.sources.first=x", "data.sources has 1 entry, and first is not one of them"),
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean optim.lr?"),
        ("optin.lr=1", "optin: unknown key; did you mean optim?"),
        ("student.kin=random", "student.kin: unknown key; did you mean student.kind?"),
        (
            "data.sources.0.fils=x",
            "data.sources.0.fils: unknown key; did you mean data.sources.0.fi",
        ),
        ("train=3", "train: this is a section: it takes keys below it, not a value (given: 3)"),
        ("student.kind=foo", "student.kind: must be copied, checkpoint or random (given: 'foo')"),
        ("student={layers: [a]}", "student.layers.0: must be a whole number (given: 'a')"),
        ("optim.lr=", "optim.lr: must be a number (given: null)"),
        ("optim.5=1", "optim.5: not a key; keys are words (given: 5)"),
    ],
)
def test_a_wrong_override_is_named(path: Path, override: str, message: str) -> None:
    assert complaint(path, override).startswith(f"override {override!r}: {message}")


def test_the_override_that_is_wrong_is_named_among_others(path: Path) -> None:
    message = complaint(path, "seed=3", "optim.lr=x", "optim.eps=1e-7")
    assert message.startswith("override 'optim.lr=x': optim.lr: must be a number")


def test_a_mistake_of_the_file_is_not_put_down_to_an_override(path: Path) -> None:
    message = complaint(path, "optim.lr=1", optim={"epps": 1})
    assert message == "PATH: optim.epps: unknown key; did you mean optim.eps?"
    message = complaint(path, "optin.lr=1", optin={"eps": 1})
    assert message == "PATH (with overrides): optin: unknown key; did you mean optim?"


def test_file_and_override_may_be_wrong_together(path: Path) -> None:
    message = complaint(path, "data.max_length=9", **data(min_length=10))
    assert message == "PATH (with overrides): data: min_length 10 is over max_length 9"
    message = complaint(path, "data.max_length=8192")
    assert message.startswith("PATH (with overrides): train.tokens_per_micro_batch 4096 is under")
