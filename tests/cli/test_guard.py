"""The last line of defence: whatever goes wrong ends in words and an exit code."""

import copy
import errno
import json
import pickle
import signal
import subprocess
import sys

import pytest
import torch
from tiny_experiments import environment
from tiny_suites import suite_file
from tiny_tasks import make_tasks

from distilcli import __version__
from distilcli.cli import console, guard, suite
from distilcli.cli.app import app
from distilcli.config import reading
from distilcli.errors import (
    ConfigError,
    DataError,
    DistilError,
    Interrupted,
    doing,
    printable,
    shortened,
    unexpected,
)
from distilcli.suites import runs

COMMANDS = ["prepare", "init-student", "train", "eval"]


@pytest.fixture(autouse=True)
def _signals_as_before():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the first thing that every command does raise an error."""

    def fail(*_: object) -> None:
        raise copy.copy(error)  # which takes a note of what was done

    monkeypatch.setattr(reading, "load_any_experiment", fail)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = guard.run(app, list(words))
    out, err = capsys.readouterr()
    return code, out, err


# An error that nobody expected

UNEXPECTED = [
    (KeyError("x"), 1, "unexpected KeyError: 'x', while {doing} (", "DISTILCLI_DEBUG=1"),
    (RecursionError("too deep"), 1, "unexpected RecursionError: too deep, while", "Please report"),
    (AssertionError(), 1, "unexpected AssertionError, while {doing} (", "Please report"),
    (ValueError("a\n  b\x1b[31m"), 1, "unexpected ValueError: a b\\x1b[31m, while", "report"),
    (MemoryError(), 1, "out of memory, while {doing}\n", "a machine with more memory"),
    (torch.OutOfMemoryError("CUDA"), 1, "out of memory, while {doing}\n", "more memory"),
    (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        1,
        "out of memory, while",
        "more memory",
    ),
    (
        OSError(errno.ENOSPC, "No space left on device", "x.bin"),
        1,
        "x.bin cannot be written (No space left on device), while {doing}\n",
        "Free disk space",
    ),
    (KeyboardInterrupt(), 130, "interrupted, while {doing}\n", ""),
]
DOING = {"prepare": "preparing the data of own.yaml", "train": "training with own.yaml"}


@pytest.mark.parametrize("command", DOING)
@pytest.mark.parametrize(
    ("error", "code", "message", "hint"), UNEXPECTED, ids=[repr(e[0])[:20] for e in UNEXPECTED]
)
def test_an_error_that_nobody_expected(capsys, monkeypatch, command, error, code, message, hint):
    failing(monkeypatch, error)
    found, out, err = run(capsys, command, "--config", "own.yaml", "--json")
    said = message.format(doing=DOING[command])
    assert found == code
    assert err.startswith(f"error: {said}")
    assert hint in err
    assert "Traceback" not in err
    assert err.count("\n") == (2 if hint else 1)
    record = json.loads(out)["error"]
    assert record["code"] == code
    assert record["message"] == err.splitlines()[0].removeprefix("error: ")
    assert record["hint"] == "".join(err.splitlines()[1:])


class PanicException(BaseException):
    """As what Rust's panics become, which are no `Exception`s."""


def test_a_panic_of_a_library_is_an_error_too(capsys, monkeypatch):
    failing(monkeypatch, PanicException("index out of bounds"))
    code, out, err = run(capsys, "prepare", "--config", "own.yaml")
    assert (code, out) == (1, "")
    assert err.startswith("error: unexpected PanicException: index out of bounds, while preparing")


def test_where_it_was_is_said_by_file_and_line(capsys, monkeypatch):
    monkeypatch.setattr(reading, "kind_of_experiment", lambda _: None)
    monkeypatch.setattr(reading, "read_yaml", lambda *_: {})
    _, _, err = run(capsys, "prepare", "--config", "own.yaml")
    assert "unexpected AttributeError: 'NoneType' object" in err
    assert "(config/reading.py:" in err


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("DISTILCLI_DEBUG", "1")
    failing(monkeypatch, KeyError("x"))
    with pytest.raises(KeyError):
        guard.run(app, ["prepare", "--config", "own.yaml"])


