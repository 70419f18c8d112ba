"""What a run ran on: packages, versions, machine, commit."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from distilcli import __version__

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy")


def describe_environment() -> dict[str, Any]:
    """Versions, hardware, command and commit, as far as they can be known."""
    import torch

    packages = {}
    for package in _PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "distilcli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "command": sys.argv,
        "commit": _commit(),
        "cpu_threads": torch.get_num_threads(),
        "cuda_devices": [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ],
    }


def _commit() -> str | None:
    """The git commit of the working directory, if it is in a repository."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
