"""Overrides on the command line: `key.sub=value`, whose values are YAML."""

import copy
from dataclasses import dataclass
from typing import Any

import yaml

from distilcli.config.yaml_tree import MAX_DEPTH, parse_yaml, problem_of
from distilcli.errors import ConfigError, shortened

# A key as the user writes it: optim.lr is ("optim", "lr"), data.sources.0 ("data", "sources", 0).
Key = tuple[str | int, ...]
MAX_SHOWN = 200  # characters of an override or a value in a message


@dataclass(frozen=True)
class Override:
    """One override: as it is written, and what it sets to what."""

    text: str
    key: Key
    value: Any


def named(text: str) -> str:
    """An override in a message."""
    return f"override {shortened(text, MAX_SHOWN)!r}"


def parse_key(dotted: str) -> Key:
    """The key that is written with dots between its parts."""
    return tuple(int(part) if part.isdecimal() else part for part in dotted.split("."))


def parse_override(text: str) -> Override:
    """Read `key.sub=value`.

    Raises:
        ConfigError: it is not of that form, or its value is not YAML.
    """
    dotted, equals, value = text.partition("=")
    parts = dotted.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{named(text)}: not of the form key.sub=value")
    if len(parts) > MAX_DEPTH:
        raise ConfigError(f"{named(text)}: no key is more than {MAX_DEPTH} deep")
    try:
        return Override(text, parse_key(dotted), parse_yaml(value))
    except yaml.YAMLError as error:
        problem = problem_of(error)
        raise ConfigError(f"{named(text)}: the value is not YAML ({problem})") from error


def lay_over(tree: dict[str, Any], override: Override) -> None:
    """Set one key of `tree`. What is on the way to it is copied: the file's own tree stays."""
    node: Any = tree
    for depth, part in enumerate(override.key):
        above = dotted_key(override.key[:depth])
        if isinstance(node, list) and not (isinstance(part, int) and part < len(node)):
            count = f"{len(node)} {'entry' if len(node) == 1 else 'entries'}"
            raise ConfigError(
                f"{named(override.text)}: {above} has {count}, and {part} is not one of them",
                "Count from 0.",
            )
        if depth == len(override.key) - 1:
            node[part] = override.value
            return
        child = node.get(part) if isinstance(node, dict) else node[part]
        if child is not None and not isinstance(child, (dict, list)):
            below = dotted_key(override.key[: depth + 1])
            raise ConfigError(f"{named(override.text)}: {below} has no keys below it")
        node[part] = {} if child is None else copy.copy(child)
        node = node[part]


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The settings of a section, where those of `above` count; likewise in sections below it.

    A section of another `kind` takes the place of the one below: its keys mean something else.
    """
    tree = dict(below)
    for key, value in above.items():
        lower = tree.get(key)
        if isinstance(value, dict) and isinstance(lower, dict) and not _other_kind(lower, value):
            value = laid_over(lower, value)
        tree[key] = value
    return tree


def _other_kind(below: dict[str, Any], above: dict[str, Any]) -> bool:
    return "kind" in above and above["kind"] != below.get("kind")


def is_in(tree: Any, key: Key) -> bool:
    """Whether a tree has a key."""
    for part in key:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def dotted_key(key: Key) -> str:
    """A key as the user writes it."""
    return ".".join(str(part) for part in key)
