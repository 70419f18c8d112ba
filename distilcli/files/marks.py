"""The mark of a folder that this tool wrote, without which it is neither replaced nor removed.

`distilcli.json` says which version wrote the folder, what the folder is, and the SHA-256 of every
file in it; transformers passes over it. A card, which comes later and is written anew, says by
itself whether it is as this tool wrote it (`signed_text.py`). A checkpoint has `checkpoint.json`
instead, a token store `settings.json`, a run folder `environment.json`.
"""

from pathlib import Path
from typing import Any

from distilcli import __version__
from distilcli.errors import RunFolderError
from distilcli.files.digests import sha256_of_file
from distilcli.files.json_text import parse_json, to_json
from distilcli.files.signed_text import is_signed_file

MARK = "distilcli.json"
# By which a file is known as a report, in HTML or Markdown, and how far from its beginning.
REPORT_MARK, REPORT_MARK_IN_MARKDOWN = "distilcli report", "<!-- distilcli report -->"
FIGURES = "report figures"  # the kind of folder that those of a report in Markdown lie in
_REPORT_OPENING = 2000  # characters
_SHOWN = 5  # foreign files that a message names


def write_mark(folder: Path, kind: str) -> None:
    """Mark a folder, with all that is in it now.

    Hashing takes about a second for each GB.

    Args:
        folder: just written.
        kind: what it is, such as "student".
    """
    files = {name: sha256_of_file(folder / name) for name in _files_below(folder)}
    mark = {"distilcli": __version__, "kind": kind, "files": files}
    (folder / MARK).write_text(to_json(mark, indent=1) + "\n", encoding="utf-8")


def read_mark(folder: Path) -> dict[str, Any] | None:
    """The mark of a folder; None where there is none that can be read."""
    try:
        mark = parse_json((folder / MARK).read_bytes())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(mark, dict) and {"distilcli", "kind"} <= mark.keys()
    return mark if is_ours else None


def changed_files(folder: Path) -> list[str]:
    """Names of the files of a marked folder that are not what they were; none without a mark."""
    mark = read_mark(folder)
    own = {} if mark is None else mark.get("files")
    if not isinstance(own, dict):
        return []
    return [name for name, digest in own.items() if _is_changed(folder / name, digest)]


def refuse_foreign(folder: Path, kind: str = "student") -> None:
    """Refuse to replace or remove a folder in which there is anything that this tool did not write.

    What was changed since is someone else's too. A folder that is empty or not there may be made.

    Args:
        folder: to be replaced or removed.
        kind: what it must be by its mark: an export never takes the place of a student.

    Raises:
        RunFolderError: naming what there is.
    """
    if not folder.is_dir():
        if folder.exists():
            raise RunFolderError(f"{folder}: is a file, not a folder", "Name another folder.")
        return
    mark = read_mark(folder)
    if mark is not None and mark["kind"] != kind:
        raise RunFolderError(
            f"{folder}: not replaced, because it is of another kind ({mark['kind']}, not {kind})",
            "Name another folder.",
        )
    found = _foreign_entries(folder, mark)
    if not found:
        return
    named = ", ".join(found[:_SHOWN])
    if len(found) > _SHOWN:
        named += f" and {len(found) - _SHOWN} more"
    if mark is None:
        raise RunFolderError(
            f"{folder}: not replaced, because nothing in it says that distilcli wrote it (no "
            f"{MARK}); it holds {named}",
            "Name another folder. If you do not need this one, or if an earlier version of "
            "distilcli wrote it, remove it yourself.",
        )
    raise RunFolderError(
        f"{folder}: not replaced, because it holds what distilcli did not write: {named}",
        "Move that elsewhere, or name another folder.",
    )


def _foreign_entries(folder: Path, mark: dict[str, Any] | None) -> list[str]:
    """Names of the files and empty folders in a folder that are not as its mark says."""
    own: dict[str, str] = {}
    if mark is not None and isinstance(mark.get("files"), dict):
        own = mark["files"]
    found = []
    for name in _files_below(folder):
        if name == MARK and mark is not None:
            continue
        if is_signed_file(folder / name):
            continue
        if name not in own:
            found.append(name)
        elif _is_changed(folder / name, own[name]):
            found.append(f"{name} (changed since)")
    return found


def _is_changed(path: Path, digest: str) -> bool:
    """Whether a file is another one than was written; what cannot be read counts as that."""
    try:
        return path.is_symlink() or not path.is_file() or sha256_of_file(path) != digest
    except OSError:
        return True


def _files_below(folder: Path) -> list[str]:
    """Relative names of all that is no folder with something in it, at any depth."""
    names = []
    for path in sorted(folder.rglob("*")):
        is_folder = path.is_dir() and not path.is_symlink()
        if not is_folder or not any(path.iterdir()):
            names.append(f"{path.relative_to(folder)}{'/' if is_folder else ''}")
    return names


def is_report(path: Path) -> bool:
    """Whether a file says that it is a report of ours."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            opening = file.read(_REPORT_OPENING)
    except OSError:
        return False
    return f'content="{REPORT_MARK}"' in opening or opening.startswith(REPORT_MARK_IN_MARKDOWN)
