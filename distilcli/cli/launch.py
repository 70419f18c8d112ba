"""What a launcher (torchrun, accelerate) has told this process, and how to launch it again.

Read without torch, so that a mistake is found before anything waits for a process that never comes.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from distilcli.errors import ConfigError

_NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MAX_PROCESSES = 2**20
_MAX_PORT = 2**16 - 1
_HINT = (
    "Launch with torchrun or accelerate, which set all of them, or unset "
    "RANK, LOCAL_RANK and WORLD_SIZE."
)


def check_launch() -> None:
    """Refuse an environment that says half of what a launcher says.

    torch would wait for processes that nobody started, and a process that only believes to be the
    second of two would print nothing.

    Raises:
        ConfigError: a variable is missing, is no number, or the numbers do not fit together.
    """
    world_size = _number("WORLD_SIZE", 1, _MAX_PROCESSES) if "WORLD_SIZE" in os.environ else 1
    if "LOCAL_RANK" not in os.environ and os.environ.get("RANK", "0") == "0" and world_size == 1:
        return  # a cluster may say of a single process that it is one
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if missing:
        found = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ]
        raise ConfigError(
            f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'} set, but "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not",
            _HINT,
        )
    _number("RANK", 0, world_size - 1)
    _number("LOCAL_RANK", 0, world_size - 1)
    _number("MASTER_PORT", 0, _MAX_PORT)


def is_main_process() -> bool:
    """Whether this process is the one that prints; so is one whose launch makes no sense."""
    try:
        check_launch()
    except ConfigError:
        return True
    return os.environ.get("RANK", "0") == "0"


def _number(name: str, lowest: int, highest: int) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal() and lowest <= int(text) <= highest):
        raise ConfigError(f"{name} is {text!r}, not a number from {lowest} to {highest}", _HINT)
    return int(text)


def resume_command(config: Path, overrides: Sequence[str]) -> str:
    """What to type to go on, launched as this run was; on several hosts, what to type on one."""
    return relaunched(["train", "--config", str(config), *overrides, "--resume"])


def relaunched(words: Sequence[str]) -> str:
    """A command line of distilcli, launched as this process was.

    Args:
        words: what follows `distilcli`.
    """
    command = ["distilcli"]
    comment = ""
    if (processes := os.environ.get("LOCAL_WORLD_SIZE")) is not None:
        command = ["torchrun", "--nproc_per_node", processes, "-m", "distilcli"]
        if (hosts := os.environ.get("GROUP_WORLD_SIZE", "1")) != "1":
            place = ["--nnodes", hosts, "--node_rank", os.environ["GROUP_RANK"]]
            place += ["--master_addr", os.environ["MASTER_ADDR"]]
            place += ["--master_port", os.environ["MASTER_PORT"]]
            command[1:1] = place
            comment = "  # and on every other host, with its own --node_rank"
    return shlex.join([*command, *words]) + comment
