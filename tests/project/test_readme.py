"""What README.md and the pages below docs/ tell people to type works: it is run here.

The commands run on the built-in teacher and text, with overrides that make them small, each in a
forked process, because imports would take longer than the work. What can be checked without running
anything is in `test_docs.py`.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_experiments import start_function

from distilcli.cli.app import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
SMALL = ["train.max_steps=2", "train.global_batch_size=8", "validation.num_sequences=8"]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Every command line of the bash blocks."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory like a clone's, where `runs` and `data` may be written."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def run(command: list[str], folder: Path) -> None:
    """A command of another program than distilcli."""
    subprocess.run(command, cwd=folder, check=True)


def run_forked(function: Callable[..., None], folder: Path, *arguments: str) -> str:
    """Call a function of this file in a process in that folder; what it printed."""
    finished = start_function(function, (str(folder), *arguments)).wait()
    assert finished.code == 0, finished.stderr
    return finished.stdout


def command_line(folder: str, *arguments: str) -> None:
    """What `distilcli ARGUMENTS` does."""
    os.chdir(folder)
    sys.argv = ["distilcli", *arguments]
    main()


def python(folder: str, block: str) -> None:
    """What a new Python does with a block."""
    os.chdir(folder)
    exec(block, {"__name__": "__main__"})


def made_small(command: list[str]) -> list[str]:
    """The arguments of a command of distilcli, and some that make it small."""
    small = ["--num-sequences", "8", "--no-speed"] if command[1] == "eval" else SMALL
    return [*command[1:], *small]


@pytest.mark.slow
def test_commands_run_in_order(folder: Path) -> None:
    """Those of README, then those that make the table of the quickstart among the results."""
    ours = [line for line in commands(README) if line[0] in ("distilcli", "torchrun")]
    assert [command[1] for command in ours[:3]] == ["prepare", "train", "eval"]
    more = [line for line in commands(RESULTS) if line[0] == "distilcli"]
    assert [command[1] for command in more[:3]] == ["train", "train", "eval"]
    for command in ours + more:
        if any("quickstart" in word for word in command):  # the others need more than the package
            assert command[0] == "distilcli"
            run_forked(command_line, folder, *made_small(command))
    for block in blocks(README, "python"):
        assert "the capital of france" in run_forked(python, folder, block)


@pytest.mark.slow
def test_tutorial_can_be_followed(tmp_path: Path) -> None:
    """Every block of the page in its order: files are saved, commands run, Python too."""
    (tmp_path / "distilcli").symlink_to(ROOT / "distilcli")
    text = TUTORIAL[: TUTORIAL.index("## If you have no BERT")]
    for language, block in re.findall(r"```(bash|python|yaml)\n(.*?)```", text, flags=re.DOTALL):
        if language == "yaml":
            name = block.split()[1]
            (tmp_path / name).write_text(block, encoding="utf-8")
        elif language == "python":
            run_forked(python, tmp_path, block)
        for command in map(shlex.split, block.splitlines() if language == "bash" else ()):
            if command[0] == "distilcli" and len(command) > 2:
                run_forked(command_line, tmp_path, *made_small(command))
            elif command[0] == "cp":
                run(command, tmp_path)
    assert (tmp_path / "runs" / "my-student" / "results.json").is_file()


def test_scripts_exist() -> None:
    """Every script that the README calls is there."""
    scripts = [command[1] for command in commands(README) if command[0] == "bash"]
    scripts += re.findall(r"`bash (scripts/[\w./]+)", README)
    assert scripts
    for script in scripts:
        assert (ROOT / script).is_file()


def test_configs_that_are_named_exist() -> None:
    names = re.findall(r"configs/[\w.-]+\.yaml", README)
    assert names
    for name in names:
        assert (ROOT / name).is_file(), name
