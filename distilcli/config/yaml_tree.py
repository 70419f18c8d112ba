"""YAML as people write it into settings: read safely, strictly and in bounded time and memory.

A key given twice is an error, and so is a tree that is deeper or, once its aliases are followed,
larger than any settings are: nine lines of aliases may stand for a thousand million entries.
"""

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.events import AliasEvent

from distilcli.errors import ConfigError

MAX_DEPTH = 50
_MAX_NODES = 100_000
_MAX_BYTES = 4 * 2**20


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error; PyYAML would take the last one."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # of each finished node: nodes, levels

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias, mark = self.check_event(AliasEvent), self.peek_event().start_mark
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, _TOO_DEEP, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise ComposerError(None, None, "an alias stands inside what it names", mark)
        self._sizes.setdefault(id(node), self._size(node))
        nodes, levels = self._sizes[id(node)]
        if levels > MAX_DEPTH:
            raise ComposerError(None, None, _TOO_DEEP, mark)
        if nodes > _MAX_NODES:
            problem = f"more than {_MAX_NODES:,} entries, aliases counted in"
            raise ComposerError(None, None, problem, mark)
        return node

    def _size(self, node: yaml.Node | None) -> tuple[int, int]:
        """Nodes and levels of a node, whose children are known; an alias counts as what it names.

        Counted from below, not walked: walking is what an alias of aliases makes endless.
        """
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        sizes = [self._sizes[id(child)] for child in below]
        nodes = 1 + sum(size for size, _ in sizes)
        return nodes, 1 + max((levels for _, levels in sizes), default=0)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first_lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                named, line = (key.tag, key.value), key.start_mark.line + 1
                if named in first_lines:
                    problem = f"{key.value} is given twice, first in line {first_lines[named]}"
                    raise ComposerError(None, None, problem, key.start_mark)
                first_lines[named] = line
        return node


_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"


def parse_yaml(text: str) -> Any:
    """What a text of YAML says.

    Raises:
        yaml.YAMLError: it is not YAML, too deep or too large, or has a key twice.
    """
    loader = None
    try:
        loader = _StrictLoader(text)
        return loader.get_single_data()
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        # A date with a month 13, a number of ten thousand digits, a tag with a foreign value.
        raise yaml.YAMLError(str(error)) from error
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml(path: Path, hint: str = "") -> dict[str, Any]:
    """The mapping that a file holds.

    Args:
        path: of the file.
        hint: what to do where there is no such file.

    Raises:
        ConfigError: it cannot be read, is not YAML in UTF-8 or no mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(
            f"{path}: larger than {_MAX_BYTES // 2**20} MiB: this is no settings file"
        )
    try:
        tree = parse_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8", "Save the file as UTF-8.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = problem_of(error) if mark else f"not YAML ({problem_of(error)})"
        raise ConfigError(f"{where}: {problem}", "Correct the YAML.") from error
    if not isinstance(tree, dict):
        found = "the file is empty; " if tree is None else ""
        raise ConfigError(f"{path}: {found}expected keys and values (name: ..., teacher: ...)")
    return tree


def problem_of(error: yaml.YAMLError) -> str:
    """What is wrong with the YAML, in one line."""
    return getattr(error, "problem", None) or " ".join(str(error).split())