def test_an_error_before_there_is_a_console(capsys, monkeypatch):
    """Even what says errors may be what fails."""

    def fail(*_: object) -> None:
        raise ImportError("no rich")

    monkeypatch.setattr(console, "Console", fail)
    code, out, err = run(capsys, "train", "--config", "own.yaml", "--json")
    assert code == 1
    assert err.startswith("error: unexpected ImportError: no rich, while training with own.yaml (")
    assert json.loads(out)["error"]["code"] == 1


def test_the_innermost_activity_is_said_once():
    with pytest.raises(KeyError) as caught, doing("outside"), doing("inside"):
        raise KeyError("x")
    assert ", while inside" in unexpected(caught.value).message
    assert "outside" not in unexpected(caught.value).message
    with pytest.raises(DataError) as known, doing("inside"):
        raise DataError("bad")
    assert unexpected(known.value) is known.value
    assert known.value.message == "bad"


# Usage


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare"], "Missing option '--config' / '-c'."),
        (["train", "--config", "x", "--no-such"], "No such option: --no-such"),
        (["no-such-command"], "No such command 'no-such-command'."),
        (["prepare", "--num-proc", "0", "--config", "x"], "Invalid value for '--num-proc': 0 is"),
        (["prepare", "--num-proc", "9" * 5000, "--config", "x"], "Invalid value for '--num-proc'"),
        (["suite", "glue", "--seeds", "1e30"], "Invalid value for '--seeds': '1e30' is not"),
        (
            ["suite", "glue", "--seeds", "\x1b[2J\n"],
            "Invalid value for '--seeds': '\\x1b[2J\\n' is not",
        ),
    ],
)
def test_usage_errors_in_words_and_as_json(capsys, words, message):
    code, out, err = run(capsys, *words, "--json")
    assert code == 2
    assert f"\nerror: {message}" in err
    assert err.startswith("Usage: distilcli")
    assert "Try 'distilcli " in err
    assert json.loads(out)["error"]["code"] == 2
    assert json.loads(out)["error"]["message"].startswith(message)
    assert json.loads(out)["error"]["hint"].startswith("Try 'distilcli ")
    code, out, _ = run(capsys, *words)
    assert (code, out) == (2, "")


def test_help_is_no_error(capsys):
    code, out, err = run(capsys)
    assert "Usage: distilcli" in out + err
    assert "error" not in out + err
    assert code == 2
    assert run(capsys, "train", "--help")[0] == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refusal_is_json_for_every_command(capsys, command):
    code, out, err = run(capsys, command, "--config", "/nowhere/x.yaml", "--json")
    assert code == 2
    assert json.loads(out) == {
        "error": {
            "message": "/nowhere/x.yaml: no such file",
            "hint": "Give --config an experiment file.",
            "code": 2,
        }
    }
    assert err.startswith("error: /nowhere/x.yaml: no such file\n")


def test_a_suite_whose_runs_fail_is_still_one_object(capsys, monkeypatch, tmp_path):
    tiny = make_tasks(tmp_path / "tasks")
    file = suite_file(tmp_path / "suite.yaml", tiny, "regression")
    monkeypatch.setattr(suite, "take", lambda *_: ({}, ["regression/student-1"]))
    monkeypatch.setattr(runs, "finished_scores", lambda _: None)
    code, out, err = run(capsys, "suite", str(file), "--json", "--seeds", "1")
    assert code == 1
    record = json.loads(out)
    assert record["suite"] == "whole"
    assert record["error"]["message"] == "1 runs failed: regression/student-1"
    assert "error: 1 runs failed: regression/student-1" in err


# Errors as they travel, and names that are more than letters


