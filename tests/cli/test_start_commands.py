"""`new`, `schema` and `env`: what to start from, what editors need, what a bug report needs."""

import json
import re
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import tiny_experiments
import torch
import yaml
from typer.testing import CliRunner, Result

import distilcli
from distilcli.cli.app import app
from distilcli.cli.options import TASK_TEMPLATES, TEMPLATES
from distilcli.config import reading
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.schema import KINDS, settings_schema
from distilcli.suites import plan
from distilcli.training import environment

each_template = pytest.mark.parametrize("kind", TEMPLATES)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Files are written into the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def written(kind: str, name: str) -> str:
    result = invoke("new", kind, name)
    assert result.exit_code == 0, result.output
    return Path(name).read_text(encoding="utf-8")


def refused(*words: str) -> tuple[str, str]:
    """The error and the hint of a command that must end with code 2 and write nothing."""
    before = sorted(Path().rglob("*"))
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sorted(Path().rglob("*")) == before
    error, hint = result.stderr.splitlines()
    return error.removeprefix("error: "), hint


# new


@each_template
def test_every_template_is_valid_and_called_as_its_file(kind):
    text = written(kind, "first.yaml")
    name = "mine" if kind == "suite" else None
    if kind == "suite":
        name = plan.load_suite(Path("first.yaml")).name
        assert (
            len(plan.plan(plan.load_suite(Path("first.yaml")), 2, Path("first.yaml"))) == 2 * 3 * 2
        )
    elif kind == "stages":
        staged = reading.load_any_experiment(Path("first.yaml"))
        name = staged.name
        assert [stage.name for stage in staged.stages] == ["short", "long", "task"]
    else:
        experiment = reading.load_experiment(Path("first.yaml"))
        name = experiment.name
        of_tasks = (*TASK_TEMPLATES, "unlabelled")
        assert isinstance(experiment, TaskExperiment) == (kind in of_tasks)
        if kind in (*TASK_TEMPLATES, "embedding"):
            assert experiment.task.kind == kind
    assert name == "first"
    command = "suite" if kind == "suite" else "train --config"
    assert text.splitlines()[0].startswith(f"# distilcli {command} first.yaml")
    assert "mine" not in text


@each_template
def test_every_template_says_more_than_its_settings(kind):
    """A comment on most lines, none of them longer than a line."""
    lines = written(kind, "first.yaml").splitlines()
    assert sum("#" in line for line in lines) > len(lines) / 3
    assert max(map(len, lines)) <= 100
    assert all(line.isascii() for line in lines)


def offers(text: str) -> list[str]:
    """What a template has commented out, as overrides; the lines above give the key."""
    found, above = [], [""] * 9
    for line in text.splitlines():
        match = re.fullmatch(r"( *)(# )?(- )?([a-z_]+: ?.*|\{.*\})", line)
        if not match:
            continue
        depth = len(match[1]) // 2
        key, _, value = match[4].partition(":")
        if match[3]:
            key, value = "0", match[4]
        if match[2]:
            value = yaml.safe_load(value)
            found.append(f"{'.'.join([*above[:depth], key])}={json.dumps(value)}")
        elif not match[3]:
            above[depth] = key
    return found


@each_template
def test_what_a_template_offers_in_comments_is_valid(kind):
    """Each line of settings that is commented out, by itself in place of what stands there."""
    text = written(kind, "first.yaml")
    found = offers(text)
    assert found or kind == "quickstart"
    load = plan.load_suite if kind == "suite" else reading.load_any_experiment
    for override in found:
        if override.startswith("student.model="):  # of another kind of student, as it says
            override = f'student={{"kind": "checkpoint", "model": {override.partition("=")[2]}}}'
        load(Path("first.yaml"), [override])


def test_the_check_of_comments_would_notice():
    text = "a:\n  b: 1\n  # c: 2 # or 3\n  d: # more\n    # - {x: 1}\n# e: {f: no}\n# A word.\n"
    assert offers(text) == ["a.c=2", 'a.d.0={"x": 1}', 'e={"f": false}']


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my run.yaml", "my-run"),
        ("2024.yaml", "2024"),
        ("yes.yaml", "yes"),
        ("2024-13-45.yaml", "2024-13-45"),
        ("null", "null"),
        ("deep/er/a.b.yml", "a.b"),
        ("--.yaml", "mine"),
        (".yaml", "yaml"),
        ("\u00fcber.yaml", "ber"),
        ("a\\1\\g<0>.yaml", "a-1-g-0"),
        ("line\nname: other\n.yaml", "line-name-other"),
        ("x" * 200 + ".yaml", "x" * 100),
    ],
)
def test_any_file_name_makes_a_valid_experiment(file, name):
    result = invoke("new", "quickstart", "--json", "--", file)
    assert result.exit_code == 0, result.output
    experiment = reading.load_experiment(Path(file))
    assert isinstance(experiment, MaskedLMExperiment)
    assert experiment.name == name
    assert experiment.data.store == f"data/{name}"
    told = json.loads(result.stdout)
    assert (told["file"], told["kind"]) == (file, "quickstart")
    assert shlex.split(told["next"][0]) == ["distilcli", "prepare", "--config", file]


