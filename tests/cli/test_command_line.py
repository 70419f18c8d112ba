"""What the commands look like: their help, their examples, completion, and options that moved."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_experiments import environment
from typer.testing import CliRunner, Result

from distilcli.cli.app import COMMANDS, app
from distilcli.cli.measure_commands import BUILTIN_SUITES
from distilcli.suites.plan import SUITES

ROOT = Path(__file__).resolve().parents[2]
# Names that examples use for what whoever reads them has.
NOT_HERE = {"runs/my-student", "other.txt", "glue"}

each_command = pytest.mark.parametrize("name", COMMANDS)


def shown(*words: str) -> str:
    """The help, as a terminal of 80 columns shows it."""
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output
    return result.stdout


# Help


def test_no_summary_is_cut():
    """A terminal of 80 columns shows the first sentence about each command whole."""
    listed = shown().partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    for line in listed:
        assert line.endswith(".")
        assert "..." not in line


@each_command
def test_help_fits_and_ends_with_examples(name):
    lines = shown(name).splitlines()
    assert max(map(len, lines)) <= 80
    examples = lines[lines.index("  Examples:") + 1 :]
    assert examples == [f"    {line}" for line in COMMANDS[name][1]]
    assert 1 <= len(examples) <= 2


@each_command
def test_defaults_are_in_brackets(name):
    """Not in words that look like a part of the sentence, and not in typer's own."""
    text = " ".join(shown(name).split())
    assert "[default" not in text
    for found in re.findall(r"default", text):
        assert f"({found}: " in text


@each_command
def test_examples_are_command_lines(name):
    """Every option exists, and every file that ships is there."""
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown(name)))
    for line in COMMANDS[name][1]:
        program, command, *words = shlex.split(line)
        assert (program, command) == ("distilcli", name)
        assert {word for word in words if word.startswith("-")} <= options
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file()


# Completion


def bash(script: str, home: Path) -> str:
    """What a bash with a home of its own prints, in which `distilcli` is this checkout."""
    command = f'distilcli() {{ {shlex.quote(sys.executable)} -m distilcli "$@"; }}\n{script}\n'
    finished = subprocess.run(
        ["bash", "--norc", "-c", command],
        env=environment() | {"HOME": str(home), "SHELL": "/bin/bash", "PATH": os.environ["PATH"]},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_completion_is_installed_and_completes(tmp_path):
    """In bash: commands, options, names of suites; and files where nothing else fits."""
    bash("distilcli --install-completion", tmp_path)
    script = tmp_path / ".bash_completions" / "distilcli.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {".bashrc", ".bash_completions"}
    program = tmp_path / "bin" / "distilcli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m distilcli "$@"\n')
    program.chmod(0o755)
    [function] = re.findall(r"^(\w+)\(\)", script.read_text(), flags=re.MULTILINE)

    def completed(line: str) -> set[str]:
        words = shlex.join([*line.split(), *([""] if line.endswith(" ") else [])])
        last = len(shlex.split(words)) - 1
        return set(
            bash(
                f"unset -f distilcli; source {shlex.quote(str(script))}\n"
                f"COMP_WORDS=({words}); COMP_CWORD={last}\n"
                f"{function} {shlex.quote(str(program))}\n"
                'printf "%s\\n" "${COMPREPLY[@]}"',
                tmp_path,
            ).split()
        )

    assert completed("distilcli ") == set(COMMANDS)
    assert completed("distilcli ev") == {"eval"}
    assert {"--config", "--resume", "--dry-run"} <= completed("distilcli train --")
    assert completed("distilcli suite ") == set(SUITES)
    assert completed("distilcli suite my") == set()


def test_the_suites_that_are_completed_are_those_there_are():
    assert BUILTIN_SUITES == SUITES


# Options that moved


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["--suite", "glue", "m", "--teacher", "t"], "glue m --teacher t"),
        (["m", "--suite", "glue", "--data", "my data"], "glue m --data 'my data'"),
        (["m", "--suite", "s.yaml", "teacher=t", "--seeds", "3"], "s.yaml m teacher=t --seeds 3"),
        (["--suite", "imdb", "--jobs", "2", "--output", "o"], "imdb --jobs 2 --output o"),
        (["--suite", "glue", "m", "--config", "x.yaml"], "glue m"),
        (["m", "--data", "d"], "NAME m --data d"),
        (["m", "--seeds", "many"], "NAME m --seeds many"),
    ],
)
def test_eval_says_what_to_type_for_a_suite(words, typed):
    result = invoke("eval", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "error: suites have a command of their own: distilcli suite",
        f"Type distilcli suite {typed}",
    ]
    assert "--suite" not in shown("eval")


def test_a_suite_has_no_options_of_eval():
    result = invoke("suite", "glue", "m", "--text", "x.txt")
    assert result.exit_code == 2
