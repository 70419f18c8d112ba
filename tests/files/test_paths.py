"""Paths in settings and on the command line: one meaning everywhere, and one error."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.reading import build, dump, load_masked_lm_experiment
from distilcli.config.suite import Suite
from distilcli.errors import ConfigError
from distilcli.files.paths import (
    checked_path,
    expanded_path,
    is_override,
    option_output,
    option_path,
    output_path,
)
from distilcli.text.globs import matching_files


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder that is not the working directory, so that a folder called `~` shows."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


MASKED_LM = {
    "name": "x",
    "output_dir": "~/runs",
    "teacher": {"model": "~/teacher"},
    "student": {"source": "~/source"},
    "data": {"sources": [{"files": "~/a.txt", "documents": "line"}], "store": "~/store"},
}
TASK = {
    "name": "x",
    "teacher": {"model": "t", "cache": "~/cache"},
    "student": {"kind": "checkpoint", "model": "~/student"},
    "task": {"kind": "glue", "name": "CoLA", "folder": "~/glue"},
}
SUITE = {
    "name": "x",
    "output_dir": "~/suites",
    "teacher": "~/teacher",
    "student": {"kind": "copied", "source": "~/source"},
    "baselines": {"other": {"kind": "checkpoint", "model": "~/other"}},
    "tasks": {"a": {"task": TASK["task"], "teacher": "~/tuned"}},
}


def settings(tree: dict, kind: type):
    return build(tree, [], lambda _: kind, Path("own.yaml"))


def test_the_home_folder_is_meant_by_every_setting_that_is_a_path(home):
    experiment = settings(MASKED_LM, MaskedLMExperiment)
    assert isinstance(experiment, MaskedLMExperiment)
    found = [experiment.output_dir, experiment.teacher.model, experiment.student.source]
    assert found == [f"{home}/runs", f"{home}/teacher", f"{home}/source"]
    assert experiment.data.store == f"{home}/store"
    assert experiment.run_folder == home / "runs" / "x"
    on_task = settings(TASK, TaskExperiment)
    assert isinstance(on_task, TaskExperiment)
    assert (on_task.teacher.cache, on_task.student.model) == (f"{home}/cache", f"{home}/student")
    suite = settings(SUITE, Suite)
    assert isinstance(suite, Suite)
    assert (suite.folder, suite.teacher) == (home / "suites" / "x", f"{home}/teacher")
    assert suite.student.source == f"{home}/source"
    assert suite.baselines["other"].model == f"{home}/other"
    assert suite.tasks["a"].teacher == f"{home}/tuned"
    shape = MASKED_LM | {"student": {"kind": "random", "like": "~/like"}}
    assert settings(shape, MaskedLMExperiment).student.like == f"{home}/like"


def test_the_sources_of_a_store_stay_as_they_are_written_and_are_found(home):
    """They are part of what a store is made with, and so the same for another user."""
    experiment = settings(MASKED_LM, MaskedLMExperiment)
    assert experiment.data.sources[0].files == ["~/a.txt"]
    (home / "a.txt").touch()
    assert matching_files(["~/a.txt"], "data") == [home / "a.txt"]
    assert matching_files(["~/*.txt"], "data") == [home / "a.txt"]


def test_what_is_written_down_reads_back_the_same(home, tmp_path):
    experiment = settings(MASKED_LM, MaskedLMExperiment)
    (tmp_path / "own.yaml").write_text(dump(experiment))
    assert load_masked_lm_experiment(tmp_path / "own.yaml") == experiment


BAD = {
    "": "must not be empty",
    "  ": "must not be empty",
    "a\0b": "holds a NUL character, which no path can",
    "x" * 256: "has a name of 256 bytes in it, and 2",
    "x/" * 2000: "is 4,000 bytes long, and 3,800 is the most",
    "~nobody-has-this-name/x": "begins with the home folder of a user that is not known here",
}


@pytest.mark.parametrize("path", BAD, ids=range(len(BAD)))
@pytest.mark.parametrize(
    ("key", "kind", "tree"),
    [
        ("output_dir", MaskedLMExperiment, MASKED_LM),
        ("data.store", MaskedLMExperiment, MASKED_LM),
        ("teacher.model", MaskedLMExperiment, MASKED_LM),
        ("student.source", MaskedLMExperiment, MASKED_LM),
        ("teacher.cache", TaskExperiment, TASK),
        ("student.model", TaskExperiment, TASK),
        ("output_dir", Suite, SUITE),
        ("teacher", Suite, SUITE),
    ],
)
def test_a_path_that_no_file_system_takes_is_one_error_with_its_key(path, key, kind, tree):
    *above, last = key.split(".")
    own = tree | {above[0]: tree[above[0]] | {last: path}} if above else tree | {last: path}
    with pytest.raises(ConfigError) as error:
        settings(own, kind)
    assert error.value.message.startswith(f"own.yaml: {key}: {BAD[path]}")
    assert error.value.message.isprintable()
    assert len(error.value.message) < 400


@pytest.mark.parametrize("path", list(BAD)[:5], ids=range(5))
def test_the_same_holds_for_what_is_read(path):
    for tree, key in (
        ({"files": path, "documents": "line"}, "data.sources.0.files.0"),
        ({"hub": path}, "data.sources.0.hub"),
    ):
        own = MASKED_LM | {"data": {"sources": [tree], "store": "s"}}
        with pytest.raises(ConfigError) as error:
            settings(own, MaskedLMExperiment)
        assert error.value.message.startswith(f"own.yaml: {key}: {BAD[path]}")
    task = TASK | {"task": TASK["task"] | {"folder": path}}
    with pytest.raises(ConfigError, match=r"own\.yaml: task\.folder: "):
        settings(task, TaskExperiment)


def test_half_a_surrogate_pair(tmp_path):
    with pytest.raises(ConfigError) as error:
        settings(MASKED_LM | {"output_dir": "\udc80"}, MaskedLMExperiment)
    assert error.value.message.startswith("own.yaml: output_dir: is not UTF-8 text")
    for check in (checked_path, expanded_path, output_path):
        with pytest.raises(ValueError, match="is not UTF-8"):
            check("\udc80")


def test_a_run_cannot_be_called_what_no_folder_can():
    with pytest.raises(ConfigError) as error:
        settings(MASKED_LM | {"name": "x" * 181}, MaskedLMExperiment)
    assert error.value.message.startswith("own.yaml: name: must be of 180 characters at most")
    for name in ("a/b", "..", "a\n", "~"):
        with pytest.raises(ConfigError, match=r"own\.yaml: name: must be letters"):
            settings(MASKED_LM | {"name": name}, MaskedLMExperiment)


def test_what_is_written_leaves_room_for_the_names_beside_it():
    assert expanded_path("x" * 255) == "x" * 255
    with pytest.raises(ValueError, match="a name of 255 bytes in it, and 220 is the most"):
        output_path("x" * 255)
    with pytest.raises(ValueError, match="a name of 222 bytes"):
        output_path("a/" + "\u00e9" * 111)


# On the command line


def test_options(home):
    """`~` is the home folder in paths that are options; other names stay."""
    assert option_output("--output", Path("~/out")) == home / "out"
    assert option_path("--teacher", "~/bert") == f"{home}/bert"
    assert option_path("--teacher", "someone/bert") == "someone/bert"
    with pytest.raises(ConfigError) as error:
        option_output("--output", Path("\udcff"))
    assert error.value.message == "--output: is not UTF-8 text; choose another name " + (
        "(given: '\\udcff')"
    )


COMMANDS = [
    ["init-student", "--teacher", "{}", "--output", "out"],
    ["init-student", "--teacher", "t", "--output", "{}"],
    ["init-student", "--config", "{}"],
    ["prepare", "--config", "{}"],
    ["train", "--config", "{}"],
    ["eval", "{}"],
    ["eval", "x", "--config", "{}"],
    ["eval", "x", "--output", "{}"],
    ["predict", "x", "--config", "{}", "--output", "s.jsonl"],
    ["predict", "x", "--config", "c", "--output", "{}"],
    ["predict", "x", "--config", "c", "--output", "s.jsonl", "--rows", "{}"],
    ["suite", "{}"],
    ["suite", "glue", "x", "--data", "{}"],
    ["suite", "glue", "x", "--teacher", "{}"],
    ["suite", "glue", "x", "--output", "{}"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("path", ["x" * 300, "\udcff"], ids=["long", "bytes"])
def test_every_option_answers_in_one_line_and_writes_nothing(home, words, path):
    result = CliRunner().invoke(app, [word.format(path) for word in words])
    assert result.exit_code == 2, result.output
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    before = words[words.index("{}") - 1]
    option = {"eval": "MODEL", "suite": "SUITE"}.get(before, before)
    expected = "is not UTF-8" if path == "\udcff" else "has a name of 300 bytes in it"
    assert error.startswith(f"error: {option}: {expected}")
    assert not list(home.rglob("*"))
    assert not list(Path().iterdir())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_knows_the_home_folder(home, words):
    result = CliRunner().invoke(app, [word.format("~/not/there") for word in words])
    assert result.exit_code == 2, result.output
    assert "~" not in result.stderr
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optim.lr=1e-4", True),
        ("data.sources.0.files=a/b.txt", True),
        ("name=", True),
        ("runs/lr=1e-4/x", False),
        ("./lr=1", False),
        ("~/lr=1", False),
        ("/runs/lr=1", False),
        ("runs/x", False),
        ("there=1", False),
        (f"name={'x' * 5000}", True),
    ],
)
def test_which_words_are_overrides(tmp_path, monkeypatch, word, expected):
    monkeypatch.chdir(tmp_path)
    os.mkdir("there=1")
    assert is_override(word) is expected
