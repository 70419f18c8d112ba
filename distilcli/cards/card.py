"""One card: what the hub reads of it as YAML, then Markdown for people; read and written.

A card that a person has edited is theirs: it is never replaced (`files/signed_text.py`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from distilcli.errors import WriteError
from distilcli.files.atomic import unwritten, write_atomically
from distilcli.files.signed_text import is_signed_file, signed, unsigned

CARD = "README.md"
# What stands in the code of a card until the model has a name on the hub.
HERE = "path/to/this/folder"
# What opens a file that a card may be: anything longer is none.
_MAX_BYTES = 2**20
_BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", flags=re.DOTALL)


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        metadata: what the hub reads; entries without a value are left out.
        body: Markdown.
    """

    metadata: Mapping[str, Any]
    body: str

    @property
    def text(self) -> str:
        """All of it, with a last line by which it is known again."""
        said = {key: value for key, value in self.metadata.items() if value not in (None, [], "")}
        block = yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=100)
        return signed(f"---\n{block}---\n\n{self.body.strip()}\n")


class Written(Enum):
    """What became of a card."""

    WRITTEN = "written"
    UNCHANGED = "as it was"
    KEPT = "kept, because it is not as distilcli wrote it"


def write_card(folder: Path, card: Card) -> Written:
    """Write README.md into the folder of a model, unless a person has written or edited one there.

    The file is written whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    path = folder / CARD
    if path.exists() or path.is_symlink():
        if not is_signed_file(path):
            return Written.KEPT
        if path.read_text(encoding="utf-8") == card.text:
            return Written.UNCHANGED
    _write(path, card.text)
    return Written.WRITTEN


def name_in_card(path: Path, repository: str) -> None:
    """Write the hub's name of a model into the code of its card, unless a person has edited that.

    Raises:
        WriteError: it cannot be written.
    """
    if is_signed_file(path):
        text = unsigned(path.read_text(encoding="utf-8")).replace(HERE, repository)
        _write(path, signed(text))


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text)
    except OSError as error:
        raise unwritten(
            f"{path}: the card", error, WriteError, "Free disk space or fix the permissions."
        ) from error


def metadata_of(path: Path) -> dict[str, Any]:
    """What the YAML of a card says; nothing where there is no card, or none that can be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        match = _BLOCK.match(path.read_bytes().decode("utf-8"))
        found = yaml.safe_load(match[1]) if match is not None else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def own_metadata(folder: Path) -> dict[str, Any]:
    """What the card of a model says, if it is as this tool wrote it; else nothing."""
    return metadata_of(folder / CARD) if is_signed_file(folder / CARD) else {}