@pytest.mark.parametrize(
    "error",
    [
        DistilError("a\x1b", "b\n", ["c\n", "d"]),
        ConfigError("a"),
        Interrupted("a", "b\x1b", 15),
    ],
)
def test_an_error_is_the_same_out_of_another_process(error):
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), other.message, other.hint) == (type(error), error.message, error.hint)
    assert other.exit_code == error.exit_code


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, umlauts \u00e4 and \u6587", "plain words, umlauts \u00e4 and \u6587"),
        ("\x1b[2J\x07\r\n\t", r"\x1b[2J\x07\r\n\t"),
        ("\u202ecod.exe\u2066", r"\u202ecod.exe\u2066"),
        ("\u2028\u2029\x85\x9b", r"\u2028\u2029\x85\x9b"),
        ("\udcff\ud83d", r"\udcff\ud83d"),
        ("back\\slash 'quotes'", "back\\slash 'quotes'"),
    ],
)
def test_names_move_no_cursor_and_end_no_line(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    assert DistilError(f"{text}: bad", text).message == f"{shown}: bad"
    assert DistilError("x", text).hint == shown


def test_only_our_own_lines_are_lines():
    error = DataError("a\nb", details=["c\nd", "e"])
    assert error.message == "a\\nb\n  c\\nd\n  e"


@pytest.mark.parametrize("how", ["note", "warn", "say", "table", "error"])
def test_everything_that_is_printed_is_printable(capsys, how):
    hostile = "x\x1b[31m[bold]:smile:\nb\u202e"
    shown = "x\\x1b[31m[bold]:smile:\\nb\\u202e"
    out = console.Console(as_json=False)
    if how == "table":
        out.table(hostile, [hostile], [[hostile]])
    elif how == "error":
        out.error(ConfigError(hostile, hostile))
    else:
        getattr(out, how)(hostile)
    printed = "".join(capsys.readouterr())
    assert shown in printed
    assert "\x1b" not in printed
    assert "\u202e" not in printed


def test_a_long_text_loses_its_middle():
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 50 + "b" * 50, 25) == "a" * 10 + " ... " + "b" * 10


# The streams


def shell(command: str, **options: str) -> subprocess.CompletedProcess[str]:
    line = command.replace("DISTILCLI", f"{sys.executable} -m distilcli")
    return subprocess.run(
        ["bash", "-c", line],
        env=environment() | options,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "stdout", "stderr"),
    [
        ("DISTILCLI --version > /dev/full", 1, "", "error: the result cannot be written to stand"),
        ("DISTILCLI --version >&-", 0, "", ""),
        ("DISTILCLI --version 2>&-", 0, f"{__version__}\n", ""),
        ("DISTILCLI --version <&- >&- 2>&-", 0, "", ""),
        ("DISTILCLI prepare --config x 2> /dev/full", 2, "", ""),
        ("DISTILCLI prepare --config x --json 2>&-", 2, '{"error": {"message": "x: no such', ""),
        ("DISTILCLI prepare --config x --json > /dev/full", 2, "", "error: x: no such file"),
        ("DISTILCLI prepare --config x &> /dev/full", 2, "", ""),
    ],
)
def test_streams_that_are_full_or_closed(command, code, stdout, stderr):
    done = shell(command)
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith(stdout)
    assert done.stderr.startswith(stderr)
    assert bool(done.stdout) == bool(stdout)
    assert bool(done.stderr) == bool(stderr)


@pytest.mark.parametrize("options", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_a_terminal_of_ascii_alone(options: dict[str, str], tmp_path) -> None:
    unknown = "--config: is not UTF-8 text; choose another name (given: '\\udcff')"
    # Where Python reads LC_ALL=C as UTF-8 the letter may stand as it is, elsewhere escaped.
    for name, message in ((r"$'\xc3\xa4'", "\u00e4: no such file"), (r"$'\xff'", unknown)):
        done = shell(f"DISTILCLI prepare --config {name} --json", **options)
        assert done.returncode == 2
        assert json.loads(done.stdout)["error"]["message"] == message
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr


def test_what_is_closed_is_not_written_into(tmp_path):
    """A file that is opened later would get the number of a closed stream."""
    script = (
        "import os, sys; from distilcli.cli import guard; import typer\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def write():\n"
        f"    file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "    os.write(1, b'result'); os.write(2, b'log'); print('more')\n"
        "    file.write('own'); file.close()\n"
        "sys.exit(guard.run(app, []))"
    )
    done = subprocess.run(
        ["bash", "-c", 'exec "$@" >&- 2>&-', "bash", sys.executable, "-c", script],
        env=environment(),
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "own"


def test_a_signal_while_the_command_line_still_loads(tmp_path):
    """Before any handler is set, Python raises KeyboardInterrupt in the middle of an import."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = f"{tmp_path}:{environment().get('PYTHONPATH', '')}"
    done = shell("DISTILCLI --version", PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
