"""Keys that settings once had: trees of earlier versions, read with the names of this one.

A section declares them (`Section.renamed`). Someone who writes one is told its new name
(`mistakes.py`); what a run wrote down of its own settings is read.
"""

import copy
from typing import Any

from distilcli.config.fields import Section


def with_new_names(tree: dict[str, Any], kind: type[Section]) -> dict[str, Any]:
    """A copy of `tree`, in which keys that a section once had are those it has now.

    Args:
        tree: settings of `kind`, as YAML gives them, of this version or an earlier one.
        kind: whose sections, and the sections right below each, are looked at.
    """
    renamed: dict[str, Any] = {}
    for name, value in tree.items():
        field = kind.model_fields.get(name)
        section = field.annotation if field else None
        if isinstance(value, dict) and isinstance(section, type) and issubclass(section, Section):
            value = with_new_names(value, section)
        if name not in kind.renamed:
            renamed[name] = copy.deepcopy(value)
    for name in tree.keys() & kind.renamed.keys():
        _put(renamed, kind.renamed[name].split("."), tree[name])
    return renamed


def _put(tree: dict[str, Any], key: list[str], value: Any) -> None:
    """Set a key, unless it is there: then the tree is not of one version, and stays as it is."""
    *sections, last = key
    for part in sections:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            return
        tree = below
    tree.setdefault(last, value)
