"""Which names are of the hub, as far as that can be told without asking it."""

import re
from pathlib import Path

from distilcli.files.paths import BUILTIN_PREFIX, resolve_path

# What the hub lets a repository be called; a path with a dot or a slash in front is none.
_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]{0,95}", flags=re.ASCII)
_CACHED = re.compile(r"(?:^|/)models--([^/]+)/snapshots/([^/]+)(?:/|$)")


def may_be_of_hub(name: str) -> bool:
    """Whether a name could be that of a repository on the hub, and nothing here has it."""
    if name.startswith(BUILTIN_PREFIX) or not is_repository_name(name):
        return False
    return not Path(resolve_path(name)).exists()


def is_repository_name(name: str) -> bool:
    """Whether the hub could have a repository of this name."""
    is_one = _NAME.fullmatch(name) is not None and not name.endswith((".git", ".", "-"))
    return is_one and "--" not in name and ".." not in name


def cached_model(place: str) -> tuple[str, str] | None:
    """Repository and commit of a file in the cache of the hub's client; None for any other file."""
    match = _CACHED.search(place)
    return None if match is None else (match[1].replace("--", "/", 1), match[2])
