"""Commands in processes of their own that must come to their end."""

from pathlib import Path

from tiny_experiments import Finished, run


def command(name: str, config: Path, folder: Path, *more: str) -> list[str]:
    return [name, "--config", str(config), f"output_dir={folder}", *more]


def done(*arguments: str) -> Finished:
    finished = run(*arguments)
    assert finished.code == 0, finished.stderr
    return finished
