"""Paths as others may see them, in reports, cards and export.json: one rule for all of these.

A path tells of the machine that it is on, and these files are for others. What lies in the working
folder is shown by its path from there. Of everything else only the name is shown, with the folder
above it where the name alone says nothing: `sst2-teacher/student`. Names of the hub and of built-in
models stay as they are.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilcli.files.paths import BUILTIN_FOLDER, BUILTIN_PREFIX

# What many models have a folder or a file of.
_GENERIC = re.compile(
    r"student|initial-student|model|checkpoint|final|best|snapshots|[0-9a-f]{40}"
    r"|config\.json|tokenizer\.json|model(-\d+-of-\d+)?\.safetensors"
)
# A path that leads out of the working folder, or says that it begins at the root.
_OUTSIDE = re.compile(r"(?:file://)?(?:/(?!/)|~[\w.-]*/|\.\./)")
# The same within a text: up to what cannot be a part of it, or is more likely to end it.
_WITHIN = re.compile(rf"(?<![^\s\"'`=,:;(\[{{<])({_OUTSIDE.pattern}[^\s\"'`,:;)\]}}>]+)")
_KEY = re.compile(r"[\w.-]+=")


def short_name(path: str) -> str:
    """What a folder or file is called, without the folders above it that lead there."""
    if path.startswith(BUILTIN_PREFIX):
        return path
    parts = [part for part in Path(path).parts if part not in ("/", "..", "~")]
    first = len(parts) - 1
    while first > 0 and _GENERIC.fullmatch(parts[first]):
        first -= 1
    return "/".join(parts[max(0, first) :]) or path


def shown_path(path: str) -> str:
    """A path as others may see it; what is none stays as it is."""
    normal = os.path.normpath(path) if path.startswith(".") or "/../" in path else path
    if _OUTSIDE.match(normal) is None:
        return path
    expanded = os.path.expanduser(normal.removeprefix("file://"))
    absolute = expanded if expanded.startswith("~") else os.path.abspath(expanded)
    for folder, prefix in ((str(BUILTIN_FOLDER), BUILTIN_PREFIX), (os.getcwd(), "")):
        if folder != "/" and absolute.startswith(f"{folder}/"):
            return prefix + absolute[len(folder) + 1 :]
    return short_name(normal)


def shown_text(text: str) -> str:
    """A text with the paths in it as others may see them.

    A text that begins as a path does is one, blanks and all, unless it is a list with commas.
    """
    if ", " not in text and (path := shown_path(text)) != text:
        return path
    return _WITHIN.sub(lambda match: shown_path(match[1]), text)


def shown_words(words: Sequence[str]) -> list[str]:
    """The words of a command line, with the paths in them as others may see them."""
    found = []
    for word in words:
        key = _KEY.match(word)
        start = key.end() if key is not None else 0
        found.append(word[:start] + shown_text(word[start:]))
    return found


def shown_tree(value: Any) -> Any:
    """A tree of JSON or YAML, with the paths in its texts as others may see them."""
    if isinstance(value, dict):
        return {key: shown_tree(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [shown_tree(one) for one in value]
    return shown_text(value) if isinstance(value, str) else value
