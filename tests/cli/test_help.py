"""Before any command begins: version, help, usage errors, and what must not be imported."""

import subprocess
import sys

import pytest
from tiny_experiments import environment

from distilcli import __version__
from distilcli.cli import app

COMMANDS = list(app.COMMANDS)
# What --help must not wait for.
HEAVY = ["torch", "transformers", "datasets", "accelerate", "pydantic", "numpy", "pyarrow", "rich"]


def python(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment() | options,
        capture_output=True,
        text=True,
        check=False,
    )


def test_version():
    """`--version` prints the version of the package and nothing else."""
    finished = python("-m", "distilcli", "--version")
    assert (finished.returncode, finished.stdout.strip()) == (0, __version__)


AND_ITS_IMPORTS = """
import sys
sys.argv = ["distilcli", *sys.argv[1:]]
from distilcli.cli.app import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=str)
def test_help_loads_nothing_heavy(words):
    finished = python("-c", AND_ITS_IMPORTS, *words)
    assert finished.returncode == 0
    assert "Usage" in finished.stdout
    loaded = set(finished.stderr.split())
    assert "distilcli" in loaded
    assert loaded & set(HEAVY) == set()


@pytest.mark.slow
def test_no_command_waits_for_pandas(tiny_world, tmp_path):
    """pyarrow imports it for arrays that are taken from it in the usual way.

    In a new process, because those that tests fork have pandas already.
    """
    words = [str(tiny_world.teacher), "--config", str(tiny_world.config), "--no-speed"]
    finished = python("-c", AND_ITS_IMPORTS, "eval", *words, "--output", str(tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr
    loaded = set(finished.stderr.splitlines()[-1].split())
    assert "pyarrow" in loaded
    assert "pandas" not in loaded


@pytest.mark.parametrize(
    "words",
    [
        ["prepare"],
        ["train", "--no-such-option"],
        ["no-such-command"],
        ["prepare", "--num-proc", "0"],
    ],
    ids=str,
)
def test_usage_errors(words):
    """A wrong command line shows the usage, with exit code 2."""
    finished = python("-m", "distilcli", *words)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert "Usage" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_without_a_command_there_is_help():
    finished = python("-m", "distilcli")
    assert "Usage" in finished.stdout + finished.stderr
    for name in COMMANDS:
        assert name in finished.stdout + finished.stderr