def test_it_says_what_to_type_next():
    result = invoke("new", "masked-lm", "my own.yaml")
    assert result.stdout.splitlines()[0] == "wrote my own.yaml"
    assert result.stdout.splitlines()[-1] == "  distilcli train --config 'my own.yaml'"
    assert invoke("new", "suite", "s.yaml").stdout.splitlines()[-1] == (
        "  distilcli suite s.yaml --seeds 1"
    )


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_nothing_is_replaced(what):
    """Whatever it is that has the name."""
    place = Path("there.yaml")
    if what == "file":
        place.write_text("mine: true\n")
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to("nowhere")
    error, hint = refused("new", "quickstart", "there.yaml")
    assert error == "there.yaml: already exists"
    assert hint == "Choose another file name."


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["task", "x.yaml"], "task: there are several kinds of task"),
        (["quikstart", "x.yaml"], "quikstart: there is no such kind of file"),
    ],
)
def test_a_kind_that_is_not_there_is_answered_with_those_that_are(words, error):
    assert refused("new", *words)[0] == error
    assert "classification" in refused("new", *words)[1]


def test_a_file_that_cannot_be_written_is_a_mistake_of_the_command_line():
    Path("file").touch()
    error, _ = refused("new", "quickstart", "file/x.yaml")
    assert error.startswith("file/x.yaml: cannot be written (")


@pytest.mark.slow
def test_the_quickstart_runs_as_it_is(here):
    """What it says to type next, up to the run itself."""
    first = tiny_experiments.run("new", "quickstart", "first.yaml", "--json")
    assert first.code == 0, first.stderr
    for line in first.json["next"][:-1]:
        finished = tiny_experiments.run(*shlex.split(line)[1:], "--json")
        assert finished.code == 0, finished.stderr
    assert finished.json["total_steps"] == 80
    assert not (here / "runs").exists()


# schema


@pytest.mark.parametrize("words", [[], *([kind] for kind in KINDS)], ids=str)
def test_the_schema_is_all_that_is_on_stdout(words):
    result = invoke("schema", *words)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert json.loads(result.stdout) == settings_schema(*words)
    assert result.stdout.count("\n") > 100
    as_object = invoke("schema", *words, "--json").stdout
    assert as_object.count("\n") == 1
    assert json.loads(as_object) == settings_schema(*words)


def test_a_schema_that_is_not_there():
    assert refused("schema", "taks")[0] == "taks: there is no such schema"


# env


def test_env_has_what_a_bug_report_needs():
    shown = invoke("env").stdout
    found = json.loads(invoke("env", "--json").stdout)
    assert found["distilcli"] == distilcli.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    packages = found["packages"]
    assert packages["torch"] == version("torch")
    assert {"transformers", "datasets", "accelerate", "tokenizers", "typer", "pydantic"} <= set(
        packages
    )
    assert found["memory_gib"] > 0.5
    assert found["cpu_cores"] >= found["cpu_cores_usable"] >= 1
    assert found["cpu_bf16"] in (True, False)
    assert found["problem"] is None
    for fact in (f"torch {version('torch')}", found["cpu"], str(found["memory_gib"]), "GPU"):
        assert fact in shown


def test_env_names_devices(monkeypatch):
    """Each GPU with its memory, and the driver."""

    class Properties:
        name = "Big GPU"
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    answers = {"nvidia-smi": "570.1\n570.1"}
    monkeypatch.setattr(environment, "_answer", lambda command: answers.get(command[0]))
    shown = invoke("env").stdout
    assert "CUDA: 12.8, driver 570.1\n" in shown
    assert "GPU 1: Big GPU, 80.0 GiB, computes in bf16\n" in shown
    device = {"name": "Big GPU", "memory_gib": 80.0, "bf16": True}
    assert json.loads(invoke("env", "--json").stdout)["cuda_devices"] == [device, device]


def test_env_shows_a_broken_installation(monkeypatch):
    """That is when it is typed."""

    def broken() -> int:
        raise OSError("libgomp.so.1: cannot open\nshared object file")

    monkeypatch.setattr(torch, "get_num_threads", broken)
    result = invoke("env", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["problem"] == "OSError: libgomp.so.1: cannot open shared object file"
    assert found["packages"]["torch"] == version("torch")
    assert "cannot be used (OSError: libgomp" in invoke("env").stderr


def test_env_shows_no_variable_that_may_be_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    result = invoke("env", "--json")
    assert "secret" not in result.stdout
    assert json.loads(result.stdout)["variables"]["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("tracked", "commit"), [("x", "abc-dirty"), (None, None)])
def test_the_commit_is_that_of_a_checkout_of_distilcli(monkeypatch, tracked, commit):
    """Not that of a project whose virtual environment lies in its folder."""
    answers = {"ls-files": tracked, "describe": "abc-dirty", "rev-parse": "def"}
    asked = environment, "_answer"
    monkeypatch.setattr(*asked, lambda words: next(answers[w] for w in words if w in answers))
    assert environment.describe_environment()["distilcli_commit"] == commit
