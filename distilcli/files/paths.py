"""Paths as people write them, in settings and on the command line: read in this one place.

`~` and `~name` are home folders everywhere, and what no file system takes is refused before
anything else looks at it.
"""

import os
from pathlib import Path

from distilcli.errors import ConfigError

# Of what file systems take, in bytes: 255 a name and 4,095 a path. Beside what is written, and
# below it, there are longer names.
_MAX_NAME, _MAX_OUTPUT_NAME, _MAX_PATH = 255, 220, 3800


def checked_path(text: str) -> str:
    """A path or glob to read from, as it is written; `expanded_path` follows when it is read.

    What a token store is made of is written down as it is here, and stays the same for another
    user with another home.

    Raises:
        ValueError: no file system takes it; the message says why, without the path.
    """
    return _checked(text, _MAX_NAME)


def expanded_path(text: str) -> str:
    """A path to read from, or a hub name, with the home folder in place of `~`.

    Raises:
        ValueError: see `checked_path`; or nobody has that home.
    """
    return _expanded(_checked(text, _MAX_NAME), _MAX_NAME)


def output_path(text: str) -> str:
    """A path to write to, with the home folder in place of `~`.

    Raises:
        ValueError: see `expanded_path`; shorter names are asked for.
    """
    return _expanded(_checked(text, _MAX_OUTPUT_NAME), _MAX_OUTPUT_NAME)


def option_path(option: str, text: str) -> str:
    """`expanded_path` for an option of the command line.

    Raises:
        ConfigError: naming the option.
    """
    try:
        return expanded_path(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error} (given: {_shown(text)})") from None


def option_output(option: str, folder: Path) -> Path:
    """`output_path` for an option of the command line.

    Raises:
        ConfigError: naming the option.
    """
    try:
        return Path(output_path(str(folder)))
    except ValueError as error:
        raise ConfigError(f"{option}: {error} (given: {_shown(str(folder))})") from None


def is_override(word: str) -> bool:
    """Whether a word of a command line is `key.sub=value`, not a folder with `=` in its path."""
    key, equals, _ = word.partition("=")
    if not equals or "/" in key or key.startswith("~"):
        return False
    try:
        return not Path(expanded_path(word)).exists()
    except ValueError:  # as long as a value may be
        return True


def _checked(text: str, max_name: int) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    if "\0" in text:
        raise ValueError("holds a NUL character, which no path can")
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8 text; choose another name") from None
    longest = max(map(len, encoded.split(b"/")))
    if longest > max_name:
        raise ValueError(f"has a name of {longest} bytes in it, and {max_name} is the most")
    if len(encoded) > _MAX_PATH:
        raise ValueError(f"is {len(encoded):,} bytes long, and {_MAX_PATH:,} is the most")
    return text


def _expanded(text: str, max_name: int) -> str:
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and text.startswith("~"):
        raise ValueError("begins with the home folder of a user that is not known here")
    return _checked(expanded, max_name)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 100 else f"{text[:100]}...")


BUILTIN_PREFIX = "builtin:"
BUILTIN_FOLDER = Path(__file__).parent.parent / "builtin"


def resolve_path(name: str) -> str:
    """The path that `name` stands for: `builtin:X` is X in the package, `~` the home folder."""
    if name.startswith(BUILTIN_PREFIX):
        return str(BUILTIN_FOLDER / name.removeprefix(BUILTIN_PREFIX))
    return os.path.expanduser(name)
