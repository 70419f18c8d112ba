"""Commands in this process that must be refused."""

from pathlib import Path

from tiny_experiments import TinyWorld
from typer.testing import CliRunner, Result

from distilcli.cli.app import app


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str, words: list[str], code: int = 2) -> str:
    """Run a command that must fail; its error line, which must have these words."""
    result = invoke(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    missing = [word for word in words if word not in errors[0]]
    assert not missing, errors[0]
    return result.stderr


def train(world: TinyWorld, folder: Path, *more: str) -> list[str]:
    return ["train", "--config", str(world.config), f"output_dir={folder}", *more]
