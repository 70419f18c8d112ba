"""What README.md tells people to type works: its commands run, its YAML and Python are valid.

The commands run on the built-in teacher and text, with overrides that make them small.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from distilcli.config.reading import load_any

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["train.max_steps=2", "train.global_batch_size=8", "validation.num_sequences=8"]


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """Every command line of the bash blocks."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory like a clone's, where `runs` and `data` may be written."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def runnable(command: list[str]) -> list[str]:
    """The same command through this interpreter, and small."""
    if command[0] == "torchrun":
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*start, *command[1:], *SMALL]
    small = ["--num-sequences", "8"] if command[1] == "eval" else SMALL
    return [sys.executable, "-m", "distilcli", *command[1:], *small]


@pytest.mark.slow
def test_commands_run_in_order(folder: Path) -> None:
    ours = [command for command in commands() if command[0] in ("distilcli", "torchrun")]
    assert [command[1] for command in ours[:4]] == ["prepare", "init-student", "train", "eval"]
    for command in ours:
        if any("quickstart" in word for word in command):  # the others need more than the package
            run(runnable(command), folder)
    for block in blocks("python"):
        assert "the capital of france" in run([sys.executable, "-c", block], folder)


def test_scripts_exist() -> None:
    """Every script that the README calls is there."""
    scripts = [command[1] for command in commands() if command[0] == "bash"]
    assert scripts
    for script in scripts:
        assert (ROOT / script).is_file()


def test_configs_that_are_named_exist() -> None:
    names = re.findall(r"configs/[\w.-]+\.yaml", README)
    assert names
    for name in names:
        assert (ROOT / name).is_file(), name


def test_yaml_blocks_are_experiments(tmp_path: Path) -> None:
    assert blocks("yaml")
    for index, block in enumerate(blocks("yaml")):
        path = tmp_path / f"{index}.yaml"
        path.write_text(block, encoding="utf-8")
        load_any(path)


def test_every_module_is_on_the_map() -> None:
    names = {path.name for path in (ROOT / "distilcli").glob("*.py")} - {"__init__.py"}
    missing = {name for name in names - {"__main__.py"} if f"`{name}`" not in README}
    assert not missing
