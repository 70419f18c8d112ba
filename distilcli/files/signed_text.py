"""Markdown that says by itself whether it is as this tool wrote it.

Its last line is a comment with a digest of all that stands above. Whoever changes a word makes the
text their own, and no command replaces it any more. One file holds both, so that no kill comes
between them.
"""

import re
from pathlib import Path

from distilcli.files.digests import text_digest

_SUFFIX = ".md"
_MAX_BYTES = 2**20
_LINE = "<!-- Written by distilcli. Edit it, and it is yours: it is not replaced. {} -->\n"
_SIGNED = re.compile(re.escape(_LINE).replace(re.escape("{}"), "([0-9a-f]{32})"))


def signed(text: str) -> str:
    """The text with a last line that tells whether it was changed since."""
    text = text.rstrip("\n") + "\n\n"
    return text + _LINE.format(text_digest(text))


def unsigned(text: str) -> str:
    """A text without the last line that `signed` gave it."""
    return text[: text.rstrip("\n").rfind("\n") + 1]


def is_signed(text: str) -> bool:
    """Whether a text is as `signed` gave it."""
    start = text.rstrip("\n").rfind("\n") + 1
    match = _SIGNED.fullmatch(text[start:])
    return match is not None and match[1] == text_digest(text[:start])


def is_signed_file(path: Path) -> bool:
    """Whether a file holds Markdown as `signed` gave it; one that cannot be read does not."""
    if path.suffix != _SUFFIX or path.is_symlink():
        return False
    try:
        if path.stat().st_size > _MAX_BYTES:
            return False
        return is_signed(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError):
        return False
